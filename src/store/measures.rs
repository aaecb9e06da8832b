//! Sizes, ages and queue depth of the store, for the metrics.

use std::time::Duration;

use super::Store;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) queue_depth: usize,
    /// Age of the oldest change that is not committed yet; 0 if there is none.
    pub(crate) oldest_change: Duration,
    /// Whether new API keys are sealed.
    pub(crate) is_sealing: bool,
    /// Sizes of a database in a file, in bytes.
    pub(crate) file: Option<FileSizes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileSizes {
    pub(crate) database: u64,
    pub(crate) log: u64,
    /// Free space of the disk that holds both files.
    pub(crate) free: u64,
}

impl Store {
    pub(crate) fn measure(&self) -> Measured {
        Measured {
            queue_depth: self.queue_depth(),
            oldest_change: self.writer.oldest_change(),
            is_sealing: self.keys.is_sealing(),
            file: self.engine.local().map(|local| FileSizes {
                database: local.database_bytes(),
                log: local.log_bytes(),
                free: local.reserve.free_bytes(),
            }),
        }
    }
}
