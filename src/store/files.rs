//! The database file and the three kinds of connections to it.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{
    FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Duration;

use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, SqliteConnection};

use super::error::is_busy;
use super::{BUSY_TIMEOUT, OpenError, Schema};
use crate::domain::Parse;

/// What is kept of the file of the write-ahead log: 128 MiB. From the half of that on the log is emptied, so it stays about
/// below, unless much is written at once, or a read that does not end, such as a backup by another program, is in the way.
pub(super) const WAL_BYTES: u64 = 128 * 1024 * 1024;

/// How long to wait for other programs to close the database where a command needs it alone.
const PATIENCE: Duration = Duration::from_secs(1);

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

/// The database file, as it was opened before all connections.
pub(super) struct OpenedFile {
    pub(super) file: File,
    /// Whether there was none before.
    is_new: bool,
}

impl DatabaseFile {
    /// The database at a path that need not be text.
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of its write-ahead log: SQLite puts it beside the file that a symbolic link leads to.
    pub(super) fn wal(&self) -> PathBuf {
        self.sibling("-wal")
    }

    /// Whether there is a log with anything in it: the last stop was not in order, or another process has the file open.
    pub(super) fn has_log(&self) -> bool {
        self.wal().metadata().is_ok_and(|log| log.len() > 0)
    }

    /// The path of the shared index of its log.
    pub(super) fn shm(&self) -> PathBuf {
        self.sibling("-shm")
    }

    /// The path of a file beside the database, whatever links lead there.
    pub(super) fn sibling(&self, suffix: &str) -> PathBuf {
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let mut sibling = path.into_os_string();
        sibling.push(suffix);
        sibling.into()
    }

    /// Opens the file, and creates it where there is none, readable for its owner alone; SQLite gives `-wal` and `-shm` the
    /// same mode. It is to be opened before all connections, to hear of each flush that fails, and closed after them: with it
    /// go the locks of the whole process on it (fcntl(2)).
    pub(super) fn open(&self, schema: Schema) -> Result<OpenedFile, OpenError> {
        let is_there = self.look()?.is_some();
        if !is_there && !schema.creates() {
            return Err(self.missing());
        }
        let owner = self.owner();
        let opened = open_or_create(&self.path, OpenOptions::new().append(true), owner.as_ref());
        let file = opened.map_err(|source| self.unusable(is_there, source))?;
        Ok(OpenedFile { file, is_new: !is_there })
    }

    /// Returns the metadata whose owner is that of the database: the file's, or the folder's where there is no file yet.
    pub(super) fn owner(&self) -> Option<Metadata> {
        let folder = self.path.parent().filter(|folder| *folder != Path::new(""));
        let folder = folder.unwrap_or(Path::new("."));
        fs::metadata(&self.path).or_else(|_| fs::metadata(folder)).ok()
    }

    /// What there is at the path, which must be a regular file or nothing. A FIFO would be waited for without an end. Through a
    /// link that leads nowhere a file could be made, but its lock would have another name before that than after it. A file
    /// with two names would have two logs and two locks, since these go by the name.
    pub(super) fn look(&self) -> Result<Option<Metadata>, OpenError> {
        match fs::metadata(&self.path) {
            Ok(found) if found.is_file() && found.nlink() > 1 => {
                Err(OpenError::SeveralNames { path: self.absolute(), names: found.nlink() })
            }
            Ok(found) if found.is_file() => Ok(Some(found)),
            Ok(found) => {
                let found = kind_of(&found);
                Err(OpenError::NoRegularFile { path: self.absolute(), found })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.path.is_symlink() {
                    let found = "a link to a file that is not there";
                    return Err(OpenError::NoRegularFile { path: self.absolute(), found });
                }
                Ok(None)
            }
            Err(source) => Err(self.unusable(true, source)),
        }
    }

    pub(super) fn missing(&self) -> OpenError {
        OpenError::Missing { path: self.absolute() }
    }

    fn unusable(&self, is_there: bool, source: io::Error) -> OpenError {
        let path = self.absolute();
        if is_there {
            OpenError::Unusable { path, source }
        } else {
            OpenError::Create { path, source }
        }
    }

    /// The path from the root on: what an operator who has mistaken the working directory needs to see.
    pub(super) fn absolute(&self) -> String {
        std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone()).display().to_string()
    }

    /// Tells the log which database was opened, and whether others than its owner can use it.
    pub(super) fn log_opened(&self, opened: &OpenedFile) {
        let path = self.absolute();
        tracing::info!(path, created = opened.is_new, "opened the database");
        let mode = opened.file.metadata().map_or(0, |found| found.permissions().mode() & 0o777);
        if mode & 0o077 != 0 {
            let mode = format!("{mode:o}");
            tracing::warn!(
                path,
                mode,
                "other users of this machine can use the database, which holds API keys: chmod 600 it, its -wal and its -shm"
            );
        }
    }

    /// A connection that leaves the file as it is: it may turn out to be somebody else's. Beside a log it is read-only, and so
    /// can't take the lock under which SQLite moves the log into the file when the last connection is closed. Without a log it
    /// may write, since a read-only one can't roll back what a `-journal` holds.
    pub(super) async fn connect_to_look(&self) -> Result<SqliteConnection, OpenError> {
        let options = self.options_plainly().read_only(self.has_log()).pragma("query_only", "1");
        options.connect().await.map_err(|source| self.failed(source))
    }

    /// A connection without the settings of a store.
    pub(super) async fn connect_plainly(&self) -> Result<SqliteConnection, OpenError> {
        self.options_plainly().connect().await.map_err(|source| self.failed(source))
    }

    pub(super) fn options_plainly(&self) -> SqliteConnectOptions {
        let options = SqliteConnectOptions::new().filename(&self.path);
        options.busy_timeout(BUSY_TIMEOUT).disable_statement_logging()
    }

    /// The only connection to a database: with these settings it waits a moment for others to close theirs, see
    /// [`Self::failed_alone`].
    pub(super) fn options_alone(&self) -> SqliteConnectOptions {
        self.options_plainly().busy_timeout(PATIENCE)
    }

    /// Why the only connection failed: others may have the database open.
    pub(super) fn failed_alone(&self, source: sqlx::Error) -> OpenError {
        if is_busy(&source) {
            OpenError::OpenElsewhere { path: self.absolute() }
        } else {
            self.failed(source)
        }
    }

    /// A connection that may write. Its log is checkpointed by the store's own task, never by a commit.
    pub(super) async fn connect_writer(&self) -> Result<SqliteConnection, OpenError> {
        let options = self.writer_options();
        options.connect().await.map_err(|source| self.failed(source))
    }

    /// The same, for an empty file: the database is made for giving free pages back to the file system.
    pub(super) async fn connect_first(&self) -> Result<SqliteConnection, OpenError> {
        let options = self.writer_options().auto_vacuum(SqliteAutoVacuum::Incremental);
        options.connect().await.map_err(|source| self.failed(source))
    }

    /// What is deleted is overwritten where its page is written anyway; the rest goes with the free pages.
    fn writer_options(&self) -> SqliteConnectOptions {
        self.options().pragma("wal_autocheckpoint", "0").pragma("secure_delete", "fast")
    }

    /// Connections that only read, twice as many as cores, but at least four, and one more for large pages.
    pub(super) async fn connect_readers(&self) -> Result<Vec<SqliteConnection>, OpenError> {
        let cores = available_parallelism().map_or(1, usize::from);
        let options = self.options().pragma("query_only", "1");
        let mut readers = Vec::new();
        for _ in 0..=(2 * cores).clamp(4, 64) {
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

/// What a file is, in words.
pub(super) fn kind_of(found: &Metadata) -> &'static str {
    let kind = found.file_type();
    if kind.is_file() {
        "a regular file"
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// Opens a file, and creates it where there is none, with mode 0600 and this owner. An existing file keeps its owner: the owner
/// of the folder may have put a link there.
pub(super) fn open_or_create(
    path: &Path,
    options: &mut OpenOptions,
    owner: Option<&Metadata>,
) -> io::Result<File> {
    match options.mode(0o600).create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            options.create_new(false).create(true).open(path)
        }
        created => created.inspect(|file| give(file, owner)),
    }
}

/// Gives a new file the owner of the database: a command that root runs must not lock the server's user out. Only root can do
/// that; for other users it does nothing.
pub(super) fn give(file: &File, owner: Option<&Metadata>) {
    if let (Some(owner), Ok(made)) = (owner, file.metadata())
        && owner.uid() != made.uid()
    {
        drop(fchown(file, Some(owner.uid()), Some(owner.gid())));
    }
}
