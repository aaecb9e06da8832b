//! Parts of a database in a file: the file itself, its write-ahead log, and the reserve of disk space.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::reserve::Reserve;
use super::wal::Wal;
use crate::store::DatabaseFile;

#[derive(Clone)]
pub(crate) struct Local {
    pub(crate) file: DatabaseFile,
    pub(crate) reserve: Arc<Reserve>,
    pub(crate) wal: Arc<Wal>,
    /// Cancelled once the files at their paths are no longer the open ones. No change is acknowledged from then on.
    pub(crate) replaced: CancellationToken,
    /// Whether free pages go back to the file system. A database of an earlier version keeps them until
    /// [`compact`](super::space::compact).
    pub(crate) gives_space_back: bool,
    /// The database file, opened before all connections and closed after them ([`DatabaseFile::open`]).
    pub(crate) opened: Arc<File>,
}

/// The reason why a store can write nothing more in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// fsync of the database file failed.
    #[error("fsync of the database failed: the next start moves the write-ahead log into it again")]
    FlushFailed,
    /// A file of the database was replaced, renamed or deleted while it was open.
    #[error(
        "a file of the database was replaced, renamed or deleted: put the files back before the next start"
    )]
    FileReplaced,
}

impl Local {
    pub(crate) fn new(
        file: DatabaseFile,
        opened: File,
        disk_reserve_bytes: u64,
        gives_space_back: bool,
    ) -> Self {
        let opened = Arc::new(opened);
        Self {
            file,
            reserve: Arc::new(Reserve::new(Arc::clone(&opened), disk_reserve_bytes)),
            wal: Arc::default(),
            replaced: CancellationToken::new(),
            gives_space_back,
            opened,
        }
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        if self.wal.flush_failed().is_cancelled() {
            Some(Fault::FlushFailed)
        } else {
            self.replaced.is_cancelled().then_some(Fault::FileReplaced)
        }
    }

    /// Returns the bytes of the database file; 0 if it is missing.
    pub(crate) fn database_bytes(&self) -> u64 {
        size(self.file.path())
    }

    /// Returns the bytes of the write-ahead log; 0 if it is missing.
    pub(crate) fn log_bytes(&self) -> u64 {
        size(&self.file.wal())
    }
}

fn size(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |metadata| metadata.len())
}
