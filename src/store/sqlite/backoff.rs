//! Backoff for the writer's attempts to empty the write-ahead log.
//!
//! An attempt blocks the writer while it waits for reads that still use the log. A read that never ends, such as a
//! forgotten `sqlite3` shell in a transaction, makes every attempt fail. Attempts therefore become rare.

use std::time::Duration;

use tokio::time::Instant;

/// Delay after the first failed attempt; it doubles with each further failure.
const LEAST: Duration = Duration::from_secs(2);

const MOST: Duration = Duration::from_mins(1);

/// State of the log, as the checkpointer found it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogState {
    pub(crate) is_due: bool,
    /// The part that can't be checkpointed is so large that a read certainly blocks it.
    pub(crate) is_held: bool,
    /// The last attempt failed.
    pub(crate) has_failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Rest,
    /// Have the writer empty the log.
    Attempt,
    /// Warn the operator that a read blocks the log.
    Warn,
}

#[derive(Default)]
pub(crate) struct Backoff {
    rest: Duration,
    not_before: Option<Instant>,
    was_held: bool,
}

impl Backoff {
    pub(crate) fn next(&mut self, now: Instant, found: LogState) -> Next {
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

    /// Counts the attempts and warnings of an hour, looking twice a second, while a read blocks the log.
    fn in_an_hour(is_held: bool) -> (usize, usize) {
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        let (mut attempts, mut warnings, mut has_failed) = (0, 0, false);
        for _ in 0..7200 {
            let next = backoff.next(now, LogState { is_due: true, is_held, has_failed });
            has_failed = next == Next::Attempt;
            attempts += usize::from(next == Next::Attempt);
            warnings += usize::from(next == Next::Warn);
            now += Duration::from_millis(500);
        }
        (attempts, warnings)
    }

    #[test]
    fn a_log_held_by_a_forgotten_read_is_checkpointed_about_once_a_minute() {
        let (attempts, warnings) = in_an_hour(false);
        assert!((50..=70).contains(&attempts), "{attempts}");
        assert_eq!(attempts, warnings);
    }

    #[test]
    fn a_read_that_holds_much_of_the_log_is_only_warned_about() {
        let (attempts, warnings) = in_an_hour(true);
        assert_eq!(attempts, 0);
        assert!((50..=70).contains(&warnings), "{warnings}");
    }

    #[test]
    fn the_end_of_a_read_ends_the_backoff() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        let held = LogState { is_due: true, is_held: true, has_failed: false };
        assert_eq!(backoff.next(now, held), Next::Warn);
        assert_eq!(backoff.next(now, held), Next::Rest);
        assert_eq!(backoff.next(now, LogState { is_held: false, ..held }), Next::Attempt);
    }

    #[test]
    fn an_emptied_log_ends_the_backoff() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        let due = LogState { is_due: true, is_held: false, has_failed: false };
        assert_eq!(backoff.next(now, due), Next::Attempt);
        assert_eq!(backoff.next(now, LogState { has_failed: true, ..due }), Next::Warn);
        assert_eq!(backoff.next(now, due), Next::Rest);
        assert_eq!(backoff.next(now, LogState { is_due: false, ..due }), Next::Rest);
        assert_eq!(backoff.next(now, due), Next::Attempt);
    }
}
