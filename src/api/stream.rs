//! A client's socket with time-outs for a client that is too slow to send a head or to take an answer.
//!
//! hyper has one time-out for a head, which also runs while a connection is idle between two requests. This socket
//! separates the two: a head that has begun must end soon, and an idle connection may stay.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::limits::MemoryPermit;
use crate::tls::Channel;

/// Minimum bytes per second of an answer that a client takes, averaged over the time-out for writing.
const MIN_BYTES_PER_SECOND: u64 = 8 * 1024;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// Time for a head, from its first byte to its end.
    pub(crate) header: Duration,
    /// Time until the first byte of the next head.
    pub(crate) keep_alive: Duration,
    /// Window in which an answer must make progress, at 8 KiB/s.
    pub(crate) write: Duration,
}

/// The phase of a connection: idle, in a head, or in a request. The service and the socket share it.
#[derive(Clone)]
pub(super) struct Phase(Arc<AtomicU8>);

impl Phase {
    const IDLE: u8 = 0;
    const HEAD: u8 = 1;
    const REQUEST: u8 = 2;

    pub(super) fn idle() -> Self {
        Self(Arc::new(AtomicU8::new(Self::IDLE)))
    }

    /// Records that a head has arrived whole. Its request, or the protocol that follows, has time-outs of its own.
    pub(super) fn begin_request(&self) {
        self.0.store(Self::REQUEST, Ordering::Relaxed);
    }

    pub(super) fn end_request(&self) {
        self.0.store(Self::IDLE, Ordering::Relaxed);
    }

    /// Returns whether no request is in progress.
    pub(super) fn is_answered(&self) -> bool {
        self.get() != Self::REQUEST
    }

    /// Returns whether a head has arrived in part only.
    pub(super) fn is_head(&self) -> bool {
        self.get() == Self::HEAD
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

pub(super) struct ClientStream {
    socket: Channel,
    phase: Phase,
    timeouts: Timeouts,
    /// Bytes of the arriving head, and of what came with its end.
    head_bytes: usize,
    /// Permit for the memory that the head takes until its request is answered.
    head_memory: MemoryPermit,
    /// Ends the wait for a head or for its first byte.
    head_deadline: Pin<Box<Sleep>>,
    /// The phase that `head_deadline` belongs to.
    awaited: u8,
    /// Whether something was written since the last flush.
    is_writing: bool,
    /// The window in which the client must take the next part of an answer. Absent until a write blocks.
    window: Option<Window>,
}

struct Window {
    end: Pin<Box<Sleep>>,
    written: u64,
}

impl ClientStream {
    pub(super) fn new(
        socket: Channel,
        phase: Phase,
        timeouts: Timeouts,
        head_memory: MemoryPermit,
    ) -> Self {
        let head_deadline = Box::pin(sleep_until(Instant::now() + timeouts.keep_alive));
        Self {
            socket,
            phase,
            timeouts,
            head_bytes: 0,
            head_memory,
            head_deadline,
            awaited: Phase::IDLE,
            is_writing: false,
            window: None,
        }
    }

    fn await_phase(&mut self, phase: u8, timeout: Duration) {
        self.awaited = phase;
        self.head_deadline.as_mut().reset(Instant::now() + timeout);
    }

    /// Counts received bytes. The first ones on an idle connection begin a head. Fails with `OutOfMemory` where the
    /// memory budget has no room for a longer head at the moment.
    fn has_read(&mut self, bytes: usize) -> io::Result<()> {
        if self.phase.get() == Phase::IDLE {
            self.phase.0.store(Phase::HEAD, Ordering::Relaxed);
            self.await_phase(Phase::HEAD, self.timeouts.header);
            self.head_bytes = 0;
        }
        if self.phase.get() == Phase::HEAD {
            self.head_bytes += bytes;
            // A head is kept twice: as received bytes, and as the map of its fields.
            if !self.head_memory.resize(2 * self.head_bytes) {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
        }
        Ok(())
    }

    /// Polls the deadline while nothing arrives. Ready with an error once a head, or its first byte, takes too long.
    fn poll_head_deadline(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let phase = self.phase.get();
        if phase == Phase::REQUEST || self.is_writing {
            self.awaited = Phase::REQUEST;
            return Poll::Pending;
        }
        if phase == Phase::IDLE && self.head_bytes > 0 {
            self.head_bytes = 0;
            // Shrinking a permit never fails.
            let _ = self.head_memory.resize(0);
        }
        if phase != self.awaited {
            let begun = phase == Phase::HEAD;
            let timeout = if begun { self.timeouts.header } else { self.timeouts.keep_alive };
            self.await_phase(phase, timeout);
        }
        ready!(self.head_deadline.as_mut().poll(context));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// Polls the window while the client has no room for more. Ready with an error once it takes less than the minimum.
    fn poll_window(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let length = self.timeouts.write;
        let window = self.window.get_or_insert_with(|| Window {
            end: Box::pin(sleep_until(Instant::now() + length)),
            written: 0,
        });
        while window.end.as_mut().poll(context).is_ready() {
            if window.written < MIN_BYTES_PER_SECOND * length.as_secs() {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            window.written = 0;
            window.end.as_mut().reset(Instant::now() + length);
        }
        Poll::Pending
    }

    fn poll_written(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.is_writing = true;
        match written {
            Poll::Ready(Ok(bytes)) => {
                if let Some(window) = &mut self.window {
                    window.written += u64::try_from(bytes).unwrap_or(u64::MAX);
                }
                Poll::Ready(Ok(bytes))
            }
            Poll::Pending => self.poll_window(context).map(Err),
            failed @ Poll::Ready(Err(_)) => failed,
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.socket).poll_read(context, buffer) {
            Poll::Ready(read) => {
                let bytes = buffer.filled().len() - before;
                let admitted = if bytes > 0 { self.has_read(bytes) } else { Ok(()) };
                Poll::Ready(read.and(admitted))
            }
            Poll::Pending => self.poll_head_deadline(context).map(Err),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.poll_written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, bytes);
        self.poll_written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(context);
        if flushed.is_pending() {
            // Only TLS has something to flush: its last records.
            return self.poll_window(context).map(Err);
        }
        self.is_writing = false;
        self.window = None;
        // hyper may have polled for the next head before it answered the last one. This sets the wake-up at the
        // deadline.
        drop(self.poll_head_deadline(context));
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
