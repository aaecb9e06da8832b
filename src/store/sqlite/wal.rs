//! The write-ahead log. A task of its own checkpoints it, so that no commit has to, and keeps it short.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::backoff::{Backoff, LogState, Next};
use super::codes;
use super::file::WAL_BYTES;

/// Interval between checkpoints while there are commits.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(500);

/// Maximum checkpoint passes over a log that exceeds its bound, before the writer empties it. Each pass leaves less to
/// move, and the rest is moved while all writes wait.
const PASSES: usize = 4;

/// A pass that has no more bytes than this to move is the last: commits add even less during it.
const LITTLE: u64 = 1024 * 1024;

/// More unmoved bytes than this mean that a long read is in the way. Less is written during a short one.
const HELD: u64 = 16 * 1024 * 1024;

/// The writer waits up to 100 ms for reads that use the log. The server's own reads take milliseconds.
const WAIT_FOR_READS: &str = "PRAGMA busy_timeout = 100";

/// Restores [`BUSY_TIMEOUT`](super::file::BUSY_TIMEOUT) in milliseconds.
const WAIT_FOR_PROCESSES: &str = "PRAGMA busy_timeout = 20000";

/// The last checkpoint waits up to 2 s for other programs that read or write.
const LAST_WAIT: &str = "PRAGMA busy_timeout = 2000";

/// Moves the whole log into the database and removes it. Succeeds only on the sole connection to a database.
pub(crate) const END_LOG: &str = "PRAGMA journal_mode = DELETE";

/// How long to retry the last checkpoint while another process checkpoints. SQLite's busy time-out does not cover that.
const LAST_ATTEMPTS: Duration = Duration::from_secs(2);

const ATTEMPT_AGAIN: Duration = Duration::from_millis(20);

/// The write-ahead log still holds changes after the store was closed. The database file alone lacks them.
#[derive(Debug, thiserror::Error)]
#[error(
    "{bytes} bytes of changes are only in {}: keep that file beside the database; the next start moves them into it",
    wal.display()
)]
pub struct WalLeft {
    pub(crate) wal: PathBuf,
    /// Bytes of the log that are not in the database file, or the size of the whole log where that is unknown.
    pub(crate) bytes: u64,
    #[source]
    pub(crate) cause: LeftBecause,
}

/// The reason why the log is not moved into the database file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeftBecause {
    #[error("another program is reading or writing the database")]
    Busy,
    #[error("fsync of the database or its write-ahead log failed")]
    FlushFailed,
    #[error(transparent)]
    Failed(sqlx::Error),
}

/// State of the write-ahead log, shared by the writer and the checkpointer.
#[derive(Default)]
pub(crate) struct Wal {
    /// Signals that a commit has added to the log, or that a truncation was requested.
    grown: Notify,
    /// This store has committed, or tried to.
    has_grown: AtomicBool,
    /// Tells the writer to empty the log. A checkpoint can reach the end of the log only between two transactions.
    /// After that, the log is written from the start again.
    due: AtomicBool,
    /// The log must be truncated, because it still holds copies of deleted data.
    truncate: AtomicBool,
    /// A read kept the log from being emptied.
    blocked: AtomicBool,
    /// An fsync of the database file or of the log failed in a checkpoint. The kernel may have dropped the data, and
    /// reports the error only once per open file, so a retry would succeed.
    ///
    /// So this process never checkpoints after an fsync failure, and the next one moves the whole log again.
    flush_failed: CancellationToken,
}

impl Wal {
    /// Records that a commit has added to the log, and wakes the checkpointer.
    pub(crate) fn grown(&self) {
        self.has_grown.store(true, Ordering::Relaxed);
        self.grown.notify_one();
    }

    pub(crate) fn has_grown(&self) -> bool {
        self.has_grown.load(Ordering::Relaxed)
    }

    /// Whether the writer must empty the log. Never after an fsync failure.
    pub(crate) fn is_due(&self) -> bool {
        self.due.load(Ordering::Relaxed) && !self.flush_failed.is_cancelled()
    }

    /// Requests a truncation of the log, which follows once most of it is in the database.
    pub(crate) fn truncate_soon(&self) {
        self.truncate.store(true, Ordering::Relaxed);
        self.grown.notify_one();
    }

    pub(crate) fn flush_failed(&self) -> &CancellationToken {
        &self.flush_failed
    }

    /// Logs a failed checkpoint. It is retried, unless an fsync failed.
    pub(crate) fn checkpoint_failed(&self, error: &sqlx::Error) {
        if is_of_flush(error) {
            tracing::error!(
                %error,
                "fsync of the database or its write-ahead log failed: the log is kept unchanged for the next start"
            );
            self.flush_failed.cancel();
        } else {
            tracing::warn!(%error, "checkpoint of the write-ahead log failed");
        }
    }

    /// Moves the whole log into the database between two transactions, so that the next one starts the log anew. Waits
    /// up to 100 ms for the reads that use the log.
    pub(crate) async fn empty(&self, writer: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        self.due.store(false, Ordering::Relaxed);
        let truncates = self.truncate.swap(false, Ordering::Relaxed);
        let statement = if truncates {
            "PRAGMA wal_checkpoint(TRUNCATE)"
        } else {
            "PRAGMA wal_checkpoint(RESTART)"
        };
        execute(writer, WAIT_FOR_READS).await?;
        let emptied = checkpoint_once(writer, statement).await;
        if truncates && !emptied.as_ref().is_ok_and(|emptied| !emptied.busy) {
            self.truncate.store(true, Ordering::Relaxed);
        }
        if emptied?.busy {
            self.blocked.store(true, Ordering::Relaxed);
        }
        execute(writer, WAIT_FOR_PROCESSES).await
    }

    /// Waits until the next checkpoint: for a commit, unless a truncation is pending, and then for
    /// [`CHECKPOINT_EVERY`].
    async fn next_look(&self) {
        if !self.truncate.load(Ordering::Relaxed) {
            self.grown.notified().await;
        }
        sleep(CHECKPOINT_EVERY).await;
    }

    /// Decides whether the writer must empty the log, and warns of a read that prevents that.
    fn judge(&self, left: &Checkpoint, backoff: &mut Backoff) {
        let found = LogState {
            is_due: left.bytes > WAL_BYTES / 2 || self.truncate.load(Ordering::Relaxed),
            is_held: left.bytes.saturating_sub(left.moved) > HELD,
            has_failed: self.blocked.swap(false, Ordering::Relaxed),
        };
        let next = backoff.next(Instant::now(), found);
        if next == Next::Warn {
            let bytes = left.bytes;
            tracing::warn!(
                bytes,
                "a long read keeps the write-ahead log from being emptied: end it if it is another program, such as an sqlite3 shell"
            );
        }
        self.due.store(next == Next::Attempt, Ordering::Relaxed);
    }
}

/// Checkpoints the log at intervals until the writer has ended, so that no commit has to. Returns the connection for
/// the last checkpoint, unless the log must be kept.
pub(crate) async fn checkpoint(
    mut connection: SqliteConnection,
    database: Arc<File>,
    log: Arc<Wal>,
    ended: CancellationToken,
) -> Option<SqliteConnection> {
    let mut backoff = Backoff::default();
    while ended.run_until_cancelled(log.next_look()).await.is_some() {
        match catch_up(&mut connection, &database).await {
            Ok(left) => log.judge(&left, &mut backoff),
            Err(error) => log.checkpoint_failed(&error),
        }
        if log.flush_failed.is_cancelled() {
            break;
        }
    }
    if log.flush_failed.is_cancelled() {
        // SQLite moves the log and removes it when the last connection closes. While this one stays open, no other is
        // the last.
        std::mem::forget(connection);
        return None;
    }
    Some(connection)
}

/// Moves the whole log into the database file and truncates it. This is the last act of a store, once no other
/// connection of this process is open.
///
/// Another program may keep the log from being truncated. That is no failure if all of it is in the database file.
/// `None` stands for a connection that stays open because an fsync failed.
pub(crate) async fn empty_at_the_end(
    connection: Option<SqliteConnection>,
    log: &Wal,
    wal: PathBuf,
) -> Result<(), WalLeft> {
    let Some(mut connection) = connection else {
        let bytes = size(&wal);
        return Err(WalLeft { wal, bytes, cause: LeftBecause::FlushFailed });
    };
    let emptied = async {
        execute(&mut connection, LAST_WAIT).await?;
        let since = Instant::now();
        loop {
            let emptied =
                checkpoint_once(&mut connection, "PRAGMA wal_checkpoint(TRUNCATE)").await?;
            if !emptied.busy || since.elapsed() >= LAST_ATTEMPTS {
                break Ok(emptied);
            }
            sleep(ATTEMPT_AGAIN).await;
        }
    };
    let left = match emptied.await {
        Ok(checkpoint) if !checkpoint.busy => Ok(()),
        Ok(checkpoint) if checkpoint.is_whole() || size(&wal) == 0 => {
            tracing::info!(
                wal = %wal.display(),
                "another program is reading or writing the database, so its write-ahead log stays: the database file holds \
                 everything"
            );
            Ok(())
        }
        Ok(Checkpoint { bytes, moved, .. }) => {
            let bytes = if bytes > moved { bytes - moved } else { size(&wal) };
            Err(WalLeft { wal, bytes, cause: LeftBecause::Busy })
        }
        Err(error) => {
            log.checkpoint_failed(&error);
            let bytes = size(&wal);
            Err(WalLeft { wal, bytes, cause: LeftBecause::Failed(error) })
        }
    };
    close(connection, log).await;
    left
}

/// Closes the last connection, unless that would remove a log that must be kept.
pub(crate) async fn close(connection: SqliteConnection, log: &Wal) {
    if log.flush_failed.is_cancelled() {
        std::mem::forget(connection);
    } else if let Err(error) = connection.close().await {
        tracing::warn!(%error, "closing the checkpointing connection failed");
    }
}

fn size(file: &Path) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

/// Moves the log into the database and onto the disk. Little of it is left then, unless a read is in the way.
///
/// A pass moves what the log held when the pass began.
async fn catch_up(
    connection: &mut SqliteConnection,
    database: &Arc<File>,
) -> Result<Checkpoint, sqlx::Error> {
    let (mut moved, mut passes) = (0, 0);
    loop {
        let checkpoint = checkpoint_once(connection, "PRAGMA wal_checkpoint(PASSIVE)").await;
        if !checkpoint.as_ref().is_err_and(is_of_flush) {
            flush(database).await?;
        }
        let checkpoint = checkpoint?;
        passes += 1;
        let is_blocked = checkpoint.moved < checkpoint.bytes;
        let is_little = checkpoint.bytes.saturating_sub(moved) <= LITTLE;
        if checkpoint.bytes <= WAL_BYTES / 2 || is_blocked || is_little || passes == PASSES {
            return Ok(checkpoint);
        }
        moved = checkpoint.moved;
    }
}

/// Flushes to disk what was moved into the database. SQLite does that only once the whole log is moved, which is when
/// the writer empties it and all writes wait.
async fn flush(database: &Arc<File>) -> Result<(), sqlx::Error> {
    let database = Arc::clone(database);
    let flushed = spawn_blocking(move || database.sync_data()).await;
    flushed.map_err(io::Error::from)?.map_err(sqlx::Error::from)
}

/// Whether [`flush`] has failed, or an fsync by SQLite itself.
fn is_of_flush(error: &sqlx::Error) -> bool {
    const SQLITE_IOERR_FSYNC: i32 = 1034;
    matches!(error, sqlx::Error::Io(_)) || codes::code(error) == Some(SQLITE_IOERR_FSYNC)
}

struct Checkpoint {
    /// A read, a write or another checkpoint was in the way.
    busy: bool,
    /// Size of the log.
    bytes: u64,
    /// Bytes of the log that are in the database.
    moved: u64,
    /// Whether the sizes are known: SQLite does not read them while another process checkpoints.
    is_known: bool,
}

impl Checkpoint {
    /// Whether all of the log is in the database.
    fn is_whole(&self) -> bool {
        self.is_known && self.moved >= self.bytes
    }
}

/// Runs one checkpoint, which moves what it can of the log into the database.
async fn checkpoint_once(
    connection: &mut SqliteConnection,
    statement: &'static str,
) -> Result<Checkpoint, sqlx::Error> {
    const FRAME_BYTES: u64 = 4096 + 24;
    let (busy, frames, moved): (bool, i64, i64) =
        sqlx::query_as(statement).fetch_one(connection).await?;
    let bytes = |frames| u64::try_from(frames).unwrap_or(0) * FRAME_BYTES;
    Ok(Checkpoint { busy, bytes: bytes(frames), moved: bytes(moved), is_known: frames >= 0 })
}

/// Moves the whole log into the database and truncates it, on a connection that no task checkpoints beside. Fails if
/// another program reads the log.
pub(crate) async fn truncate_now(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    if checkpoint_once(connection, "PRAGMA wal_checkpoint(TRUNCATE)").await?.busy {
        let sentence = "another program is reading the database: end it and start again";
        return Err(sqlx::Error::Protocol(sentence.to_owned()));
    }
    Ok(())
}

pub(crate) async fn execute(
    connection: &mut SqliteConnection,
    statement: &'static str,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(connection).await.map(drop)
}
