//! The write-ahead log: moved into the database by a task of its own, so that no commit has to, and kept short.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::error::sqlite_code;
use super::files::WAL_BYTES;

/// How often the log is checkpointed while there are commits.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(500);

/// How often a log that is beyond its bound is checkpointed at most before the writer empties it: each time less has been
/// added meanwhile, and what is left is moved while everybody waits.
const PASSES: usize = 4;

/// A pass that has no more than this to move is the last: what is added during it is less still.
const LITTLE: u64 = 1024 * 1024;

/// How long to wait before a log that is too long is emptied again: where a long read is in the way, each
/// attempt holds the writer up for a second.
const EMPTY_AGAIN: Duration = Duration::from_secs(2);

/// How long the last checkpoint waits for other programs that read or write.
const LAST_WAIT: &str = "PRAGMA busy_timeout = 2000";

/// Changes that are in the write-ahead log after the store is closed: the database file alone lacks them.
#[derive(Debug, thiserror::Error)]
#[error(
    "{bytes} bytes of changes are in {} alone: keep that file beside the database, and the next start moves them",
    wal.display()
)]
pub struct LogLeft {
    /// The file of the log.
    pub wal: PathBuf,
    /// How many bytes of it are not in the database file, or the whole log where that is unknown.
    pub bytes: u64,
    /// What was in the way.
    #[source]
    pub cause: LeftBecause,
}

/// What keeps the log from being moved into the database file.
#[derive(Debug, thiserror::Error)]
pub enum LeftBecause {
    /// Another program is in the middle of a read or of a transaction.
    #[error("another program is reading or writing the database")]
    Busy,
    /// The disk did not take the database.
    #[error("the disk did not take the database")]
    FlushFailed,
    /// SQLite refused or failed.
    #[error(transparent)]
    Failed(sqlx::Error),
}

/// What the writer and the checkpointer tell each other about the write-ahead log.
#[derive(Default)]
pub(super) struct Log {
    /// A commit has added to the log.
    grown: Notify,
    /// This store has committed, or tried to.
    has_grown: AtomicBool,
    /// The log is beyond its bound. Only between two transactions of the writer can a checkpoint
    /// reach its end, after which it is written from the start again.
    too_long: AtomicBool,
    /// A read that did not end kept the log from being emptied.
    blocked: AtomicBool,
    /// The disk did not take what was moved into the database. The kernel may have dropped it, and says so once to each who
    /// had the file open: a later attempt would succeed. So from then on nobody may empty the log, and the next process
    /// moves all of it again.
    flush_failed: CancellationToken,
}

impl Log {
    /// A commit has added to it.
    pub(super) fn grown(&self) {
        self.has_grown.store(true, Ordering::Relaxed);
        self.grown.notify_one();
    }

    /// Whether this store has committed, or tried to.
    pub(super) fn has_grown(&self) -> bool {
        self.has_grown.load(Ordering::Relaxed)
    }

    /// Whether it is beyond its bound, and may be emptied.
    pub(super) fn is_too_long(&self) -> bool {
        self.too_long.load(Ordering::Relaxed) && !self.flush_failed.is_cancelled()
    }

    /// Cancelled once the disk did not take what was moved into the database.
    pub(super) fn flush_failed(&self) -> &CancellationToken {
        &self.flush_failed
    }

    /// A checkpoint has failed. It is tried again, unless the flush has failed.
    pub(super) fn checkpoint_failed(&self, error: &sqlx::Error) {
        if is_of_flush(error) {
            tracing::error!(
                %error,
                "the database or its write-ahead log can't be flushed to the disk: the log is kept as it is, for the next start"
            );
            self.flush_failed.cancel();
        } else {
            tracing::warn!(%error, "checkpointing the write-ahead log failed");
        }
    }

    /// Moves the whole log into the database while nobody writes, and waits for the reads that are in it, so
    /// that the next transaction starts it anew.
    pub(super) async fn empty(&self, writer: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        self.too_long.store(false, Ordering::Relaxed);
        execute(writer, "PRAGMA busy_timeout = 1000").await?;
        let emptied = checkpoint_once(writer, "PRAGMA wal_checkpoint(RESTART)").await?;
        execute(writer, "PRAGMA busy_timeout = 20000").await?;
        if emptied.busy {
            self.blocked.store(true, Ordering::Relaxed);
            let bytes = emptied.bytes;
            tracing::warn!(bytes, "a long read keeps the write-ahead log from being emptied");
        }
        Ok(())
    }
}

/// Moves the log into the database every now and then, so that no commit has to, until the writer has ended. Returns the
/// connection for the last checkpoint, unless the log must be kept.
pub(super) async fn checkpoint(
    mut connection: SqliteConnection,
    database: Arc<File>,
    log: Arc<Log>,
    ended: CancellationToken,
) -> Option<SqliteConnection> {
    let growth = async |rest| {
        log.grown.notified().await;
        sleep(rest).await;
    };
    let rest = || {
        let blocked = log.blocked.swap(false, Ordering::Relaxed);
        if blocked { EMPTY_AGAIN } else { CHECKPOINT_EVERY }
    };
    while ended.run_until_cancelled(growth(rest())).await.is_some() {
        match catch_up(&mut connection, &database).await {
            Ok(is_too_long) => log.too_long.store(is_too_long, Ordering::Relaxed),
            Err(error) => log.checkpoint_failed(&error),
        }
        if log.flush_failed.is_cancelled() {
            break;
        }
    }
    if log.flush_failed.is_cancelled() {
        // The last connection to be closed moves the log and removes it. As long as this one is open, none is the last.
        std::mem::forget(connection);
        return None;
    }
    Some(connection)
}

/// Moves everything into the database file and cuts the log to nothing: the last act of a store, once no other connection of
/// this process is open. `None` stands for a connection that is kept because a flush has failed.
pub(super) async fn empty_at_the_end(
    connection: Option<SqliteConnection>,
    log: &Log,
    wal: PathBuf,
) -> Result<(), LogLeft> {
    let Some(mut connection) = connection else {
        let bytes = size(&wal);
        return Err(LogLeft { wal, bytes, cause: LeftBecause::FlushFailed });
    };
    let emptied = async {
        execute(&mut connection, LAST_WAIT).await?;
        checkpoint_once(&mut connection, "PRAGMA wal_checkpoint(TRUNCATE)").await
    };
    let left = match emptied.await {
        Ok(checkpoint) if !checkpoint.busy => Ok(()),
        Ok(Checkpoint { bytes, moved, .. }) => {
            // Even what is moved counts while it is in the log: a database put in the place of this one would get it.
            let bytes = if bytes > moved { bytes - moved } else { size(&wal) };
            Err(LogLeft { wal, bytes, cause: LeftBecause::Busy })
        }
        Err(error) => {
            log.checkpoint_failed(&error);
            let bytes = size(&wal);
            Err(LogLeft { wal, bytes, cause: LeftBecause::Failed(error) })
        }
    };
    close(connection, log).await;
    left
}

/// Closes the last connection, unless that would remove a log that must be kept.
pub(super) async fn close(connection: SqliteConnection, log: &Log) {
    if log.flush_failed.is_cancelled() {
        std::mem::forget(connection);
    } else if let Err(error) = connection.close().await {
        tracing::warn!(%error, "closing the checkpointing connection failed");
    }
}

fn size(file: &Path) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

/// Moves the log into the database and onto the disk, and says whether it is beyond its bound. Little of it is left then,
/// unless a read is in the way. A pass moves what there was when it began.
async fn catch_up(
    connection: &mut SqliteConnection,
    database: &Arc<File>,
) -> Result<bool, sqlx::Error> {
    let mut moved = 0;
    for _ in 0..PASSES {
        let checkpoint = checkpoint_once(connection, "PRAGMA wal_checkpoint(PASSIVE)").await;
        if !checkpoint.as_ref().is_err_and(is_of_flush) {
            flush(database).await?;
        }
        let checkpoint = checkpoint?;
        if checkpoint.bytes <= WAL_BYTES / 2 {
            return Ok(false);
        }
        let is_blocked = checkpoint.moved < checkpoint.bytes;
        if is_blocked || checkpoint.bytes.saturating_sub(moved) <= LITTLE {
            break;
        }
        moved = checkpoint.moved;
    }
    Ok(true)
}

/// Has the disk take what was moved into the database. SQLite does that once the whole log is moved, which is when the
/// writer empties it and everybody waits.
async fn flush(database: &Arc<File>) -> Result<(), sqlx::Error> {
    let database = Arc::clone(database);
    let flushed = spawn_blocking(move || database.sync_data()).await;
    flushed.map_err(io::Error::from)?.map_err(sqlx::Error::from)
}

/// Whether [`flush`] has failed, or a flush by SQLite itself.
fn is_of_flush(error: &sqlx::Error) -> bool {
    const SQLITE_IOERR_FSYNC: i32 = 1034;
    matches!(error, sqlx::Error::Io(_)) || sqlite_code(error) == Some(SQLITE_IOERR_FSYNC)
}

/// What a checkpoint has found.
struct Checkpoint {
    /// Whether somebody was in the way of it.
    busy: bool,
    /// How long the log is.
    bytes: u64,
    /// How much of it is in the database.
    moved: u64,
}

/// Moves what it can of the log into the database.
async fn checkpoint_once(
    connection: &mut SqliteConnection,
    statement: &'static str,
) -> Result<Checkpoint, sqlx::Error> {
    const FRAME_BYTES: u64 = 4096 + 24;
    let (busy, frames, moved): (bool, i64, i64) =
        sqlx::query_as(statement).fetch_one(connection).await?;
    let bytes = |frames| u64::try_from(frames).unwrap_or(0) * FRAME_BYTES;
    Ok(Checkpoint { busy, bytes: bytes(frames), moved: bytes(moved) })
}

pub(super) async fn execute(
    on: &mut SqliteConnection,
    statement: &'static str,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(on).await.map(drop)
}
