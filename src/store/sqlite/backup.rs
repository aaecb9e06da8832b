//! Backups: copying the database while a server runs, and verifying that a file is a usable backup.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tempfile::{TempDir, TempPath};
use tokio::task::spawn_blocking;
use tokio::time::interval;

use super::backup_record;
use super::file::kind_of;
use super::invariants::contradiction_of_rows;
use super::schema::{self, Looked};
use super::wal::execute;
use crate::domain::Parse as _;
use crate::store::migrations::SchemaState;
use crate::store::{DatabaseFile, OpenError};

/// How often the progress callback runs during a copy.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Bytes of the database without its write-ahead log.
const BYTES: &str = "
    SELECT p.page_count * s.page_size FROM pragma_page_count() AS p, pragma_page_size() AS s";

/// Runs in one read transaction, so the copy is a snapshot despite concurrent writes.
const COPY: &str = "VACUUM INTO $1";

/// Row counts of a backup: label, table and query. A friendship has two rows.
const COUNTS: [(&str, &str, &str); 5] = [
    ("users", "users", "SELECT count(*) FROM users"),
    ("friendships", "friends", "SELECT count(*) / 2 FROM friends"),
    ("conversations", "conversations", "SELECT count(*) FROM conversations"),
    ("messages", "messages", "SELECT count(*) FROM messages"),
    ("reports", "reports", "SELECT count(*) FROM reports"),
];

/// Why a file could not be made, verified or restored as a backup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{path} exists already; a backup never overwrites a file")]
    Exists { path: String },
    #[error("the backup can't be named {path}: {problem}")]
    Name { path: String, problem: String },
    #[error("there is a database at {path} already; --force replaces it")]
    Replaces { path: String },
    #[error("{path} is not a usable backup: {problem}")]
    Unfit { path: String, problem: String },
    #[error("{path} can't be {doing}: {source}")]
    File {
        path: String,
        /// A participle such as "created".
        doing: &'static str,
        source: io::Error,
    },
    #[error("the database failed while {doing}: {source}")]
    Database { doing: &'static str, source: sqlx::Error },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) copied: u64,
    /// Bytes of the database. The copy ends smaller if the database has free pages.
    pub(crate) total: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Verified {
    pub(crate) bytes: u64,
    /// Label and row count of each table that the backup has.
    pub(crate) counts: Vec<(&'static str, i64)>,
}

/// Copies the database at `url` into a new file with mode 0600, fsyncs it, and returns its size in bytes.
///
/// The copy is made in a temporary folder beside the file and renamed when it is complete. On failure or cancellation
/// the folder is removed with its contents.
pub(crate) async fn back_up(
    url: &str,
    to: &Path,
    mut progress: impl FnMut(Progress),
) -> Result<u64, BackupError> {
    let database =
        DatabaseFile::parse(url).ok_or_else(|| OpenError::Url { url: url.to_owned() })?;
    if database.look()?.is_none() {
        return Err(database.missing().into());
    }
    let to = std::path::absolute(to).map_err(|source| file_error(to, "found", source))?;
    refuse_name(&database, &to)?;
    let exists = || BackupError::Exists { path: to.display().to_string() };
    if to.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let Looked { connection: mut source, found, .. } = schema::look_closely(&database).await?;
    if found == SchemaState::Unfinished {
        return Err(OpenError::UnfinishedCopy { path: database.absolute() }.into());
    }
    if matches!(found, SchemaState::Newer(_)) {
        schema::refuse(&database, &found, schema::Schema::MustBeCurrent)?;
    }
    if matches!(found, SchemaState::Empty | SchemaState::Unknown) {
        return Err(OpenError::UnknownSchema { path: database.absolute() }.into());
    }
    let folder = folder_beside(&to, ".chatserver-backup-");
    let folder = folder.map_err(|source| file_error(&to, "created", source))?;
    let unfinished = create(folder.path())?;
    let bytes = copy(&mut source, &unfinished, &mut progress).await?;
    source.close().await.map_err(|source| database.failed(source))?;
    flush(&unfinished).await?;
    unfinished.persist_noclobber(&to).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => exists(),
        _ => file_error(&to, "created", error.error),
    })?;
    flush_name(&to)?;
    Ok(bytes)
}

/// Refuses a path that is not UTF-8, lies in no existing folder, or is one that SQLite or the server's lock uses.
fn refuse_name(database: &DatabaseFile, to: &Path) -> Result<(), BackupError> {
    let refused = |problem| Err(BackupError::Name { path: to.display().to_string(), problem });
    if to.to_str().is_none() {
        return refused("its path is not UTF-8".to_owned());
    }
    let (Some(folder), Some(name)) = (to.parent(), to.file_name()) else { return Ok(()) };
    if matches!(folder.try_exists(), Ok(false)) {
        return refused(format!("there is no folder {}: create it first", folder.display()));
    }
    // SQLite names the files beside the database after its path with symbolic links resolved.
    let resolved = folder.canonicalize().map_or_else(|_| to.to_owned(), |folder| folder.join(name));
    let beside = ["-wal", "-shm", "-journal", "-server", ".key", backup_record::SUFFIX]
        .map(|suffix| database.sibling(suffix));
    if beside.contains(&resolved) {
        let database = database.absolute();
        return refused(format!("that file belongs to the database {database}"));
    }
    Ok(())
}

/// Creates the empty file that SQLite fills. SQLite keeps its mode, 0600.
fn create(folder: &Path) -> Result<TempPath, BackupError> {
    let path = folder.join("backup.db");
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let path = created.and_then(|_| TempPath::try_from_path(&path));
    path.map_err(|source| file_error(folder, "written", source))
}

async fn copy(
    source: &mut SqliteConnection,
    to: &Path,
    progress: &mut impl FnMut(Progress),
) -> Result<u64, BackupError> {
    let failed = |source| BackupError::Database { doing: "copying it", source };
    let no_text = || file_error(to, "used", io::Error::other("its path is not UTF-8"));
    // The connection was opened with `query_only`, and SQLite counts `VACUUM INTO` as a write.
    execute(source, "PRAGMA query_only = 0").await.map_err(failed)?;
    let total: i64 = sqlx::query_scalar(BYTES).fetch_one(&mut *source).await.map_err(failed)?;
    let total = u64::try_from(total).unwrap_or(0);
    let mut copying =
        pin!(sqlx::query(COPY).bind(to.to_str().ok_or_else(no_text)?).execute(source));
    let mut every = interval(PROGRESS_EVERY);
    loop {
        tokio::select! {
            copied = &mut copying => {
                copied.map_err(failed)?;
                break;
            }
            _ = every.tick() => progress(Progress { copied: size(to)?, total }),
        }
    }
    let copied = size(to)?;
    progress(Progress { copied, total });
    Ok(copied)
}

fn size(path: &Path) -> Result<u64, BackupError> {
    let metadata = fs::metadata(path).map_err(|source| file_error(path, "examined", source))?;
    Ok(metadata.len())
}

/// Runs blocking disk work on the blocking thread pool, so that the calling future can be dropped meanwhile.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::from)?
}

/// Creates a temporary folder beside a file, on the same file system, with mode 0700. Dropping it removes it with its
/// contents.
pub(crate) fn folder_beside(path: &Path, prefix: &str) -> io::Result<TempDir> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).permissions(Permissions::from_mode(0o700)).tempdir_in(folder)
}

/// Fsyncs a file.
pub(crate) async fn flush(path: &Path) -> Result<(), BackupError> {
    let file = path.to_owned();
    let flushed = off_thread(move || File::open(file)?.sync_all()).await;
    flushed.map_err(|source| file_error(path, "flushed to the disk", source))
}

/// Fsyncs the folder of a file, which makes the file's name durable.
pub(crate) fn flush_name(path: &Path) -> Result<(), BackupError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let flushed = File::open(folder).and_then(|folder| folder.sync_all());
    flushed.map_err(|source| file_error(folder, "flushed to the disk", source))
}

pub(crate) fn file_error(path: &Path, doing: &'static str, source: io::Error) -> BackupError {
    BackupError::File { path: path.display().to_string(), doing, source }
}

/// Verifies that a file is a backup that [`super::restore`] accepts. Changes nothing.
///
/// # Errors
///
/// [`BackupError::Unfit`] with the reason if it is not; [`BackupError::File`] where the file can't be read.
pub(crate) async fn verify_backup(backup: &Path) -> Result<Verified, BackupError> {
    let bytes = look(backup)?;
    for suffix in ["-wal", "-journal"] {
        let beside = beside(backup, suffix);
        if fs::metadata(&beside).is_ok_and(|found| found.len() > 0) {
            let problem = format!(
                "{} lies beside it, so it is the file of a running or killed server and lacks changes",
                beside.display()
            );
            return Err(unfit(backup, problem));
        }
    }
    let failed = |error: sqlx::Error| unfit(backup, error.to_string());
    let mut connection = open_alone(backup).await.map_err(failed)?;
    let counts = look_through(&mut connection).await;
    let counts = counts.map_err(|problem| unfit(backup, problem))?;
    connection.close().await.map_err(failed)?;
    Ok(Verified { bytes, counts })
}

/// Returns the size of a readable, non-empty regular file. Opening a FIFO would block, and SQLite would read nothing
/// from a device.
fn look(backup: &Path) -> Result<u64, BackupError> {
    let found = fs::metadata(backup).map_err(|source| file_error(backup, "examined", source))?;
    if !found.is_file() {
        let problem = format!("it is {}, and must be a regular file", kind_of(&found));
        return Err(unfit(backup, problem));
    }
    File::open(backup).map_err(|source| file_error(backup, "read", source))?;
    if found.len() == 0 {
        return Err(unfit(backup, "it is empty".to_owned()));
    }
    Ok(found.len())
}

/// Opens a file that no process changes. As `immutable`, it makes SQLite create no files beside it.
pub(crate) async fn open_alone(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(true);
    options.disable_statement_logging().connect().await
}

/// Checks schema, pages, foreign keys and invariants. Returns the row counts, or the first problem found.
pub(crate) async fn look_through(
    connection: &mut SqliteConnection,
) -> Result<Vec<(&'static str, i64)>, String> {
    let failed = |error: sqlx::Error| error.to_string();
    let schema = schema::look(connection).await.map_err(failed)?;
    if schema == SchemaState::Unfinished {
        return Err("it is an unfinished copy".to_owned());
    }
    if matches!(schema, SchemaState::Empty | SchemaState::Unknown | SchemaState::Newer(_)) {
        return Err(
            "it was made by a newer version of chatserver, or by another program".to_owned()
        );
    }
    let problems: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check(3)")
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    if problems != ["ok"] {
        return Err(problems.join("; "));
    }
    let orphan: Option<(String, Option<i64>, String, i64)> =
        sqlx::query_as("PRAGMA foreign_key_check")
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed)?;
    if let Some((table, _, parent, _)) = orphan {
        return Err(format!("a row of {table} refers to a missing row of {parent}"));
    }
    let is_older = schema != SchemaState::Current;
    if let Some(problem) = contradiction_of_rows(connection, is_older).await.map_err(failed)? {
        return Err(problem);
    }
    let tables: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_schema")
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    let mut counts = Vec::new();
    for (name, table, count) in COUNTS {
        // An earlier schema may lack this table.
        if tables.iter().any(|one| one == table) {
            let rows =
                sqlx::query_scalar(count).fetch_one(&mut *connection).await.map_err(failed)?;
            counts.push((name, rows));
        }
    }
    Ok(counts)
}

fn unfit(backup: &Path, problem: String) -> BackupError {
    BackupError::Unfit { path: backup.display().to_string(), problem }
}

/// Appends a suffix to a path, as SQLite names the files beside a database.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
