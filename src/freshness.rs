//! Freshness check: refuses requests whose timestamp is too old, too new, or from before a restore.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::Timestamp;
use crate::error::Error;

/// Refuses timestamps that are too far from the present, and those from before the last restore. The restore lost the
/// replay records of that time, so such a request could be carried out twice.
pub(crate) struct Freshness {
    /// Maximum seconds between a timestamp and the present, in either direction.
    skew: u64,
    restore: Mutex<Restore>,
}

/// The last restore, or another beginning of an epoch.
struct Restore {
    /// The second of the restore, as the database has it.
    began_at: Timestamp,
    /// The second of the restore, at most that of the moment at which this process learnt of it.
    restored_at: Timestamp,
    /// Set once the clock is earlier than `restored_at`: it ran ahead during the restore, so that second means nothing.
    was_ahead: bool,
}

impl Restore {
    /// Returns a restore that this process learns of at `now`. One in the future was made with a clock that ran ahead, and
    /// counts as made now.
    fn learnt(began_at: Timestamp, now: Timestamp) -> Self {
        Self { began_at, restored_at: began_at.min(now), was_ahead: false }
    }
}

impl Freshness {
    /// Creates the check for a process that starts at `now`, on a database restored at `began_at`.
    pub(crate) fn new(skew: u64, began_at: Timestamp, now: Timestamp) -> Self {
        Self { skew, restore: Mutex::new(Restore::learnt(began_at, now)) }
    }

    /// Takes the time at which the present epoch began.
    pub(crate) fn enter(&self, began_at: Timestamp, now: Timestamp) {
        let mut restore = self.restore();
        if restore.began_at != began_at {
            *restore = Restore::learnt(began_at, now);
        }
    }

    /// [`Error::TimestampOutOfRange`] beyond the skew, [`Error::SignedBeforeRestore`] up to the restore.
    pub(crate) fn check(&self, timestamp: Timestamp, now: Timestamp) -> Result<(), Error> {
        let mut restore = self.restore();
        restore.was_ahead |= now < restore.restored_at;
        let (distance, limit) = (timestamp.distance(now), self.skew);
        if distance > limit {
            return Err(Error::TimestampOutOfRange { distance, limit, server_time: now });
        }
        if timestamp <= restore.restored_at && !restore.was_ahead {
            return Err(Error::SignedBeforeRestore { server_time: now });
        }
        Ok(())
    }

    fn restore(&self) -> MutexGuard<'_, Restore> {
        // A panic leaves no half-made change behind this lock.
        self.restore.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn timestamps_beyond_the_skew_or_before_the_restore_are_refused() {
        let freshness = Freshness::new(300, at(-10), at(0));
        assert!(freshness.check(at(5), at(5)).is_ok());
        assert!(freshness.check(at(-9), at(5)).is_ok());
        let refused = |timestamp| freshness.check(at(timestamp), at(5)).unwrap_err();
        assert!(matches!(refused(-10), Error::SignedBeforeRestore { .. }));
        assert!(matches!(refused(-296), Error::TimestampOutOfRange { .. }));
        assert!(matches!(refused(306), Error::TimestampOutOfRange { .. }));
    }

    #[test]
    fn a_clock_that_was_ahead_during_the_restore_refuses_no_fresh_timestamp() {
        let freshness = Freshness::new(300, at(3600), at(0));
        assert!(freshness.check(at(1), at(1)).is_ok());
    }

    #[test]
    fn a_new_epoch_refuses_what_was_signed_before_it() {
        let freshness = Freshness::new(300, at(-10), at(0));
        freshness.enter(at(5), at(6));
        assert!(freshness.check(at(5), at(6)).is_err());
        assert!(freshness.check(at(6), at(6)).is_ok());
    }

    #[test]
    fn a_clock_that_is_set_back_after_the_restore_refuses_no_fresh_timestamp() {
        let freshness = Freshness::new(300, at(3600), at(3605));
        assert!(freshness.check(at(3600), at(3606)).is_err());
        assert!(freshness.check(at(0), at(0)).is_ok(), "after the correction");
        assert!(freshness.check(at(3600), at(3601)).is_ok(), "an hour later");
    }
}
