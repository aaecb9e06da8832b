//! Sizes, ages and queue depth of the store, for the metrics.

use std::time::Duration;

use super::Store;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) queue_depth: usize,
    /// Age of the oldest change that is not committed yet; 0 if there is none.
    pub(crate) oldest_change: Duration,
    pub(crate) database_bytes: u64,
    pub(crate) log_bytes: u64,
    /// Free bytes of the disk that holds both files.
    pub(crate) free_bytes: u64,
}

impl Store {
    pub(crate) fn measure(&self) -> Measured {
        Measured {
            queue_depth: self.queue_depth(),
            oldest_change: self.writer.oldest_change(),
            database_bytes: self.local.database_bytes(),
            log_bytes: self.local.log_bytes(),
            free_bytes: self.local.reserve.free_bytes(),
        }
    }
}
