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
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::backoff::{Backoff, Found, Next};
use super::error::sqlite_code;
use super::files::WAL_BYTES;

/// How often the log is checkpointed while there are commits.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(500);

/// How often a log that is beyond its bound is checkpointed at most before the writer empties it: each time less has been
/// added meanwhile, and what is left is moved while everybody waits.
const PASSES: usize = 4;

/// A pass that has no more than this to move is the last: what is added during it is less still.
const LITTLE: u64 = 1024 * 1024;

/// Where more than this can't be moved, a read that goes on for long is in the way: what is written during a short one is less.
const HELD: u64 = 16 * 1024 * 1024;

/// How long the writer waits for the reads that are in the log. Those of the server itself take milliseconds.
const WAIT_FOR_READS: &str = "PRAGMA busy_timeout = 100";

/// How long the last checkpoint waits for other programs that read or write.
const LAST_WAIT: &str = "PRAGMA busy_timeout = 2000";

/// Succeeds only for the one connection to a database, moves the whole log into it and removes the log.
pub(super) const END_LOG: &str = "PRAGMA journal_mode = DELETE";

/// How long it is tried again while another process is at its own, for which SQLite does not wait.
const LAST_ATTEMPTS: Duration = Duration::from_secs(2);

const ATTEMPT_AGAIN: Duration = Duration::from_millis(20);

/// Changes that are in the write-ahead log after the store is closed: the database file alone lacks them.
#[derive(Debug, thiserror::Error)]
#[error(
    "{bytes} bytes of changes are in {} alone: keep that file beside the database, and the next start moves them",
    wal.display()
)]
pub struct WalLeft {
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
pub(super) struct Wal {
    /// A commit has added to the log.
    grown: Notify,
    /// This store has committed, or tried to.
    has_grown: AtomicBool,
    /// The writer is to empty the log. Only between two of its transactions can a checkpoint reach the end of the log, after
    /// which it is written from the start again.
    due: AtomicBool,
    /// The log is to be truncated: what is removed from the database is in it as well.
    truncate: AtomicBool,
    /// A read kept the log from being emptied.
    blocked: AtomicBool,
    /// The disk did not take what was moved into the database. The kernel may have dropped it, and says so once to each who
    /// had the file open: a later attempt would succeed. So from then on nobody may empty the log, and the next process
    /// moves all of it again.
    flush_failed: CancellationToken,
}

impl Wal {
    /// A commit has added to it.
    pub(super) fn grown(&self) {
        self.has_grown.store(true, Ordering::Relaxed);
        self.grown.notify_one();
    }

    /// Whether this store has committed, or tried to.
    pub(super) fn has_grown(&self) -> bool {
        self.has_grown.load(Ordering::Relaxed)
    }

    /// Whether the writer is to empty it.
    pub(super) fn is_due(&self) -> bool {
        self.due.load(Ordering::Relaxed) && !self.flush_failed.is_cancelled()
    }

    /// Has it truncated once most of it is in the database.
    pub(super) fn truncate_soon(&self) {
        self.truncate.store(true, Ordering::Relaxed);
        self.grown.notify_one();
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

    /// Moves the whole log into the database while nobody writes, and waits a moment for the reads that are in it, so
    /// that the next transaction starts it anew.
    pub(super) async fn empty(&self, writer: &mut SqliteConnection) -> Result<(), sqlx::Error> {
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
        execute(writer, "PRAGMA busy_timeout = 20000").await
    }

    /// Returns when it is time to look at the log again.
    async fn next_look(&self) {
        if !self.truncate.load(Ordering::Relaxed) {
            self.grown.notified().await;
        }
        sleep(CHECKPOINT_EVERY).await;
    }

    /// Decides whether the writer is to empty it.
    fn precheck(&self, left: &Checkpoint, backoff: &mut Backoff) {
        let found = Found {
            is_due: left.bytes > WAL_BYTES / 2 || self.truncate.load(Ordering::Relaxed),
            is_held: left.bytes.saturating_sub(left.moved) > HELD,
            has_failed: self.blocked.swap(false, Ordering::Relaxed),
        };
        let next = backoff.next(Instant::now(), found);
        if next == Next::Warn {
            let bytes = left.bytes;
            tracing::warn!(
                bytes,
                "a read that goes on keeps the write-ahead log from being emptied"
            );
        }
        self.due.store(next == Next::Attempt, Ordering::Relaxed);
    }
}

/// Moves the log into the database every now and then, so that no commit has to, until the writer has ended. Returns the
/// connection for the last checkpoint, unless the log must be kept.
pub(super) async fn checkpoint(
    mut connection: SqliteConnection,
    database: Arc<File>,
    log: Arc<Wal>,
    ended: CancellationToken,
) -> Option<SqliteConnection> {
    let mut backoff = Backoff::default();
    while ended.run_until_cancelled(log.next_look()).await.is_some() {
        match catch_up(&mut connection, &database).await {
            Ok(left) => log.precheck(&left, &mut backoff),
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
/// this process is open. Another program may keep the log from being cut, which is no failure once all of it is in the database
/// file. `None` stands for a connection that is kept because a flush has failed.
pub(super) async fn empty_at_the_end(
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
                "another program is reading or writing the database, so its write-ahead log can't be emptied: all of it is in \
                 the database file"
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
pub(super) async fn close(connection: SqliteConnection, log: &Wal) {
    if log.flush_failed.is_cancelled() {
        std::mem::forget(connection);
    } else if let Err(error) = connection.close().await {
        tracing::warn!(%error, "closing the checkpointing connection failed");
    }
}

fn size(file: &Path) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

/// Moves the log into the database and onto the disk. Little of it is left then, unless a read is in the way. A pass moves
/// what there was when it began.
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
    /// Whether these are known: another process that is at a checkpoint keeps SQLite from looking.
    is_known: bool,
}

impl Checkpoint {
    /// Whether all of the log is in the database.
    fn is_whole(&self) -> bool {
        self.is_known && self.moved >= self.bytes
    }
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
    Ok(Checkpoint { busy, bytes: bytes(frames), moved: bytes(moved), is_known: frames >= 0 })
}

pub(super) async fn execute(
    connection: &mut SqliteConnection,
    statement: &'static str,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(connection).await.map(drop)
}
