//! Sizes, ages and queue depth of the store, for the metrics.

use std::path::Path;
use std::time::Duration;

use super::Store;

/// A snapshot of the store's sizes and ages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    /// Number of changes queued for the writer.
    pub(crate) queue_depth: usize,
    /// Age of the oldest change that is not committed yet; 0 if there is none.
    pub(crate) oldest_change: Duration,
    /// Size of the database file in bytes.
    pub(crate) database_bytes: u64,
    /// Size of the write-ahead log in bytes.
    pub(crate) log_bytes: u64,
    /// Free bytes on the disk that holds both files.
    pub(crate) free_bytes: u64,
}

impl Store {
    /// Reads the current sizes and ages. A missing file counts as 0 bytes.
    pub(crate) fn measure(&self) -> Measured {
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

/// Returns the size of a file in bytes, or 0 if it does not exist.
fn size(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |metadata| metadata.len())
}
