//! Errors of the store: of a read or a write ([`Error`], [`WriteError`]), and of opening the database ([`OpenError`]).

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::migrate::MigrateError;

use super::postgres;
use super::sqlite::codes::{self, is_busy, is_of_damage};
use super::{DatabaseFile, LockHolder};
use crate::domain::{Parse as _, Refusal};
use crate::key_file::KeyFileError;
use crate::sealing::UnsealError;

/// Set once a read or write finds the database damaged. It is static because errors are made in many places, and a
/// serving process has one database.
static IS_DAMAGED: AtomicBool = AtomicBool::new(false);

/// A failed read or write. [`Self::Closed`] and [`Self::Disconnected`] say "perhaps": a write may have been made before
/// its answer was dropped. Any other failed write leaves nothing behind.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The writer's queue is full. A later retry may succeed.
    #[error("the queue of the writer is full")]
    QueueFull,
    /// The disk is nearly full, and the change would grow the data.
    #[error(
        "the disk has {free} bytes free; limits.disk_reserve_bytes reserves {reserve} for changes that don't grow the data"
    )]
    StorageFull {
        /// Free bytes on the disk.
        free: u64,
        /// Bytes reserved for changes that don't grow the data.
        reserve: u64,
    },
    /// The database server's disk is full.
    #[error("the disk of the database is full")]
    ServerFull,
    /// The store is shutting down, or its writer has ended.
    #[error("the writer has stopped")]
    Closed,
    /// The database server can't be reached, or was lost before it confirmed a commit.
    #[error("the database can't be reached")]
    Disconnected,
    /// The connection to the database server was lost before a commit was asked for.
    #[error("the connection to the database is lost")]
    SessionLost,
    /// The caller of a change that is only for its answer has given up waiting.
    #[error("the caller has given up waiting")]
    Abandoned,
    /// The key file does not open an API key.
    #[error(transparent)]
    Sealed(#[from] UnsealError),
    /// The database refused or failed.
    #[error("the database failed while {doing}")]
    Database {
        /// The failed operation, as text after "while".
        doing: &'static str,
        /// The error of SQLite or of decoding.
        #[source]
        source: Arc<sqlx::Error>,
    },
}

/// Why a write was refused or failed. A refused one leaves nothing behind.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError<R = Refusal> {
    /// The rules refuse it.
    #[error(transparent)]
    Refused(R),
    /// The store failed.
    #[error(transparent)]
    Failed(Error),
}

impl<R> From<Error> for WriteError<R> {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Refusal> for WriteError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Converts the error of a write that no rule refuses.
impl From<WriteError<Infallible>> for Error {
    fn from(error: WriteError<Infallible>) -> Self {
        match error {
            WriteError::Refused(never) => match never {},
            WriteError::Failed(error) => error,
        }
    }
}

impl Error {
    /// Whether every change or query of a batch would fail alike: another process keeps the database locked, or the
    /// writer has stopped. Retrying one at a time is then useless.
    pub(crate) fn is_for_all(&self) -> bool {
        match self {
            Self::Database { source, .. } => is_busy(source) || postgres::codes::is_for_all(source),
            Self::Closed | Self::Disconnected | Self::SessionLost | Self::ServerFull => true,
            Self::QueueFull | Self::StorageFull { .. } | Self::Abandoned | Self::Sealed(_) => false,
        }
    }

    /// Whether a batch is to be repeated as a whole: it met a change of another node, lost its connection before the
    /// commit, or has an abandoned change, which the repeat skips.
    pub(crate) fn is_repeatable(&self) -> bool {
        match self {
            Self::Database { source, .. } => postgres::codes::is_conflict(source),
            Self::Abandoned | Self::SessionLost => true,
            _ => false,
        }
    }

    /// Whether a repeat may succeed in a moment: the queue is full, or the database is locked, slow or away.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Database { source, .. } => is_busy(source) || postgres::codes::is_for_all(source),
            error => matches!(error, Self::QueueFull | Self::Disconnected | Self::SessionLost),
        }
    }

    /// Returns the cause of a failure as one of a few words, for a metric label.
    pub(crate) fn cause(&self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::StorageFull { .. } => "storage_full",
            Self::ServerFull => "full",
            Self::Closed => "closed",
            Self::Abandoned => "abandoned",
            Self::Disconnected | Self::SessionLost => "disconnected",
            Self::Sealed(_) => "key_file",
            Self::Database { source, .. } => {
                codes::cause(source).or_else(|| postgres::codes::cause(source)).unwrap_or("other")
            }
        }
    }

    /// Creates the error for rows that contradict each other, and marks the database as damaged.
    pub(crate) fn contradiction(doing: &'static str, sentence: &'static str) -> Self {
        let source = sqlx::Error::Decode(sentence.into());
        note_damage(doing, &source);
        Self::Database { doing, source: Arc::new(source) }
    }

    /// Creates the error for a column value that this program does not write.
    pub(crate) fn not_as_stored(expected: &str) -> Self {
        let sentence = format!("a column does not hold {expected}");
        let source = Arc::new(sqlx::Error::Decode(sentence.into()));
        Self::Database { doing: "decoding a stored value", source }
    }
}

pub(crate) trait Doing<T> {
    /// Turns the error into [`Error::Database`] with "while {doing}". Marks the database as damaged if the error says
    /// so.
    fn doing(self, doing: &'static str) -> Result<T, Error>;
}

impl<T> Doing<T> for Result<T, sqlx::Error> {
    fn doing(self, doing: &'static str) -> Result<T, Error> {
        self.map_err(|source| {
            if is_of_damage(&source) {
                note_damage(doing, &source);
            }
            match postgres::codes::cause(&source) {
                Some("full") => Error::ServerFull,
                Some("disconnected") => {
                    tracing::warn!(doing, error = %source, "a connection to the database is lost");
                    Error::SessionLost
                }
                _ => Error::Database { doing, source: Arc::new(source) },
            }
        })
    }
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{url:?} must be {}", DatabaseFile::EXPECTED)]
    Url { url: String },
    /// There is no database, and this command does not create one.
    #[error(
        "there is no database at {path}: `chatserver serve`, `migrate`, `restore` and `user add` create one"
    )]
    Missing { path: String },
    #[error("{path} is {found}: the database must be a regular file")]
    NoRegularFile { path: String, found: &'static str },
    /// The file has several hard links. Another server could open it under another name.
    #[error(
        "the database {path} is a file with several names ({names} hard links): its write-ahead log and lock belong to one \
         name. Keep the name with a -wal beside it, if there is one, and remove the others"
    )]
    SeveralNames { path: String, names: u64 },
    /// The file exists and can't be opened.
    #[error("the database {path} can't be opened: {source}{}", advice(source))]
    Unusable { path: String, source: io::Error },
    #[error("the database {path} can't be created: {source}{}", advice(source))]
    Create {
        path: String,
        #[source]
        source: io::Error,
    },
    /// A server, or a command that needs the database to itself, holds the lock.
    #[error("the database {path} is in use by {holder}")]
    InUse { path: String, holder: LockHolder },
    /// A program other than a server has the database open.
    #[error(
        "another program has the database {path} open, such as a command or an sqlite3 shell: end it first"
    )]
    OpenElsewhere { path: String },
    /// The lock file can't be created, locked or written.
    #[error("the lock file {path} can't be used: {source}{}", advice(source))]
    Lock {
        path: String,
        #[source]
        source: io::Error,
    },
    /// The file is no database, or SQLite could not open it.
    #[error("the database {path} can't be opened: {source}{}", codes::advice(source))]
    Open {
        path: String,
        #[source]
        source: sqlx::Error,
    },
    /// The write-ahead log belongs to another database, or the disk has lost data.
    #[error(
        "the database {path} and its write-ahead log {path}-wal don't belong together: {found}. This happens when a copy \
         is put over the file of a killed server. Keep copies of both files. Then put the original file back, or run \
         `chatserver restore` with the backup"
    )]
    Mixed { path: String, found: String },
    #[error(
        "the database {path} has an older schema ({found} of {known} migrations): run `chatserver migrate`"
    )]
    OlderSchema { path: String, found: usize, known: usize },
    #[error(
        "the database {path} has the schema of a newer version of chatserver ({found} migrations, of which this version knows \
         {known}): use that version, or restore a backup of this one"
    )]
    NewerSchema { path: String, found: usize, known: usize },
    #[error("the database {path} was made by a newer version of chatserver, or by another program")]
    UnknownSchema { path: String },
    #[error(
        "the database {path} is an unfinished copy: run the same `chatserver copy` again, which finishes it"
    )]
    UnfinishedCopy { path: String },
    #[error("the database {path} can't be compacted; it is unchanged")]
    Compact {
        path: String,
        #[source]
        source: sqlx::Error,
    },
    /// No server answers there, or not within the time to connect; or its certificate is not trusted.
    #[error("{url} can't be reached: {source}{}", postgres::connect::advice(source))]
    Unreachable { url: String, source: io::Error },
    /// The server answers, and refuses the session.
    #[error(
        "{url} can't be opened: {}{}",
        postgres::codes::message(cause),
        postgres::codes::advice(cause)
    )]
    Refused { url: String, cause: sqlx::Error },
    #[error("the file of sslrootcert, {path}, can't be used: {source}")]
    Authority { path: String, source: io::Error },
    #[error("{url} is PostgreSQL {found}; chatserver needs 15 or newer")]
    TooOld { url: String, found: String },
    #[error("{url} is read-only: {why}. chatserver needs the primary")]
    ReadOnly { url: String, why: &'static str },
    #[error(
        "{url} has the encoding {found}; it must be UTF8: create it with ENCODING 'UTF8' TEMPLATE template0"
    )]
    Encoding { url: String, found: String },
    #[error(
        "{url} has no tables of chatserver yet: `chatserver serve`, `migrate` and `user add` make them"
    )]
    Empty { url: String },
    /// The command works on a database in a file.
    #[error("{url} is a PostgreSQL database. {instead}")]
    NoFile { url: String, instead: &'static str },
    /// The key file is missing, unusable, or that of another database.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// API keys can't be sealed while the database is opened.
    #[error("the API keys of the database can't be sealed: {source}")]
    Unsealed {
        #[source]
        source: Error,
    },
    /// A migration failed and was rolled back.
    #[error("the database {path} can't be migrated: {source}{}", of_migration(source))]
    Migrate {
        path: String,
        #[source]
        source: MigrateError,
    },
}

impl OpenError {
    /// Whether another connection was in the way, so a retry may succeed.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Open { source, .. } if is_busy(source))
    }
}

/// Returns what an operator can do about a file that can't be opened or created.
fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "; create its folder first",
        io::ErrorKind::PermissionDenied => PERMISSIONS,
        io::ErrorKind::ReadOnlyFilesystem => "; its file system is mounted read-only",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FULL,
        _ => "",
    }
}

pub(super) const PERMISSIONS: &str = "; the user who runs this must be able to read and write the file and its folder, where SQLite keeps -wal and -shm";

pub(super) const FULL: &str = "; the disk is full: make room on it and start again";

/// Returns what an operator can do about a failed migration.
fn of_migration(error: &MigrateError) -> &'static str {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            match codes::advice(error) {
                "" => postgres::codes::advice(error),
                of_sqlite => of_sqlite,
            }
        }
        _ => "",
    }
}

/// Whether a read or a write has found the database damaged since this process started. The log says what to do.
pub(crate) fn is_damaged() -> bool {
    IS_DAMAGED.load(Ordering::Relaxed)
}

fn note_damage(doing: &'static str, error: &sqlx::Error) {
    if !IS_DAMAGED.swap(true, Ordering::Relaxed) {
        tracing::error!(
            doing,
            %error,
            "the database is damaged: stop the server, keep a copy of the database with its -wal and -shm, check the disk, \
             and put a backup in its place with `chatserver restore`"
        );
    }
}
