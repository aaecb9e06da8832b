//! The rate limit for reading from a listener's client. Excess waits in the buffers of the network as backpressure. The
//! client is slowed down, not disconnected, and still receives what it is sent.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{self, AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Messages, pings and pongs that are read from one client per second.
const FRAMES_PER_SECOND: u32 = 100;

/// Bytes that are read from one client per second.
const BYTES_PER_SECOND: u32 = 16 * 1024;

/// A rate limit with a burst, by the generic cell rate algorithm: one instant is its whole state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Time that one unit takes.
    each: Duration,
    /// The burst: how far `paid_at` may run ahead of the present.
    ahead: Duration,
    /// Time at which all units so far are paid for.
    paid_at: Instant,
}

impl Pace {
    /// Limits messages, pings and pongs. A client sends one for each notification, at most a few per second.
    pub(super) fn of_frames(now: Instant) -> Self {
        Self::new(FRAMES_PER_SECOND, 200, now)
    }

    /// Limits bytes. Fragments without content make no message, so [`Pace::of_frames`] never sees them. This limit lets
    /// 2,700 of them through per second.
    pub(super) fn of_bytes(now: Instant) -> Self {
        Self::new(BYTES_PER_SECOND, 64 * 1024, now)
    }

    fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let each = Duration::from_secs(1) / per_second;
        Self { each, ahead: each * burst, paid_at: now }
    }

    /// Counts these units. Returns until when to wait before the next ones, if at all.
    pub(super) fn count(&mut self, units: usize, now: Instant) -> Option<Instant> {
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        self.paid_at = self.paid_at.max(now) + self.each * units;
        let wait_until = self.paid_at.checked_sub(self.ahead)?;
        (wait_until > now).then_some(wait_until)
    }
}

/// A stream that is read at a limited rate of bytes.
pub(super) struct Paced<S> {
    io: S,
    pace: Pace,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    pub(super) fn new(io: S) -> Self {
        Self { io, pace: Pace::of_bytes(Instant::now()), pause: None }
    }

    /// Reads up to 512 KiB more without a pause, because bytes left unread at the end of a connection reset it. This
    /// much of an honest client's data may cross what the server sends.
    pub(super) fn hurry(&mut self) {
        self.pace = Pace::new(BYTES_PER_SECOND, 512 * 1024, Instant::now());
        self.pause = None;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        let wait_until = self.pace.count(read, Instant::now());
        self.pause = wait_until.map(|until| Box::pin(sleep_until(until)));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns when each of `frames` frames is read, in milliseconds, if all of them are there at the same moment.
    fn read_at(mut pace: Pace, frames: usize, now: Instant) -> Vec<u128> {
        let mut time = now;
        let mut read_at = Vec::new();
        for _ in 0..frames {
            read_at.push((time - now).as_millis());
            time = pace.count(1, time).unwrap_or(time);
        }
        read_at
    }

    #[test]
    fn a_burst_of_frames_is_read_at_once_and_more_at_the_rate() {
        let now = Instant::now() + Duration::from_mins(1);
        let read_at = read_at(Pace::of_frames(now), 1201, now);
        assert!(read_at[..=200].iter().all(|at| *at == 0), "{read_at:?}");
        assert_eq!((read_at[201], read_at[300], read_at[1200]), (10, 1000, 10_000));
    }

    #[test]
    fn unused_rate_is_saved_up_to_the_burst() {
        let now = Instant::now() + Duration::from_mins(1);
        let mut pace = Pace::of_frames(now);
        for _ in 0..300 {
            pace.count(1, now);
        }
        let later = now + Duration::from_hours(1);
        assert!((0..200).all(|_| pace.count(1, later).is_none()));
        assert_eq!(pace.count(1, later), Some(later + Duration::from_millis(10)));
    }

    #[test]
    fn bytes_are_read_at_the_rate_in_pieces_of_any_size() {
        let start = Instant::now() + Duration::from_mins(1);
        for size in [1, 7, 1024] {
            let (mut pace, mut time) = (Pace::of_bytes(start), start);
            let mut left: usize = 64 * 1024 + 160 * 1024;
            while left > 0 {
                let read = left.min(size);
                time = pace.count(read, time).unwrap_or(time);
                left -= read;
            }
            // Ten seconds after the burst, less the rounding of each byte's time to whole nanoseconds.
            assert_eq!((time - start).as_millis(), 9_999, "{size}");
        }
    }
}
