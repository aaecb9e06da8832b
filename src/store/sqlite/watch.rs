//! Detects that a file of the database was replaced, renamed or deleted while it is open.
//!
//! SQLite goes on with the files that it has open. What it commits then disappears with the process, or is in a file
//! that no other process will look for.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::store::DatabaseFile;

/// Interval between two looks at the files. A change that is acknowledged into a deleted file is lost.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Device and inode.
type Identity = (u64, u64);

/// A file of the database, and its identity when it was opened.
struct Watched {
    path: PathBuf,
    /// `None` until the file exists: SQLite creates the log when it needs it.
    identity: Option<Identity>,
}

/// Waits until a path no longer leads to the open file, and returns that path.
pub(crate) async fn watch(database: DatabaseFile, opened: Arc<File>) -> PathBuf {
    let identity = opened.metadata().ok().map(|metadata| identity(&metadata));
    let mut files = vec![
        Watched { path: database.path().to_owned(), identity },
        Watched { path: database.wal(), identity: None },
        Watched { path: database.shm(), identity: None },
    ];
    loop {
        let looked = spawn_blocking(move || {
            let gone = files.iter_mut().find_map(Watched::look);
            (files, gone)
        });
        match looked.await {
            Ok((_, Some(path))) => return path,
            Ok((still, None)) => files = still,
            // The runtime is shutting down.
            Err(_) => return std::future::pending().await,
        }
        sleep(LOOK_EVERY).await;
    }
}

impl Watched {
    /// Returns the path if another file is there now, or none. A file that can't be inspected counts as unchanged.
    fn look(&mut self) -> Option<PathBuf> {
        match (now(&self.path), self.identity) {
            (Ok(found), Some(known)) => (found != Some(known)).then(|| self.path.clone()),
            (Ok(found), None) => {
                self.identity = found;
                None
            }
            (Err(error), _) => {
                let path = self.path.display();
                tracing::warn!(%error, %path, "reading the metadata of a database file failed");
                None
            }
        }
    }
}

fn now(path: &Path) -> io::Result<Option<Identity>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(identity(&metadata))),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
            _ => Err(error),
        },
    }
}

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}
