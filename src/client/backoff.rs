//! Delays between attempts.

use std::time::Duration;

use rand::Rng as _;

use crate::random::os_random;

/// The first delay.
const FIRST: Duration = Duration::from_millis(250);

/// Maximum delay.
const MOST: Duration = Duration::from_secs(15);

/// Delays that double from 0.25 s to 15 s. Each is drawn from its upper half, so that clients do not return at once.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    /// Returns the next delay.
    pub(super) fn next(&mut self) -> Duration {
        let delay = self.0;
        self.0 = (2 * delay).min(MOST);
        delay / 2 + between_zero_and(delay / 2)
    }

    pub(super) fn reset(&mut self) {
        self.0 = FIRST;
    }
}

/// Returns a random duration up to `most`.
pub(super) fn between_zero_and(most: Duration) -> Duration {
    most * (os_random().next_u32() >> 16) / (1 << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_15_seconds_and_no_further() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..20).map(|_| backoff.next()).collect();
        assert!(delays[0] <= FIRST && delays[0] >= FIRST / 2);
        assert!(delays.iter().all(|delay| *delay <= MOST));
        assert!(delays[19] >= MOST / 2);
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
