//! Detects jumps of the wall clock, and says which moments have passed for certain.
//!
//! A wall clock that runs ahead for a moment must not expire anything early. So a moment counts as passed only after
//! the wall clock has shown it, and then a full window has gone by on the monotonic clock without a jump.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Clock, Reading};
use crate::domain::Timestamp;

/// Largest difference between the clocks, in seconds, that is no jump. Small corrections and rounding to whole
/// seconds stay within it.
const JUMP_SECONDS: i64 = 2;

/// Minimum time between two remembered readings.
const REMEMBER_EVERY: Duration = Duration::from_mins(1);

pub(crate) struct ClockWatch {
    clock: Clock,
    /// How long ago, by the monotonic clock, a moment must have been shown to count as passed.
    window: Duration,
    last: Reading,
    /// Readings since the last jump, oldest first. At most one of them is older than the window.
    steady: VecDeque<Reading>,
}

impl ClockWatch {
    pub(crate) fn new(clock: Clock, window: Duration) -> Self {
        let now = clock.read();
        Self { clock, window, last: now, steady: VecDeque::from([now]) }
    }

    /// Returns the moment up to which everything has passed: both clocks agree, and the wall clock has not jumped for
    /// the length of the window. Returns `None` where that is not known yet.
    pub(crate) fn passed(&mut self) -> Option<Timestamp> {
        let now = self.look();
        let is_behind = |reading: &Reading| now.monotonic >= reading.monotonic + self.window;
        while self.steady.get(1).is_some_and(is_behind) {
            self.steady.pop_front();
        }
        let oldest = self.steady.front().filter(|reading| is_behind(reading))?;
        Some(oldest.wall.min(now.wall))
    }

    /// Reads the clocks. A jump discards the earlier readings.
    fn look(&mut self) -> Reading {
        let now = self.clock.read();
        let jumped = jump(self.last, now);
        self.last = now;
        if jumped.abs() > JUMP_SECONDS {
            tracing::warn!(seconds = jumped, now = %now.wall, "the system clock jumped");
            self.steady.clear();
        }
        let newest = self.steady.back();
        if newest.is_none_or(|newest| now.monotonic >= newest.monotonic + REMEMBER_EVERY) {
            self.steady.push_back(now);
        }
        now
    }
}

/// Returns how many seconds more the wall clock has advanced than the monotonic clock.
fn jump(earlier: Reading, later: Reading) -> i64 {
    let wall = later.wall.unix().saturating_sub(earlier.wall.unix());
    let monotonic = later.monotonic.saturating_sub(earlier.monotonic).as_secs();
    wall.saturating_sub_unsigned(monotonic)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const START: i64 = 1_709_899_200;

    #[derive(Clone)]
    struct Clocks(Arc<Mutex<(i64, u64)>>);

    impl Clocks {
        fn new() -> Self {
            Self(Arc::new(Mutex::new((START, 0))))
        }

        fn watched(&self, window: u64) -> ClockWatch {
            let clocks = self.clone();
            let clock = Clock::from_fn(move || {
                let (wall, monotonic) = *clocks.0.lock().unwrap();
                Reading {
                    wall: Timestamp::from_unix(wall).unwrap(),
                    monotonic: Duration::from_secs(monotonic),
                }
            });
            ClockWatch::new(clock, Duration::from_secs(window))
        }

        fn advance(&self, seconds: u64) {
            let mut clocks = self.0.lock().unwrap();
            clocks.0 += i64::try_from(seconds).unwrap();
            clocks.1 += seconds;
        }

        fn jump(&self, seconds: i64) {
            self.0.lock().unwrap().0 += seconds;
        }
    }

    /// Advances the clocks by so many seconds, and reads the watch each second.
    fn passes(clocks: &Clocks, watch: &mut ClockWatch, seconds: u64) -> Option<i64> {
        let mut passed = None;
        for _ in 0..seconds {
            clocks.advance(1);
            passed = watch.passed();
        }
        passed.map(|moment| moment.unix() - START)
    }

    #[test]
    fn a_moment_counts_as_past_one_window_later() {
        let clocks = Clocks::new();
        let mut watch = clocks.watched(600);
        assert_eq!(passes(&clocks, &mut watch, 599), None);
        assert_eq!(passes(&clocks, &mut watch, 1), Some(0));
        assert_eq!(passes(&clocks, &mut watch, 59), Some(0));
        assert_eq!(passes(&clocks, &mut watch, 1), Some(60));
        assert_eq!(passes(&clocks, &mut watch, 6000), Some(6060));
    }

    #[test]
    fn a_clock_one_hour_ahead_for_three_seconds_makes_nothing_past() {
        let clocks = Clocks::new();
        let mut watch = clocks.watched(600);
        assert_eq!(passes(&clocks, &mut watch, 1000), Some(360));
        clocks.jump(3600);
        assert_eq!(passes(&clocks, &mut watch, 3), None);
        clocks.jump(-3600);
        assert_eq!(passes(&clocks, &mut watch, 600), None);
        assert_eq!(passes(&clocks, &mut watch, 1), Some(1004));
    }

    #[test]
    fn a_moment_after_the_wall_clock_that_was_set_back_is_not_past() {
        let clocks = Clocks::new();
        let mut watch = clocks.watched(600);
        clocks.jump(3600);
        assert_eq!(passes(&clocks, &mut watch, 700), Some(3601 + 60));
        clocks.jump(-3600);
        assert_eq!(watch.passed(), None);
    }

    #[test]
    fn small_corrections_of_the_clock_do_not_restart_the_window() {
        let clocks = Clocks::new();
        let mut watch = clocks.watched(600);
        for _ in 0..10 {
            passes(&clocks, &mut watch, 100);
            clocks.jump(-1);
        }
        assert!(watch.passed().is_some());
    }
}
