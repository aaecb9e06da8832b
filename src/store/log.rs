//! The write-ahead log: moved into the database by a task of its own, so that no commit has to, and kept short.

use std::fs::File;
use std::io;
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

/// What the writer and the checkpointer tell each other about the write-ahead log.
#[derive(Default)]
pub(super) struct Log {
    /// A commit has added to the log.
    grown: Notify,
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
        self.grown.notify_one();
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

/// Moves the log into the database every now and then, so that no commit has to, until it must be kept.
pub(super) async fn checkpoint(
    mut connection: SqliteConnection,
    database: Arc<File>,
    log: Arc<Log>,
    ended: CancellationToken,
) {
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
    } else if let Err(error) = connection.close().await {
        tracing::warn!(%error, "closing the checkpointing connection failed");
    }
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
