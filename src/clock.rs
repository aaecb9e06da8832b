//! The server's wall clock and monotonic clock.

mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;

use crate::domain::Timestamp;
pub(crate) use watch::ClockWatch;

/// Both clocks of a machine, read at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock. It may be wrong, and it jumps when it is set.
    pub wall: Timestamp,
    /// The monotonic clock, counted from an arbitrary moment. Only differences are meaningful.
    pub monotonic: Duration,
}

/// Source of the time. Tests inject their own.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Reading + Send + Sync>);

impl Clock {
    /// Reads the machine's clocks.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn system() -> Self {
        let started = Instant::now();
        Self::from_fn(move || Reading {
            wall: Timestamp::from_unix(Utc::now().timestamp())
                .expect("the clock shows a year from 0000 to 9999"),
            monotonic: started.elapsed(),
        })
    }

    /// Creates a clock that shows what the function returns.
    pub fn from_fn(read: impl Fn() -> Reading + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Returns the current second of the wall clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.read().wall
    }

    pub(crate) fn read(&self) -> Reading {
        (self.0)()
    }
}
