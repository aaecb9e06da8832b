//! Outcomes of the writer's latest transactions, by which the store is ready or not.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Error;

/// How long all changes must fail before the store counts as failing.
pub(crate) const FAILING_FOR: Duration = Duration::from_secs(5);

/// How long the latest failure counts.
const FAILURE_COUNTS: Duration = Duration::from_secs(10);

/// How long a full disk of a server counts without another change that it refuses: clients try again after 60 s.
const FULL_COUNTS: Duration = Duration::from_secs(90);

/// Outcomes of the writer's latest transactions.
#[derive(Default)]
pub(crate) struct Outcomes(Mutex<Latest>);

#[derive(Default)]
struct Latest {
    commit: Option<Instant>,
    /// First and last failure since the last commit that affected a user.
    failures: Option<(Instant, Instant)>,
    /// The latest failure since the last commit that affected a user, if the cause was a full disk of a server.
    full: Option<Instant>,
}

impl Outcomes {
    /// A commit that affects no user, such as a probe's, does not clear the failures. On a full disk it succeeds while
    /// the pages of its tables have space for a small row.
    pub(crate) fn committed(&self, affects_users: bool) {
        let mut latest = self.latest();
        latest.commit = Some(Instant::now());
        if affects_users {
            latest.failures = None;
            if latest.full.take().is_some() {
                tracing::info!("the disk of PostgreSQL has space again");
            }
        }
    }

    pub(crate) fn failed(&self, error: &Error) {
        self.failed_at(error, Instant::now());
    }

    fn failed_at(&self, error: &Error, now: Instant) {
        let mut latest = self.latest();
        let running =
            latest.failures.filter(|(_, last)| now.duration_since(*last) < FAILURE_COUNTS);
        latest.failures = Some((running.map_or(now, |(first, _)| first), now));
        let is_full = matches!(error, Error::ServerFull);
        if is_full && latest.full.is_none() {
            tracing::warn!(
                "the disk of PostgreSQL is full: changes that find no space are refused"
            );
        }
        latest.full = is_full.then_some(now);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.is_full_at(Instant::now())
    }

    fn is_full_at(&self, now: Instant) -> bool {
        self.latest().full.is_some_and(|at| now.duration_since(at) < FULL_COUNTS)
    }

    pub(crate) fn has_committed_within(&self, time: Duration) -> bool {
        self.latest().commit.is_some_and(|commit| commit.elapsed() < time)
    }

    pub(crate) fn has_committed(&self) -> bool {
        self.latest().commit.is_some()
    }

    pub(crate) fn are_failures(&self) -> bool {
        self.are_failures_at(Instant::now())
    }

    fn are_failures_at(&self, now: Instant) -> bool {
        self.latest().failures.is_some_and(|(first, last)| {
            now.duration_since(last) < FAILURE_COUNTS && last.duration_since(first) >= FAILING_FOR
        })
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_counts_until_a_change_of_a_user_is_made() {
        let outcomes = Outcomes::default();
        outcomes.failed(&Error::ServerFull);
        outcomes.committed(false);
        assert!(outcomes.is_full());
        outcomes.committed(true);
        assert!(!outcomes.is_full());
    }

    #[test]
    fn a_full_disk_counts_while_clients_wait_to_try_again() {
        let outcomes = Outcomes::default();
        outcomes.failed(&Error::ServerFull);
        assert!(outcomes.is_full_at(Instant::now() + Duration::from_mins(1)));
        assert!(!outcomes.is_full_at(Instant::now() + FULL_COUNTS));
    }

    #[test]
    fn failures_far_apart_are_not_one_that_lasts() {
        let (outcomes, start) = (Outcomes::default(), Instant::now());
        outcomes.failed_at(&Error::QueueFull, start);
        let later = start + FAILURE_COUNTS;
        outcomes.failed_at(&Error::QueueFull, later);
        assert!(!outcomes.are_failures_at(later));
        outcomes.failed_at(&Error::QueueFull, later + FAILING_FOR);
        assert!(outcomes.are_failures_at(later + FAILING_FOR));
    }

    #[test]
    fn another_failure_ends_a_full_disk() {
        let outcomes = Outcomes::default();
        outcomes.failed(&Error::ServerFull);
        outcomes.failed(&Error::QueueFull);
        assert!(!outcomes.is_full());
    }
}
