//! What can go wrong in the store.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::migrate::MigrateError;

use super::{DatabaseFile, LockHolder};
use crate::domain::{Parse as _, Refusal};

/// Set once a read or a change has found the database damaged. It is static because errors are made in many places, and a
/// process that serves has one database.
static IS_DAMAGED: AtomicBool = AtomicBool::new(false);

/// A read or a change that did not happen. Nothing of a change that fails is kept.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The writer's queue is full: the caller may try again later.
    #[error("the queue of the writer is full")]
    QueueFull,
    /// The disk is nearly full, and the change would grow the data.
    #[error(
        "the disk has {free} bytes free, and limits.disk_reserve_bytes keeps {reserve} for changes that don't grow the data"
    )]
    StorageFull {
        /// Bytes that are free.
        free: u64,
        /// Bytes that are kept free.
        reserve: u64,
    },
    /// The store is shutting down, or its writer has ended.
    #[error("the writer has stopped")]
    Closed,
    /// The database refused or failed.
    #[error("the database failed while {doing}")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: Arc<sqlx::Error>,
    },
}

/// Why a write was not made. Nothing of it is kept.
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

/// Of a write that no rule refuses.
impl From<WriteError<Infallible>> for Error {
    fn from(error: WriteError<Infallible>) -> Self {
        match error {
            WriteError::Refused(never) => match never {},
            WriteError::Failed(error) => error,
        }
    }
}

impl Error {
    /// Whether it is the same for every change: another process has kept the database, or it can't be opened.
    pub(super) fn is_for_all(&self) -> bool {
        match self {
            Self::Database { source, .. } => is_busy(source),
            Self::Closed => true,
            Self::QueueFull | Self::StorageFull { .. } => false,
        }
    }

    /// Why a change failed, in one of a few words: a label of metrics. See <https://sqlite.org/rescode.html>.
    pub(super) fn cause(&self) -> &'static str {
        const CAUSES: [(i32, &str); 9] = [
            (5, "busy"),
            (6, "busy"),
            (8, "readonly"),
            (10, "io"),
            (11, "corrupt"),
            (13, "full"),
            (14, "cantopen"),
            (19, "constraint"),
            (26, "corrupt"),
        ];
        match self {
            Self::QueueFull => "queue_full",
            Self::StorageFull { .. } => "storage_full",
            Self::Closed => "closed",
            Self::Database { source, .. } => {
                let kind = sqlite_code(source).map(|code| code & 0xff);
                let known = CAUSES.iter().find(|(code, _)| kind == Some(*code));
                known.map_or("other", |(_, word)| word)
            }
        }
    }

    /// Rows contradict each other.
    pub(super) fn contradiction(doing: &'static str, sentence: &'static str) -> Self {
        let source = sqlx::Error::Decode(sentence.into());
        note_damage(doing, &source);
        Self::Database { doing, source: Arc::new(source) }
    }

    /// A column holds something else than what is written there.
    pub(super) fn not_as_stored(expected: &str) -> Self {
        let sentence = format!("a column holds something else than {expected}");
        let source = Arc::new(sqlx::Error::Decode(sentence.into()));
        Self::Database { doing: "reading what was stored", source }
    }
}

/// Says what was being done when a statement failed.
pub(super) trait Doing<T> {
    /// The result, with the words "while {doing}" in its error.
    fn doing(self, doing: &'static str) -> Result<T, Error>;
}

impl<T> Doing<T> for Result<T, sqlx::Error> {
    fn doing(self, doing: &'static str) -> Result<T, Error> {
        self.map_err(|source| {
            if is_of_damage(&source) {
                note_damage(doing, &source);
            }
            Error::Database { doing, source: Arc::new(source) }
        })
    }
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL names no SQLite file.
    #[error("{url:?} must be {}", DatabaseFile::EXPECTED)]
    Url {
        /// The URL as it was given.
        url: String,
    },
    /// There is no database, and none is to be created.
    #[error(
        "there is no database at {path}: `chatserver serve`, `migrate`, `restore` and `user add` create one"
    )]
    Missing {
        /// The path of the file.
        path: String,
    },
    /// The path is not the one of a regular file.
    #[error("{path} is {found}: the database must be a regular file")]
    NoRegularFile {
        /// The path.
        path: String,
        /// What there is.
        found: &'static str,
    },
    /// The file has other names, under which another server could open it.
    #[error(
        "the database {path} is a file with several names ({names} hard links): its log and its lock belong to one name. Keep \
         the name that has a -wal beside it, if one has, and remove the others"
    )]
    SeveralNames {
        /// The path.
        path: String,
        /// How many names the file has.
        names: u64,
    },
    /// There is a file that can't be opened.
    #[error("the database {path} can't be opened: {source}{}", advice(source))]
    Unusable {
        /// The path of the file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The file could not be created.
    #[error("the database {path} can't be created: {source}{}", advice(source))]
    Create {
        /// The path of the file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A server has the database, or a command that needs it to itself.
    #[error("the database {path} is in use by {holder}")]
    InUse {
        /// The path of the database.
        path: String,
        /// The process that has it.
        holder: LockHolder,
    },
    /// A program that is no server has the database open.
    #[error(
        "another program has the database {path} open, such as a command or an sqlite3 shell: end it first"
    )]
    OpenElsewhere {
        /// The path of the database.
        path: String,
    },
    /// The file of the lock can't be created, locked or written.
    #[error("the lock file {path} can't be used: {source}{}", advice(source))]
    Lock {
        /// The path of the lock file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no database, or SQLite could not open it.
    #[error("the database {path} can't be opened: {source}{}", sqlite_advice(sqlite_code(source)))]
    Open {
        /// The path of the file.
        path: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The write-ahead log is not of this database, or the disk has lost something.
    #[error(
        "the database {path} and its write-ahead log {path}-wal don't belong together: {found}. A copy that was put over the \
         file of a server that was killed does this. Keep copies of both files. Then put the original file back, or \
         run `chatserver restore` with the backup"
    )]
    Mixed {
        /// The path of the database.
        path: String,
        /// What contradicts what.
        found: String,
    },
    /// The schema is one of an earlier version of this program.
    #[error(
        "the database {path} has an older schema ({found} of {known} migrations): run `chatserver migrate`"
    )]
    OlderSchema {
        /// The path of the file.
        path: String,
        /// How many migrations the database has.
        found: usize,
        /// How many migrations this program has.
        known: usize,
    },
    /// The schema is not one that this program knows.
    #[error("the database {path} was made by a newer version of chatserver, or by another program")]
    UnknownSchema {
        /// The path of the file.
        path: String,
    },
    /// The database could not be written anew; it is as it was.
    #[error("the database {path} can't be compacted and is as it was")]
    Compact {
        /// The path of the file.
        path: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// A migration failed; none of it was kept.
    #[error(
        "the database {path} can't be migrated: {source}{}",
        sqlite_advice(code_of_migration(source))
    )]
    Migrate {
        /// The path of the file.
        path: String,
        /// Why.
        #[source]
        source: MigrateError,
    },
}

impl OpenError {
    /// Whether another connection was in the way, so that it is worth trying again.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Open { source, .. } if is_busy(source))
    }
}

/// What an operator can do about a file that can't be opened or made.
fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "; create its folder first",
        io::ErrorKind::PermissionDenied => PERMISSIONS,
        io::ErrorKind::ReadOnlyFilesystem => "; its file system is mounted read-only",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FULL,
        _ => "",
    }
}

const PERMISSIONS: &str = "; the user who runs this must be able to read and write the file and its folder, where SQLite keeps -wal and -shm";

const FULL: &str = "; the disk is full: make room on it and start again";

/// What an operator can do about a code of SQLite.
fn sqlite_advice(code: Option<i32>) -> &'static str {
    const SQLITE_READONLY: i32 = 8;
    const SQLITE_IOERR: i32 = 10;
    const SQLITE_FULL: i32 = 13;
    const SQLITE_CANTOPEN: i32 = 14;
    match code.map(|code| code & 0xff) {
        Some(SQLITE_READONLY | SQLITE_CANTOPEN) => PERMISSIONS,
        Some(SQLITE_FULL) => FULL,
        Some(SQLITE_IOERR) => {
            "; the disk is full or fails: see df and the log of the kernel, then start again"
        }
        _ => "",
    }
}

fn code_of_migration(error: &MigrateError) -> Option<i32> {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            sqlite_code(error)
        }
        _ => None,
    }
}

/// Whether a read or a change has found the database damaged.
pub(super) fn is_damaged() -> bool {
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

/// Whether SQLite has found a page, or the whole file, to be none of a database.
pub(super) fn is_of_damage(error: &sqlx::Error) -> bool {
    const SQLITE_CORRUPT: i32 = 11;
    const SQLITE_NOTADB: i32 = 26;
    // The file system's own checksums.
    const SQLITE_IOERR_CORRUPTFS: i32 = 8458;
    sqlite_code(error).is_some_and(|code| {
        matches!(code & 0xff, SQLITE_CORRUPT | SQLITE_NOTADB) || code == SQLITE_IOERR_CORRUPTFS
    })
}

pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    const SQLITE_BUSY: i32 = 5;
    // The low byte of SQLite's extended codes is the kind of the error.
    sqlite_code(error).is_some_and(|code| code & 0xff == SQLITE_BUSY)
}

/// SQLite's extended code of an error that it has told of.
pub(super) fn sqlite_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}
