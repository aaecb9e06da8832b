//! A reserve of free disk space.
//!
//! SQLite needs space to delete as well: a clear, a purge and an acknowledgement are first written to the log. Below
//! the reserve, changes that grow the data are refused, and changes that shrink it continue.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use metrics::counter;
use rustix::fs::fstatvfs;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::store::Error;

/// Interval between reads of the free space, if little is written.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Part of the reserve that may be written between two reads.
const LOOK_AFTER: u64 = 8;

/// Free space on the database's disk, and the reserve that is kept of it.
pub(crate) struct Reserve {
    database: Arc<File>,
    /// Bytes to keep free; 0 disables the reserve.
    bytes: u64,
    free: AtomicU64,
    /// Bytes of data written since the last read.
    written: AtomicU64,
    is_full: AtomicBool,
}

impl Reserve {
    /// Reads the free space for the first time.
    pub(crate) fn new(database: Arc<File>, bytes: u64) -> Self {
        let free = AtomicU64::new(u64::MAX);
        let (written, is_full) = (AtomicU64::new(0), AtomicBool::new(false));
        let reserve = Self { database, bytes, free, written, is_full };
        reserve.look();
        reserve
    }

    /// Notes that this many bytes of data were written. After a part of the reserve, reads the free space on the thread
    /// of the writer, which takes microseconds: a task of its own may be too late.
    pub(crate) fn grew(&self, bytes: u64) {
        let written = self.written.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if written > self.bytes / LOOK_AFTER {
            self.look();
        }
    }

    /// Reads the free space every second, until the store has closed.
    pub(crate) async fn watch(self: Arc<Self>, ended: CancellationToken) {
        while ended.run_until_cancelled(sleep(LOOK_EVERY)).await.is_some() {
            let reserve = Arc::clone(&self);
            drop(spawn_blocking(move || reserve.look()).await);
        }
    }

    /// Refuses a change that grows the data if less than the reserve is free.
    pub(crate) fn refuse_growth(&self) -> Result<(), Error> {
        if !self.is_full() {
            return Ok(());
        }
        counter!("chatserver_store_refused_changes_total", "cause" => "storage_full").increment(1);
        Err(Error::StorageFull { free: self.free_bytes(), reserve: self.bytes })
    }

    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    fn look(&self) {
        self.written.store(0, Ordering::Relaxed);
        let free_bytes = match fstatvfs(&self.database) {
            Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
            Err(error) => {
                tracing::debug!(%error, "reading the free space of the disk failed");
                return;
            }
        };
        self.free.store(free_bytes, Ordering::Relaxed);
        let (is_full, reserve_bytes) = (free_bytes < self.bytes, self.bytes);
        let was_full = self.is_full.swap(is_full, Ordering::Relaxed);
        if is_full && !was_full {
            tracing::warn!(
                free_bytes,
                reserve_bytes,
                "the disk is nearly full: changes that grow the data are refused until more than limits.disk_reserve_bytes is free"
            );
        } else if was_full && !is_full {
            tracing::info!(
                free_bytes,
                reserve_bytes,
                "the disk has space again: all changes are accepted"
            );
        }
    }
}
