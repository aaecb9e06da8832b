//! Warns the operator that a bound was hit, without a line for each hit.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Minimum time between two warnings about the same bound.
const QUIET: Duration = Duration::from_mins(1);

/// Logs the first hit of each bound, and then at most one warning a minute, which counts the hits since the last one.
#[derive(Default)]
pub(crate) struct BoundLog(Mutex<HashMap<&'static str, Hits>>);

struct Hits {
    logged_at: Instant,
    /// Hits since `logged_at`, which no line has counted yet.
    unlogged: u64,
}

impl BoundLog {
    /// Counts a hit of the bound with this name, and warns if a line is due. The name is the setting's, where there
    /// is one.
    pub(crate) fn hit(&self, bound: &'static str) {
        if let Some(hits) = self.count(bound, Instant::now()) {
            tracing::warn!(bound, hits, "bound reached: clients were refused or had to wait");
        }
    }

    /// Counts a hit, and returns the number of hits to log if a line is due.
    fn count(&self, bound: &'static str, now: Instant) -> Option<u64> {
        let mut bounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match bounds.get_mut(bound) {
            Some(hits) if hits.logged_at + QUIET > now => {
                hits.unlogged += 1;
                None
            }
            Some(hits) => {
                hits.logged_at = now;
                Some(std::mem::take(&mut hits.unlogged) + 1)
            }
            None => {
                bounds.insert(bound, Hits { logged_at: now, unlogged: 0 });
                Some(1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_that_is_hit_often_is_logged_once_a_minute() {
        let (log, start) = (BoundLog::default(), Instant::now());
        assert_eq!(log.count("limits.connections", start), Some(1));
        assert_eq!(log.count("limits.connections", start), None);
        assert_eq!(log.count("limits.connections", start + QUIET / 2), None);
        assert_eq!(log.count("http.listeners", start), Some(1), "each bound is logged by itself");
        let hits = log.count("limits.connections", start + QUIET);
        assert_eq!(hits, Some(3), "those since the last line count");
    }
}
