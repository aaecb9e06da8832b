//! Batches log lines on their way to stderr.
//!
//! Waking another thread for one line costs more than the line. So lines gather in memory for a moment, and one
//! wake-up of the writing thread serves many.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Maximum bytes of buffered lines, some 60,000 lines; as many again may be in the write. Further lines are dropped
/// and counted: a slow disk or terminal must not slow a request down.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// How long a line waits for others to share its write.
const GATHER: Duration = Duration::from_millis(5);

/// Bytes of buffered lines at which a write starts without waiting for more.
const BLOCK: usize = 64 * 1024;

/// Maximum wait of the process for the last lines at its end: stderr may have no reader.
const PATIENCE: Duration = Duration::from_secs(1);

/// The buffer of lines to be written. Each call of `write` is one line.
#[derive(Default)]
pub(crate) struct Lines {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    dropped: u64,
    /// Set at shutdown: the writing thread takes what is buffered and ends.
    is_closed: bool,
    /// Set after the last write.
    is_written: bool,
}

impl Lines {
    /// Starts the thread that writes the lines to stderr.
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let lines = Arc::new(Self::default());
        let to_write = Arc::clone(&lines);
        thread::Builder::new().name("log".to_owned()).spawn(move || to_write.write_what_waits())?;
        Ok(lines)
    }

    /// Returns how many lines were dropped because the buffer was full, or could not be written.
    pub(crate) fn dropped(&self) -> u64 {
        self.waiting().dropped
    }

    /// Tells the writing thread to end, and waits at most one second for its last write.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting();
        waiting.is_closed = true;
        self.changed.notify_all();
        let written =
            self.changed.wait_timeout_while(waiting, PATIENCE, |waiting| !waiting.is_written);
        drop(written);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // A panic leaves no half-added line behind this lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_what_waits(&self) {
        let mut text = Vec::new();
        loop {
            let is_last = self.next(&mut text);
            if io::stderr().write_all(&text).is_err() {
                self.waiting().dropped += lines_of(&text);
            }
            if is_last {
                break;
            }
            text.clear();
            text.shrink_to(BLOCK);
        }
        self.waiting().is_written = true;
        self.changed.notify_all();
    }

    /// Waits for lines and takes them. Returns whether they are the last.
    fn next(&self, text: &mut Vec<u8>) -> bool {
        let nothing = |waiting: &mut Waiting| waiting.text.is_empty() && !waiting.is_closed;
        let few = |waiting: &mut Waiting| waiting.text.len() < BLOCK && !waiting.is_closed;
        let waiting = self.changed.wait_while(self.waiting(), nothing);
        let waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        let gathered = self.changed.wait_timeout_while(waiting, GATHER, few);
        let (mut waiting, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        mem::swap(text, &mut waiting.text);
        waiting.is_closed
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.waiting();
        let before = waiting.text.len();
        let after = before + line.len();
        if after > MOST_BYTES {
            waiting.dropped += 1;
            return Ok(line.len());
        }
        waiting.text.extend_from_slice(line);
        drop(waiting);
        if before == 0 || (before < BLOCK && after >= BLOCK) {
            self.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lines_of(text: &[u8]) -> u64 {
    let lines = text.split_inclusive(|byte| *byte == b'\n').count();
    u64::try_from(lines).unwrap_or(u64::MAX)
}
