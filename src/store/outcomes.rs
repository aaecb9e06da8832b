//! Outcomes of the writer's latest transactions, by which the store is ready or not.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Error;

/// How long all changes must fail before the store counts as failing.
pub(crate) const FAILING_FOR: Duration = Duration::from_secs(5);

/// How long the latest failure counts.
const FAILURE_COUNTS: Duration = Duration::from_secs(10);

/// Outcomes of the writer's latest transactions.
#[derive(Default)]
pub(crate) struct Outcomes(Mutex<Latest>);

#[derive(Default)]
struct Latest {
    commit: Option<Instant>,
    /// First and last failure since the last commit that affected a user.
    failures: Option<(Instant, Instant)>,
    /// The latest transaction failed because the disk of a server is full.
    is_full: bool,
}

impl Outcomes {
    /// A commit that affects no user, such as a probe's, does not clear the failures.
    pub(crate) fn committed(&self, affects_users: bool) {
        let mut latest = self.latest();
        latest.commit = Some(Instant::now());
        latest.is_full = false;
        if affects_users {
            latest.failures = None;
        }
    }

    pub(crate) fn failed(&self, error: &Error) {
        let now = Instant::now();
        let mut latest = self.latest();
        latest.failures.get_or_insert((now, now)).1 = now;
        latest.is_full = matches!(error, Error::ServerFull);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.latest().is_full
    }

    pub(crate) fn has_committed_within(&self, time: Duration) -> bool {
        self.latest().commit.is_some_and(|commit| commit.elapsed() < time)
    }

    pub(crate) fn has_committed(&self) -> bool {
        self.latest().commit.is_some()
    }

    pub(crate) fn are_failures(&self) -> bool {
        self.latest().failures.is_some_and(|(first, last)| {
            last.elapsed() < FAILURE_COUNTS && last.duration_since(first) >= FAILING_FOR
        })
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
