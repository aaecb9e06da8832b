//! The database file and the kinds of connections to it.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{
    FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Duration;

use rustix::fs::{Access, access};
use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, SqliteConnection};

use super::codes::is_busy;
use crate::domain::Parse;
use crate::store::{OpenError, Schema};

/// Maximum time that a statement waits for another process to release the database.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes of the write-ahead log file that are kept: 128 MiB. The log is emptied from half of that on, so it usually
/// stays below. Large bursts of writes, or a read that does not end, such as a backup by another program, let it grow
/// further.
pub(crate) const WAL_BYTES: u64 = 128 * 1024 * 1024;

/// How long a command that needs the database alone waits for other programs to close it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The location of an SQLite database.
#[derive(Clone, Debug)]
pub(crate) struct DatabaseFile {
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

/// The database file, opened before all connections.
pub(crate) struct OpenedFile {
    pub(crate) file: File,
    /// Whether opening it created the file.
    is_new: bool,
}

impl DatabaseFile {
    /// Names the database at a path, which need not be UTF-8.
    pub(crate) fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The path as given; it may be relative or a symbolic link.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the write-ahead log. SQLite puts it beside the target of a symbolic link.
    pub(crate) fn wal(&self) -> PathBuf {
        self.sibling("-wal")
    }

    /// Whether there is a non-empty log: the last shutdown was not clean, or another process has the file open.
    pub(crate) fn has_log(&self) -> bool {
        self.wal().metadata().is_ok_and(|log| log.len() > 0)
    }

    /// The path of the log's shared-memory index.
    pub(crate) fn shm(&self) -> PathBuf {
        self.sibling("-shm")
    }

    /// Returns the path of a file beside the database, with symbolic links resolved.
    pub(crate) fn sibling(&self, suffix: &str) -> PathBuf {
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let mut sibling = path.into_os_string();
        sibling.push(suffix);
        sibling.into()
    }

    /// Opens the file, or creates it with mode 0600. SQLite gives `-wal` and `-shm` the same mode.
    ///
    /// Open it before all connections, so that every failed fsync is reported to it. Close it after them: closing it
    /// drops all locks of the process on the file (fcntl(2)).
    pub(crate) fn open(&self, schema: Schema) -> Result<OpenedFile, OpenError> {
        let is_there = self.look()?.is_some();
        if !is_there && !schema.creates() {
            return Err(self.missing());
        }
        let owner = self.owner();
        let opened = open_or_create(&self.path, OpenOptions::new().append(true), owner.as_ref());
        let file = opened.map_err(|source| self.unusable(is_there, source))?;
        Ok(OpenedFile { file, is_new: !is_there })
    }

    /// Returns the folder of the database.
    pub(crate) fn folder(&self) -> PathBuf {
        let folder = self.path.parent().filter(|folder| *folder != Path::new(""));
        folder.unwrap_or(Path::new(".")).to_owned()
    }

    /// Returns the metadata whose owner is that of the database: the file's, or the folder's if there is no file yet.
    pub(crate) fn owner(&self) -> Option<Metadata> {
        fs::metadata(&self.path).or_else(|_| fs::metadata(self.folder())).ok()
    }

    /// Returns the metadata of the file, or `None` if there is none. Refuses anything but a regular file with one name.
    ///
    /// Opening a FIFO would block forever. Creating a file through a dangling link would change the name of its lock. A
    /// file with two names would have two logs and two locks, since these go by the name.
    pub(crate) fn look(&self) -> Result<Option<Metadata>, OpenError> {
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
                    let found = "a link to a missing file";
                    return Err(OpenError::NoRegularFile { path: self.absolute(), found });
                }
                Ok(None)
            }
            Err(source) => Err(self.unusable(true, source)),
        }
    }

    pub(crate) fn missing(&self) -> OpenError {
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

    /// Returns the absolute path, which shows an operator a mistaken working directory.
    pub(crate) fn absolute(&self) -> String {
        std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone()).display().to_string()
    }

    /// Logs which database was opened, and warns if other users of the machine can access it.
    pub(crate) fn log_opened(&self, opened: &OpenedFile) {
        let path = self.absolute();
        tracing::info!(path, created = opened.is_new, "database opened");
        let mode = opened.file.metadata().map_or(0, |found| found.permissions().mode() & 0o777);
        if mode & 0o077 != 0 {
            let mode = format!("{mode:o}");
            tracing::warn!(
                path,
                mode,
                "other users of this machine can use the database: chmod 600 it, its -wal and its -shm"
            );
        }
    }

    /// Opens a connection that leaves the file unchanged: the file may not be a database of this program.
    ///
    /// If there is a `-wal`, it opens read-only, so that closing it does not checkpoint the `-wal`. Without one it may
    /// write, since a read-only connection can't roll back a `-journal`.
    pub(crate) async fn connect_to_inspect(&self) -> Result<SqliteConnection, OpenError> {
        let options =
            self.options_unconfigured().read_only(self.has_log()).pragma("query_only", "1");
        options.connect().await.map_err(|source| self.failed(source))
    }

    /// Opens a connection without the settings of a store.
    pub(crate) async fn connect_unconfigured(&self) -> Result<SqliteConnection, OpenError> {
        self.options_unconfigured().connect().await.map_err(|source| self.failed(source))
    }

    pub(crate) fn options_unconfigured(&self) -> SqliteConnectOptions {
        let options = SqliteConnectOptions::new().filename(&self.path);
        options.busy_timeout(BUSY_TIMEOUT).disable_statement_logging()
    }

    /// Options for a database's only connection. It waits up to 1 s for other connections to close; see
    /// [`Self::failed_exclusive`].
    pub(crate) fn options_exclusive(&self) -> SqliteConnectOptions {
        self.options_unconfigured().busy_timeout(PATIENCE)
    }

    /// Returns why the only connection failed: [`OpenError::OpenElsewhere`] if another program has the database open.
    pub(crate) fn failed_exclusive(&self, source: sqlx::Error) -> OpenError {
        if is_busy(&source) {
            OpenError::OpenElsewhere { path: self.absolute() }
        } else {
            self.failed(source)
        }
    }

    /// Opens a connection that may write. The store's own task checkpoints the log, never a commit.
    pub(crate) async fn connect_writer(&self) -> Result<SqliteConnection, OpenError> {
        let options = self.writer_options();
        options.connect().await.map_err(|source| self.failed(source))
    }

    /// Opens a writing connection to an empty file, with incremental auto-vacuum: free pages can be given back to the
    /// file system.
    pub(crate) async fn connect_new_file(&self) -> Result<SqliteConnection, OpenError> {
        let options = self.writer_options().auto_vacuum(SqliteAutoVacuum::Incremental);
        options.connect().await.map_err(|source| self.failed(source))
    }

    /// With `secure_delete = on`, SQLite overwrites deleted content at once, on freed pages as well. With `fast` it
    /// leaves freed pages as they are, and a message that takes one over keeps the old bytes behind its own.
    fn writer_options(&self) -> SqliteConnectOptions {
        self.options().pragma("wal_autocheckpoint", "0").pragma("secure_delete", "on")
    }

    /// Opens the read-only connections: two per core, at least 4 and at most 64, and one more for large pages.
    pub(crate) async fn connect_readers(&self) -> Result<Vec<SqliteConnection>, OpenError> {
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
            // Otherwise every statement that changes several rows creates a temporary file for its rollback.
            .pragma("temp_store", "memory")
            .disable_statement_logging()
    }

    pub(crate) fn failed(&self, source: sqlx::Error) -> OpenError {
        OpenError::Open { path: self.path.display().to_string(), source }
    }
}

pub(crate) fn kind_of(found: &Metadata) -> &'static str {
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

/// Checks that the database at this URL can be opened, or created in its folder. Changes nothing. Returns whether there
/// is one.
///
/// # Errors
///
/// [`OpenError`] where the file is none of a database, or its folder is missing or closed to this process.
pub(crate) fn check_file(url: &str) -> Result<bool, OpenError> {
    let database =
        DatabaseFile::parse(url).ok_or_else(|| OpenError::Url { url: url.to_owned() })?;
    let is_there = database.look()?.is_some();
    let failed = |source| database.unusable(is_there, source);
    let (path, needed) = if is_there {
        (database.path.clone(), Access::READ_OK | Access::WRITE_OK)
    } else {
        (database.folder(), Access::EXISTS)
    };
    access(&path, needed).map_err(|error| failed(error.into()))?;
    let folder = Access::WRITE_OK | Access::EXEC_OK;
    access(database.folder(), folder).map_err(|error| failed(error.into()))?;
    Ok(is_there)
}

/// Opens a file, or creates it with mode 0600 and this owner. An existing file keeps its owner: otherwise a link in that
/// folder could give a foreign file to the folder's owner.
pub(crate) fn open_or_create(
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

/// Gives a new file the owner of the database, so that a command run by root does not lock out the server's user. Only
/// root can do that; for other users it does nothing.
pub(crate) fn give(file: &File, owner: Option<&Metadata>) {
    if let (Some(owner), Ok(made)) = (owner, file.metadata())
        && owner.uid() != made.uid()
    {
        drop(fchown(file, Some(owner.uid()), Some(owner.gid())));
    }
}
