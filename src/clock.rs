//! The clocks of the server.

mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;

use crate::domain::Timestamp;
pub use watch::ClockWatch;

/// What the clocks of a machine show at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock, which may be wrong, and jump when it is set.
    pub wall: Timestamp,
    /// The monotonic clock, from an arbitrary moment on. Only differences mean something.
    pub monotonic: Duration,
}

/// Where the time comes from. Tests put in clocks of their own.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Reading + Send + Sync>);

impl Clock {
    /// The clocks of the machine.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn system() -> Self {
        let started = Instant::now();
        Self::from_fn(move || Reading {
            wall: Timestamp::from_unix(Utc::now().timestamp()).expect("a clock shows a date"),
            monotonic: started.elapsed(),
        })
    }

    /// Clocks that show what the function returns.
    pub fn from_fn(read: impl Fn() -> Reading + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The present second of the wall clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.read().wall
    }

    /// What both clocks show.
    #[must_use]
    pub fn read(&self) -> Reading {
        (self.0)()
    }
}
