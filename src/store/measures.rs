//! Sizes and ages of the store, for the metrics.

use std::path::Path;
use std::time::Duration;

use super::Store;

/// The store as it is at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Changes that wait for the writer.
    pub queue_depth: usize,
    /// Age of the oldest change that is not made yet; 0 where there is none.
    pub oldest_change: Duration,
    /// Size of the database file.
    pub database_bytes: u64,
    /// Size of the write-ahead log.
    pub log_bytes: u64,
    /// Free space of the disk that both are on.
    pub free_bytes: u64,
}

impl Store {
    /// Measures the store.
    #[must_use]
    pub fn measure(&self) -> Measured {
        let file = self.writer.file();
        Measured {
            queue_depth: self.queue_depth(),
            oldest_change: self.writer.oldest_change(),
            database_bytes: size(file.path()),
            log_bytes: size(&file.wal()),
            free_bytes: self.reserve.free_bytes(),
        }
    }
}

/// The size of a file, and 0 of one that is not there.
fn size(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |metadata| metadata.len())
}
