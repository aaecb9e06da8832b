//! The task of the writer: it gathers batches, commits them, answers, and empties the log in between.

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use sqlx::Connection as _;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::super::log::Log;
use super::super::queue::{BATCH_BYTES, Item, Oldest, Waiting, apply};
use super::super::readiness::Outcomes;
use super::super::values::ROWS;
use super::super::writing::Writing;
use super::super::{DatabaseFile, Error};
use super::Told;
use crate::domain::Limits;

/// The least time between commits, in the long run: a thousand flushes a second are about what disks of hired machines
/// allow, and who flushes more often is stopped by them for longer. What comes more often goes together.
const COMMIT_EVERY: Duration = Duration::from_millis(1);

/// How far commits may run ahead of that, so that no change waits for its turn that comes alone.
const COMMITS_AHEAD: Duration = Duration::from_millis(20);

/// How long a change that may wait does so for others to go with.
const MAY_WAIT: Duration = Duration::from_millis(20);

/// How often to look whether another process has written.
const LOOK_FOR_OTHERS: Duration = Duration::from_secs(1);

pub(super) struct WriterTask {
    pub(super) file: DatabaseFile,
    pub(super) limits: Limits,
    /// `None` after a failure that may have left it in an unknown state.
    pub(super) writing: Option<Writing>,
    pub(super) changes: mpsc::Receiver<Waiting>,
    pub(super) oldest: Arc<Oldest>,
    /// Since when it does something else than writing, for which changes wait.
    pub(super) upkeep: Arc<Oldest>,
    pub(super) told: broadcast::Sender<Told>,
    /// Changes when another connection commits; `None` where it has not been read on this one.
    pub(super) version: Option<i64>,
    pub(super) looked_at: Instant,
    /// When the next commit is due, by their rate.
    pub(super) due: Instant,
    pub(super) log: Arc<Log>,
    pub(super) replaced: CancellationToken,
    pub(super) outcomes: Arc<Outcomes>,
}

impl WriterTask {
    pub(super) async fn run(
        mut self,
        closing: CancellationToken,
        _ended: tokio_util::sync::DropGuard,
    ) {
        self.look_for_others().await;
        // What is queued when the files are gone is dropped with the queue.
        while !self.replaced.is_cancelled() {
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
        if let Some(writing) = self.writing.take()
            && let Err(error) = writing.into_connection().close().await
        {
            tracing::warn!(%error, "closing the writing connection failed");
        }
    }

    /// What is due between two batches. Both may hang: where another program has the database, or on the disk.
    async fn keep_up(&mut self) {
        self.upkeep.set(Some(Instant::now()));
        if self.looked_at.elapsed() >= LOOK_FOR_OTHERS {
            self.look_for_others().await;
        }
        self.empty_log().await;
        self.upkeep.set(None);
    }

    /// One batch: from the first change that waited to the answers.
    async fn write(&mut self, first: Item) {
        let mut batch = vec![first];
        self.wait_for_more(&mut batch).await;
        self.wait_for_turn().await;
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

    async fn write_one_by_one(&mut self, batch: Vec<Item>) {
        for item in batch {
            let mut alone = vec![item];
            let written = self.apply_and_commit(&mut alone).await;
            self.settle(alone, &written);
        }
    }

    /// Answers, unless the files are gone: then the callers are told that the writer has stopped.
    fn settle(&self, batch: Vec<Item>, written: &Result<(), Error>) {
        if self.replaced.is_cancelled() {
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

    /// The connection, or a new one where the last one failed.
    async fn writing(&mut self) -> Result<&mut Writing, Error> {
        match &mut self.writing {
            Some(writing) => Ok(writing),
            // A file that is opened now hears nothing of the failure.
            None if self.log.flush_failed().is_cancelled() => Err(Error::Closed),
            none => {
                let opened = self.file.connect_writer().await;
                let connection = opened.map_err(|error| {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the database can't be opened again"
                    );
                    Error::Closed
                })?;
                self.version = None;
                Ok(none.insert(Writing::new(connection, self.limits)))
            }
        }
    }

    /// Waits for a change that does not wait itself, if there is none in the batch.
    async fn wait_for_more(&mut self, batch: &mut Vec<Item>) {
        let until = Instant::now() + MAY_WAIT;
        while batch.iter().all(Item::may_wait) && batch.len() < ROWS {
            match timeout_at(until, self.changes.recv()).await {
                Ok(Some(waiting)) => batch.push(waiting.item),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Waits until the next commit is due, where there have been many.
    async fn wait_for_turn(&mut self) {
        let now = Instant::now();
        let not_before = now.checked_sub(COMMITS_AHEAD).unwrap_or(now);
        self.due = self.due.max(not_before) + COMMIT_EVERY;
        if self.due > now {
            sleep_until(self.due).await;
        }
    }

    /// Takes what else has arrived into the batch.
    fn gather(&mut self, batch: &mut Vec<Item>) {
        let mut bytes: usize = batch.iter().map(Item::bytes).sum();
        while batch.len() < ROWS
            && bytes < BATCH_BYTES
            && !batch.last().is_some_and(Item::ends_batch)
        {
            let Ok(Waiting { item, .. }) = self.changes.try_recv() else { break };
            bytes += item.bytes();
            batch.push(item);
        }
    }

    async fn apply_and_commit(&mut self, batch: &mut [Item]) -> Result<(), Error> {
        let writing = self.writing().await?;
        writing.begin();
        let written = match apply(writing, batch).await {
            Ok(()) => writing.commit().await,
            Err(error) => Err(error),
        };
        match written {
            Ok(told) => {
                // Before the answer: whoever has it may ask at once whether anything was written.
                self.log.grown();
                self.outcomes.committed(!told.is_empty());
                if !told.is_empty() {
                    // Nobody may be listening.
                    drop(self.told.send(Told::Users(Arc::new(told))));
                }
                Ok(())
            }
            Err(error) => {
                // SQLite rolls back by itself after some errors and then refuses to do it again, and where a
                // transaction has not begun. A new connection is in a known state in any case.
                if writing.roll_back().await.is_err() {
                    self.writing = None;
                }
                self.outcomes.failed();
                Err(error)
            }
        }
    }

    /// Tells of what other processes have written, such as a command.
    async fn look_for_others(&mut self) {
        self.looked_at = Instant::now();
        let Some(writing) = &mut self.writing else { return };
        let version = sqlx::query_scalar("PRAGMA data_version");
        match version.fetch_one(writing.idle()).await {
            Ok(version) => {
                if self.version.replace(version) != Some(version) {
                    drop(self.told.send(Told::Anybody));
                }
            }
            Err(error) => tracing::warn!(%error, "looking for changes of others failed"),
        }
    }

    /// Empties the log where that is due.
    async fn empty_log(&mut self) {
        if !self.log.is_due() {
            return;
        }
        let Some(writing) = &mut self.writing else { return };
        if let Err(error) = self.log.empty(writing.idle()).await {
            self.log.checkpoint_failed(&error);
            self.writing = None;
        }
    }
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
