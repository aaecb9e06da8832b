//! The writer's task: it gathers batches, commits them, answers, and empties the log in between.

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::domain::Limits;
use crate::random::between_zero_and;
use crate::sealing::KeyRing;
use crate::store::Error;
use crate::store::commit_event::CommitEvent;
use crate::store::engine::Engine;
use crate::store::many_rows::ROWS;
use crate::store::outcomes::Outcomes;
use crate::store::queue::{BATCH_BYTES, Oldest, QueuedWrite, Waiting, apply};
use crate::store::write_tx::WriteTx;

/// Minimum average interval between commits; faster changes share a commit. Cloud disks allow about 1,000 fsyncs/s, and
/// stall for longer when that is exceeded.
const COMMIT_EVERY: Duration = Duration::from_millis(1);

/// How far commits may run ahead of that rate, so that a lone change does not wait for its turn.
const COMMITS_AHEAD: Duration = Duration::from_millis(20);

/// Maximum attempts to commit a batch that meets other transactions. Other nodes write at the same time on PostgreSQL.
const ATTEMPTS: u32 = 12;

/// Attempts of a batch before it takes turns with other nodes' batches. With three nodes that write one conversation, the
/// p99 fell from 200 to 30 ms. After two attempts already, nodes without common users took turns, too, and `send` lost a
/// tenth.
const ATTEMPTS_OUT_OF_TURN: u32 = 3;

/// Number of batches that take turns then, the repeated one included. With 8, nodes that write one conversation still
/// answered some requests with 503. If all batches took turns, nodes without common users would wait for each other.
const TURNS: u32 = 32;

/// Interval between checks for commits by other processes.
const LOOK_FOR_OTHERS: Duration = Duration::from_secs(1);

pub(super) struct WriterTask {
    pub(super) engine: Engine,
    pub(super) limits: Limits,
    pub(super) keys: Arc<KeyRing>,
    /// `None` after a failure that may have left the connection in an unknown state.
    pub(super) write_tx: Option<WriteTx>,
    pub(super) changes: mpsc::Receiver<Waiting>,
    pub(super) oldest: Arc<Oldest>,
    /// Start of the upkeep between two batches, for which changes wait.
    pub(super) upkeep: Arc<Oldest>,
    pub(super) commit_events: broadcast::Sender<CommitEvent>,
    /// SQLite's `data_version`, which changes when another connection commits; `None` before it is read on this
    /// connection.
    pub(super) version: Option<i64>,
    pub(super) looked_at: Instant,
    /// When the next commit is due, by the commit rate.
    pub(super) due: Instant,
    pub(super) outcomes: Arc<Outcomes>,
    /// Number of batches that are still to take turns with those of other nodes.
    pub(super) turns: u32,
}

impl WriterTask {
    pub(super) async fn run(
        mut self,
        closing: CancellationToken,
        _ended: tokio_util::sync::DropGuard,
    ) {
        self.look_for_others().await;
        // What is still queued when the files are gone is dropped with the queue.
        while !self.is_replaced() {
            let first = tokio::select! {
                biased;
                () = closing.cancelled(), if !self.changes.is_closed() => {
                    self.changes.close();
                    continue;
                }
                first = self.changes.recv() => first,
                () = sleep(LOOK_FOR_OTHERS) => {
                    self.keep_up().await;
                    continue;
                }
            };
            let Some(first) = first else { break };
            self.oldest.set(Some(first.since));
            self.write(first.item).await;
            self.oldest.set(None);
            self.keep_up().await;
        }
        if let Some(write_tx) = self.write_tx.take()
            && let Err(error) = write_tx.into_connection().close().await
        {
            tracing::warn!(%error, "closing the writing connection failed");
        }
    }

    /// Does the upkeep that is due between two batches. Both steps may hang: where another program has the database, or
    /// on the disk.
    async fn keep_up(&mut self) {
        self.upkeep.set(Some(Instant::now()));
        if self.looked_at.elapsed() >= LOOK_FOR_OTHERS {
            self.look_for_others().await;
        }
        self.empty_log().await;
        self.upkeep.set(None);
    }

    /// Writes one batch, from the first queued change to the answers.
    async fn write(&mut self, first: QueuedWrite) {
        let mut batch = vec![first];
        self.wait_until_due().await;
        let started = Instant::now();
        self.gather(&mut batch);
        let written = self.apply_and_commit(&mut batch).await;
        histogram!("chatserver_store_batch_changes").record(number(batch.len()));
        histogram!("chatserver_store_commit_seconds").record(started.elapsed());
        match &written {
            Err(error) if batch.len() > 1 && !error.is_for_all() => {
                let source: &dyn std::error::Error = error;
                tracing::warn!(
                    cause = error.cause(),
                    error = source,
                    changes = batch.len(),
                    "batch failed; retrying its changes one at a time"
                );
                counter!("chatserver_store_failed_batches_total").increment(1);
                self.write_one_by_one(batch).await;
            }
            _ => self.settle(batch, &written),
        }
    }

    async fn write_one_by_one(&mut self, batch: Vec<QueuedWrite>) {
        for item in batch {
            let mut alone = vec![item];
            let written = self.apply_and_commit(&mut alone).await;
            self.settle(alone, &written);
        }
    }

    /// Sends the results, unless the files are gone. Then the callers learn that the writer has stopped.
    fn settle(&self, batch: Vec<QueuedWrite>, written: &Result<(), Error>) {
        if self.is_replaced() {
            return;
        }
        if let Err(error) = written {
            let failed = batch.len().try_into().unwrap_or(u64::MAX);
            counter!("chatserver_store_failed_changes_total", "cause" => error.cause())
                .increment(failed);
        }
        for item in batch {
            item.settle(written.clone());
        }
    }

    /// Whether the files of the database are gone.
    fn is_replaced(&self) -> bool {
        self.engine.local().is_some_and(|local| local.replaced.is_cancelled())
    }

    /// Returns the connection, or opens a new one where the last one failed.
    async fn write_tx(&mut self) -> Result<&mut WriteTx, Error> {
        match &mut self.write_tx {
            Some(write_tx) => Ok(write_tx),
            none => {
                let connection = self.engine.reconnect().await?;
                self.version = None;
                Ok(none.insert(WriteTx::new(connection, self.limits, Arc::clone(&self.keys))))
            }
        }
    }

    /// Rate-limits commits: waits until the next one is due.
    async fn wait_until_due(&mut self) {
        let now = Instant::now();
        let not_before = now.checked_sub(COMMITS_AHEAD).unwrap_or(now);
        self.due = self.due.max(not_before) + COMMIT_EVERY;
        if self.due > now {
            sleep_until(self.due).await;
        }
    }

    /// Drains the queue into the batch, up to the bounds of a batch.
    fn gather(&mut self, batch: &mut Vec<QueuedWrite>) {
        let mut bytes: usize = batch.iter().map(QueuedWrite::bytes).sum();
        while batch.len() < ROWS && bytes < BATCH_BYTES {
            let Ok(Waiting { item, .. }) = self.changes.try_recv() else { break };
            bytes += item.bytes();
            batch.push(item);
        }
    }

    /// Applies the changes in one transaction, and again where that met another one.
    async fn apply_and_commit(&mut self, batch: &mut [QueuedWrite]) -> Result<(), Error> {
        self.turns = self.turns.saturating_sub(1);
        for attempt in 1..ATTEMPTS {
            match self.try_to_commit(batch).await {
                Err(error) if error.is_repeatable() => {
                    counter!("chatserver_store_repeated_batches_total").increment(1);
                    sleep(pause_after(attempt)).await;
                    if attempt >= ATTEMPTS_OUT_OF_TURN {
                        self.turns = TURNS;
                    }
                }
                written => {
                    if written.is_err() {
                        // A node that hangs in its turn fails this batch, but not the next one.
                        self.turns = 0;
                    }
                    return written;
                }
            }
        }
        self.try_to_commit(batch).await
    }

    async fn try_to_commit(&mut self, batch: &mut [QueuedWrite]) -> Result<(), Error> {
        let takes_turns = self.turns > 0;
        let write_tx = self.write_tx().await?;
        if takes_turns {
            write_tx.begin_in_turn();
        } else {
            write_tx.begin();
        }
        let written = match apply(write_tx, batch).await {
            Ok(()) => write_tx.commit().await,
            Err(error) => Err(error),
        };
        match written {
            Ok(news) => {
                // Before the answer, because its caller may ask at once whether anything was written.
                if let Some(local) = self.engine.local() {
                    local.wal.grown();
                    let bytes: usize = batch.iter().map(QueuedWrite::bytes).sum();
                    local.reserve.grew(bytes.try_into().unwrap_or(u64::MAX));
                }
                self.outcomes.committed(!news.is_empty());
                if !news.is_empty() {
                    // Fails where no listener is subscribed.
                    drop(self.commit_events.send(CommitEvent::Here(Arc::new(news))));
                }
                Ok(())
            }
            Err(error) => {
                // `ROLLBACK` fails where SQLite has rolled back by itself, as it does after some errors, and where the
                // transaction has not begun. A new connection is in a known state in any case.
                if write_tx.is_lost() || write_tx.roll_back().await.is_err() {
                    self.write_tx = None;
                }
                if !error.is_repeatable() {
                    self.outcomes.failed(&error);
                }
                Err(error)
            }
        }
    }

    /// Wakes all listeners if another process, such as a command, has committed to the file. Has the write-ahead log
    /// truncated soon, because a command that removes something leaves the log to this server.
    async fn look_for_others(&mut self) {
        self.looked_at = Instant::now();
        let (Some(write_tx), Engine::Sqlite(local)) = (&mut self.write_tx, &self.engine) else {
            return;
        };
        let version = sqlx::query_scalar("PRAGMA data_version");
        match version.fetch_one(write_tx.idle().sqlite()).await {
            Ok(version) => {
                if self.version.replace(version) != Some(version) {
                    drop(self.commit_events.send(CommitEvent::AnyUser));
                    local.wal.truncate_soon();
                }
            }
            Err(error) => tracing::warn!(%error, "checking for changes of other processes failed"),
        }
    }

    async fn empty_log(&mut self) {
        let Engine::Sqlite(local) = &self.engine else { return };
        if !local.wal.is_due() {
            return;
        }
        let Some(write_tx) = &mut self.write_tx else { return };
        if let Err(error) = local.wal.empty(write_tx.idle().sqlite()).await {
            local.wal.checkpoint_failed(&error);
            self.write_tx = None;
        }
    }
}

/// Returns the pause after a failed attempt: up to 1 ms after the first, twice as much after each further one, and a random
/// part of that, so that nodes that met don't meet again. In its turn a batch may still meet one that takes none.
fn pause_after(attempt: u32) -> Duration {
    between_zero_and(Duration::from_millis(1 << (attempt - 1).min(6)))
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
