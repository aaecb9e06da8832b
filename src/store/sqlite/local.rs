//! Parts of a database in a file: the file itself, its write-ahead log, and the reserve of disk space.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use sqlx::SqliteConnection;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::reserve::Reserve;
use super::wal::Wal;
use super::watch::watch;
use crate::store::{DatabaseFile, Error};

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

    /// Opens a writing connection again. Never after an fsync failure, which a file that is opened later does not report.
    pub(crate) async fn reconnect(&self) -> Result<SqliteConnection, Error> {
        if self.wal.flush_failed().is_cancelled() {
            return Err(Error::Closed);
        }
        self.file.connect_writer().await.map_err(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "reopening the database failed");
            Error::Closed
        })
    }

    /// Starts the tasks that watch the files and the disk.
    pub(crate) fn watch(&self, [closing, ended]: [CancellationToken; 2], tasks: &TaskTracker) {
        tasks.spawn(stop_when_replaced(self.clone(), closing));
        tasks.spawn(Arc::clone(&self.reserve).watch(ended));
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

/// Stops the writer once a path of the database no longer leads to the open file.
async fn stop_when_replaced(local: Local, closing: CancellationToken) {
    let watch = watch(local.file.clone(), Arc::clone(&local.opened));
    let Some(path) = closing.run_until_cancelled(watch).await else { return };
    tracing::error!(
        path = %path.display(),
        "a file of the open database was replaced, renamed or deleted: no further change is acknowledged"
    );
    local.replaced.cancel();
    closing.cancel();
}

fn size(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |metadata| metadata.len())
}
