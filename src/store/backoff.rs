//! When the writer tries to empty the write-ahead log.
//!
//! An attempt holds the writer up for as long as it waits for the reads that are in the log. A read that does not end, such
//! as a forgotten `sqlite3` shell in a transaction, makes every attempt fail, so attempts become rare.

use std::time::Duration;

use tokio::time::Instant;

/// The time after the first attempt that has failed; it doubles with each further one.
const LEAST: Duration = Duration::from_secs(2);

const MOST: Duration = Duration::from_mins(1);

/// What the checkpointer has found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// The log is to be emptied.
    pub(super) is_due: bool,
    /// So much of it can't be moved that a read is in the way for certain.
    pub(super) is_held: bool,
    /// The last attempt has failed.
    pub(super) has_failed: bool,
}

/// What to do about the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing, for now.
    Rest,
    /// Have the writer empty it.
    Attempt,
    /// Tell the operator what is in the way.
    Warn,
}

/// The attempts to empty a log.
#[derive(Default)]
pub(super) struct Backoff {
    rest: Duration,
    not_before: Option<Instant>,
    was_held: bool,
}

impl Backoff {
    pub(super) fn next(&mut self, now: Instant, found: Found) -> Next {
        let read_has_ended = self.was_held && !found.is_held;
        if !found.is_due || read_has_ended {
            *self = Self::default();
        }
        self.was_held = found.is_held;
        if !found.is_due {
            return Next::Rest;
        }
        let may_try = self.not_before.is_none_or(|not_before| now >= not_before);
        if found.has_failed || found.is_held && may_try {
            self.rest = (self.rest * 2).clamp(LEAST, MOST);
            self.not_before = Some(now + self.rest);
            return Next::Warn;
        }
        if may_try { Next::Attempt } else { Next::Rest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks twice a second for an hour while a read is in the log; how many attempts and warnings there are.
    fn in_an_hour(is_held: bool) -> (usize, usize) {
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        let (mut attempts, mut warnings, mut has_failed) = (0, 0, false);
        for _ in 0..7200 {
            let next = backoff.next(now, Found { is_due: true, is_held, has_failed });
            has_failed = next == Next::Attempt;
            attempts += usize::from(next == Next::Attempt);
            warnings += usize::from(next == Next::Warn);
            now += Duration::from_millis(500);
        }
        (attempts, warnings)
    }

    #[test]
    fn a_forgotten_read_is_tried_about_once_a_minute() {
        let (attempts, warnings) = in_an_hour(false);
        assert!((50..=70).contains(&attempts), "{attempts}");
        assert_eq!(attempts, warnings);
    }

    #[test]
    fn a_read_that_holds_much_of_the_log_costs_no_attempt() {
        let (attempts, warnings) = in_an_hour(true);
        assert_eq!(attempts, 0);
        assert!((50..=70).contains(&warnings), "{warnings}");
    }

    #[test]
    fn a_read_that_has_ended_is_no_longer_in_the_way() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        let held = Found { is_due: true, is_held: true, has_failed: false };
        assert_eq!(backoff.next(now, held), Next::Warn);
        assert_eq!(backoff.next(now, held), Next::Rest);
        assert_eq!(backoff.next(now, Found { is_held: false, ..held }), Next::Attempt);
    }

    #[test]
    fn a_log_that_was_emptied_is_tried_at_once_the_next_time() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        let due = Found { is_due: true, is_held: false, has_failed: false };
        assert_eq!(backoff.next(now, due), Next::Attempt);
        assert_eq!(backoff.next(now, Found { has_failed: true, ..due }), Next::Warn);
        assert_eq!(backoff.next(now, due), Next::Rest);
        assert_eq!(backoff.next(now, Found { is_due: false, ..due }), Next::Rest);
        assert_eq!(backoff.next(now, due), Next::Attempt);
    }
}
