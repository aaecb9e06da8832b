//! The database file and the three kinds of connections to it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, SqliteConnection};

use super::{BUSY_TIMEOUT, OpenError};
use crate::id::Parse;

/// What is kept of the file of the write-ahead log: 128 MiB. From the half of that on the log is emptied, so it stays about
/// below, unless much is written at once, or a read that does not end, such as a backup by another program, is in the way.
pub(super) const WAL_BYTES: u64 = 128 * 1024 * 1024;

/// Where an SQLite database stands.
#[derive(Clone, Debug)]
pub struct DatabaseFile {
    path: PathBuf,
}

impl Parse for DatabaseFile {
    const EXPECTED: &'static str =
        "sqlite:// and the path of a file, such as sqlite://chatserver.db";

    fn parse(url: &str) -> Option<Self> {
        let path = url.strip_prefix("sqlite://")?;
        let well_formed =
            !path.is_empty() && !path.starts_with(':') && !path.contains(['?', '#', '\0']);
        well_formed.then(|| Self { path: path.into() })
    }

    fn objection(url: &str) -> Option<&'static str> {
        let path = url.strip_prefix("sqlite://")?;
        path.contains(['?', '#']).then_some(
            "its path holds ? or #, which begin parameters in a URL: leave these out, or rename the file or folder",
        )
    }
}

impl DatabaseFile {
    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of its write-ahead log: SQLite puts it beside the file that a symbolic link leads to.
    pub(super) fn wal(&self) -> PathBuf {
        self.sibling("-wal")
    }

    /// The path of the shared index of its log.
    pub(super) fn shm(&self) -> PathBuf {
        self.sibling("-shm")
    }

    fn sibling(&self, suffix: &str) -> PathBuf {
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let mut sibling = path.into_os_string();
        sibling.push(suffix);
        sibling.into()
    }

    /// Opens the file, and creates it where there is none, readable for its owner alone; SQLite gives `-wal` and `-shm` the
    /// same mode. It is to be opened before all connections, to hear of each flush that fails, and closed after them: with it
    /// go the locks of the whole process on it (fcntl(2)).
    pub(super) fn open(&self) -> Result<File, OpenError> {
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        let opened = options.open(&self.path);
        opened.map_err(|source| OpenError::Create { path: self.path.display().to_string(), source })
    }

    /// A connection that leaves the file as it is: it may turn out to be somebody else's.
    pub(super) async fn connect_to_look(&self) -> Result<SqliteConnection, OpenError> {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("query_only", "1")
            .disable_statement_logging();
        options.connect().await.map_err(|source| self.failed(source))
    }

    /// A connection that may write. Its log is checkpointed by the store's own task, never by a commit.
    pub(super) async fn connect_writer(&self) -> Result<SqliteConnection, OpenError> {
        let options = self.options().pragma("wal_autocheckpoint", "0");
        options.connect().await.map_err(|source| self.failed(source))
    }

    /// Connections that only read, twice as many as cores, but at least four.
    pub(super) async fn connect_readers(&self) -> Result<Vec<SqliteConnection>, OpenError> {
        let cores = available_parallelism().map_or(1, usize::from);
        let options = self.options().pragma("query_only", "1");
        let mut readers = Vec::new();
        for _ in 0..(2 * cores).clamp(4, 64) {
            readers.push(options.connect().await.map_err(|source| self.failed(source))?);
        }
        Ok(readers)
    }

    fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("journal_size_limit", WAL_BYTES.to_string())
            // Otherwise each statement that changes several rows makes a file to undo it by.
            .pragma("temp_store", "memory")
            .disable_statement_logging()
    }

    pub(super) fn failed(&self, source: sqlx::Error) -> OpenError {
        OpenError::Open { path: self.path.display().to_string(), source }
    }
}
