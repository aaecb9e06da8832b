//! Delays between attempts, and requests that are repeated after them.

use std::time::Duration;

use tokio::time::sleep;

use super::Error;
use crate::random::between_zero_and;

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

    /// Returns the delay after a connection that lasted this long. Only a lasting connection resets the delays: a load
    /// balancer without a backend may accept each connection and close it at once.
    pub(super) fn after(&mut self, connected: Duration) -> Duration {
        if connected >= MOST {
            self.0 = FIRST;
        }
        self.next()
    }
}

/// Repeats a request for as long as its failure may pass. Calls `warn` with the first such failure.
///
/// # Errors
///
/// [`Error`], which is never one that may pass.
pub async fn persist<T>(
    mut request: impl AsyncFnMut() -> Result<T, Error>,
    warn: impl FnOnce(&Error),
) -> Result<T, Error> {
    let mut backoff = Backoff::default();
    let mut warn = Some(warn);
    loop {
        match request().await {
            Err(error) if error.may_pass() => {
                if let Some(warn) = warn.take() {
                    warn(&error);
                }
                sleep(backoff.next()).await;
            }
            done => return done,
        }
    }
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
    }

    #[test]
    fn only_a_lasting_connection_resets_the_delays() {
        let mut backoff = Backoff::default();
        let mut delays = (0..20).map(|_| backoff.after(Duration::from_secs(14)));
        assert!(delays.any(|delay| delay >= MOST / 2));
        assert!(backoff.after(MOST) <= FIRST);
    }
}
