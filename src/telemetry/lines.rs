//! The lines of the log on their way to stderr.
//!
//! A line that is handed to another thread by itself costs that thread's waking, more than the line. So lines gather in
//! memory for a moment, and the thread that writes them is woken for many.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// The most bytes of lines that wait, some 60,000 lines; as many again may be on their way. Further ones are dropped and
/// counted: a slow disk or terminal must not slow a request down.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// How long a line waits for others to go with.
const GATHER: Duration = Duration::from_millis(5);

/// Bytes of lines that wait for no more.
const BLOCK: usize = 64 * 1024;

/// How long the end of the process waits for the last lines: nobody may be reading them.
const PATIENCE: Duration = Duration::from_secs(1);

/// Lines that wait to be written. Each write to a reference of it is one line.
#[derive(Default)]
pub struct Lines {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    dropped: u64,
    /// What comes now is no longer waited for.
    is_closed: bool,
    /// Everything is written.
    is_written: bool,
}

impl Lines {
    /// Starts the thread that writes them to stderr.
    ///
    /// # Errors
    ///
    /// Where the system gives no thread.
    pub fn start() -> io::Result<Arc<Self>> {
        let lines = Arc::new(Self::default());
        let to_write = Arc::clone(&lines);
        thread::Builder::new().name("log".to_owned()).spawn(move || to_write.write_what_waits())?;
        Ok(lines)
    }

    /// How many lines were dropped because too many waited, or could not be written.
    pub fn dropped(&self) -> u64 {
        self.waiting().dropped
    }

    /// Has what still waits written, and waits for that for a second at most.
    pub fn close(&self) {
        let mut waiting = self.waiting();
        waiting.is_closed = true;
        self.changed.notify_all();
        let written =
            self.changed.wait_timeout_while(waiting, PATIENCE, |waiting| !waiting.is_written);
        drop(written);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Whoever panicked has left no line half added.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes until there will be no more.
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

    /// Takes the lines that wait, once there are any, and says whether there will be no more.
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
