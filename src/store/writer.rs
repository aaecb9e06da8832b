//! The one task that writes: it commits for many callers at once.
//!
//! The first change that waits takes along whatever has arrived by then, and one commit makes all of it durable before
//! anybody is answered. The next batch is what arrived during this commit; it is held back only beyond a thousand
//! commits a second, and where all of it may wait a moment. Changes take effect in the order of the queue; runs of
//! changes of a kind that come often become multi-row statements. Should a batch fail, it is rolled back and its
//! changes are applied one by one, so that none fails for a neighbour. Between transactions nothing is remembered: other
//! processes write to the same file.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{counter, histogram};
use sqlx::{Connection as _, SqliteConnection};
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::changes::Acknowledge;
use super::log::{self, Log, LogLeft};
use super::messages::{AddMessage, Added};
use super::properties::{ChangeProperty, PropertyChanged};
use super::queue::{BATCH_BYTES, Caller, Change, Item, Oldest, Submitted, Waiting, apply};
use super::readiness::Outcomes;
use super::reserve::Reserve;
use super::values::ROWS;
use super::watch::watch;
use super::writing::Writing;
use super::{DatabaseFile, Error, Limits};
use crate::id::{StationId, UserId};
use crate::limits::BoundLog;

/// The most changes that wait. More are refused, so that nobody waits longer than it is worth.
const QUEUE: usize = 4096;

/// The least time between commits, in the long run: a thousand flushes a second are about what disks of hired machines
/// allow, and who flushes more often is stopped by them for longer. What comes more often goes together.
const COMMIT_EVERY: Duration = Duration::from_millis(1);

/// How far commits may run ahead of that, so that no change waits for its turn that comes alone.
const COMMITS_AHEAD: Duration = Duration::from_millis(20);

/// How long a change that may wait does so for others to go with.
const MAY_WAIT: Duration = Duration::from_millis(20);

/// How often to look whether another process has written.
const LOOK_FOR_OTHERS: Duration = Duration::from_secs(1);

/// How many commits a listener to [`Told`] may lag behind before it hears of everybody at once.
const TOLD: usize = 1024;

/// Who has something new to read since a commit. It is a hint: what is new stands in the database.
#[derive(Clone, Debug)]
pub enum Told {
    /// These users; not at the station that is named, whose own doing it was.
    Users(Arc<HashMap<UserId, Option<StationId>>>),
    /// Perhaps anybody: another process has written.
    Anybody,
}

/// Where the writer writes.
pub(super) struct Disk {
    pub(super) file: DatabaseFile,
    /// The same, opened before all connections ([`DatabaseFile::open`]).
    pub(super) opened: Arc<File>,
    pub(super) reserve: Arc<Reserve>,
}

/// What became of a change, once it is known.
type Outcome<T> = oneshot::Receiver<Result<T, Error>>;

/// The queue's end in the hands of the store.
pub(super) struct Writer {
    queue: mpsc::Sender<Waiting>,
    /// Bytes of the changes in the queue.
    queued_bytes: Arc<AtomicUsize>,
    oldest: Arc<Oldest>,
    upkeep: Arc<Oldest>,
    told: broadcast::Sender<Told>,
    file: DatabaseFile,
    log: Arc<Log>,
    reserve: Arc<Reserve>,
    outcomes: Arc<Outcomes>,
    bounds: BoundLog,
    /// Cancelled once changes are no longer accepted, for whatever reason.
    closing: CancellationToken,
    /// Cancelled once the files are no longer those that are open. Nothing is acknowledged from then on.
    replaced: CancellationToken,
    ended: CancellationToken,
    /// Returns its connection when the writer has ended.
    checkpointer: Mutex<Option<JoinHandle<Option<SqliteConnection>>>>,
}

impl Writer {
    /// Starts the writer and the task that checkpoints the log.
    pub(super) fn start(
        disk: Disk,
        limits: Limits,
        connection: SqliteConnection,
        checkpointer: SqliteConnection,
        tasks: &TaskTracker,
    ) -> Self {
        let Disk { file, opened, reserve } = disk;
        let (queue, changes) = mpsc::channel(QUEUE);
        let (log, oldest) = (Arc::new(Log::default()), Arc::new(Oldest::default()));
        let (outcomes, upkeep) = (Arc::new(Outcomes::default()), Arc::new(Oldest::default()));
        let closing = log.flush_failed().child_token();
        let (replaced, ended) = (CancellationToken::new(), CancellationToken::new());
        let (told, _) = broadcast::channel(TOLD);
        let task = WriterTask {
            file: file.clone(),
            replaced: replaced.clone(),
            limits,
            writing: Some(Writing::new(connection, limits)),
            changes,
            oldest: Arc::clone(&oldest),
            upkeep: Arc::clone(&upkeep),
            told: told.clone(),
            version: None,
            looked_at: Instant::now(),
            due: Instant::now(),
            log: Arc::clone(&log),
            outcomes: Arc::clone(&outcomes),
        };
        let (close, guard) = (closing.clone(), ended.clone().drop_guard());
        // A thread of its own: woken as a task among others, it would wait for its turn behind all who wait for it.
        let runtime = Handle::current();
        tasks.spawn_blocking(move || runtime.block_on(task.run(close, guard)));
        tasks.spawn(stop_when_replaced(
            watch(file.clone(), Arc::clone(&opened)),
            replaced.clone(),
            closing.clone(),
        ));
        let checkpoint = log::checkpoint(checkpointer, opened, Arc::clone(&log), ended.clone());
        tasks.spawn(Arc::clone(&reserve).watch(ended.clone()));
        // Without it the log would grow for ever.
        let close = closing.clone().drop_guard();
        let checkpointer = tasks.spawn(async move {
            let _close = close;
            checkpoint.await
        });
        let checkpointer = Mutex::new(Some(checkpointer));
        Self {
            queue,
            queued_bytes: Arc::default(),
            oldest,
            upkeep,
            told,
            file,
            log,
            reserve,
            outcomes,
            bounds: BoundLog::default(),
            closing,
            replaced,
            ended,
            checkpointer,
        }
    }

    pub(super) async fn add(&self, message: AddMessage) -> Result<Added, Error> {
        self.reserve.refuse_growth()?;
        self.submit(|caller| Item::Add(Box::new(Submitted::new(message, caller)))).await
    }

    pub(super) async fn change_property(
        &self,
        change: ChangeProperty,
    ) -> Result<PropertyChanged, Error> {
        self.submit(|caller| Item::Property(Box::new(Submitted::new(change, caller)))).await
    }

    pub(super) async fn acknowledge(&self, change: Acknowledge) -> Result<(), Error> {
        self.submit(|caller| Item::Acknowledge(Box::new(Submitted::new(change, caller)))).await
    }

    pub(super) async fn change<C: Change>(&self, change: C) -> Result<C::Outcome, Error> {
        if change.grows() {
            self.reserve.refuse_growth()?;
        }
        self.submit(|caller| Item::Change(Box::new(Submitted::new(change, caller)))).await
    }

    async fn submit<T>(&self, item: impl FnOnce(Caller<T>) -> Item) -> Result<T, Error> {
        self.hand_in(item)?.await.unwrap_or(Err(Error::Closed))
    }

    /// Queues a change that is made whether its outcome is waited for or not.
    pub(super) fn begin<C: Change>(&self, change: C) -> Result<Outcome<C::Outcome>, Error> {
        self.hand_in(|caller| Item::Change(Box::new(Submitted::new(change, caller))))
    }

    fn hand_in<T>(&self, item: impl FnOnce(Caller<T>) -> Item) -> Result<Outcome<T>, Error> {
        let (caller, outcome) = oneshot::channel();
        let enqueued = self.enqueue(item(caller));
        if let Err(Error::QueueFull) = enqueued {
            counter!("chatserver_store_refused_changes_total", "cause" => "queue_full")
                .increment(1);
            self.bounds.hit("queue of the writer");
        }
        enqueued.map(|()| outcome)
    }

    fn enqueue(&self, item: Item) -> Result<(), Error> {
        let waiting = Waiting::new(item, &self.queued_bytes).ok_or(Error::QueueFull)?;
        self.queue.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::QueueFull,
            mpsc::error::TrySendError::Closed(_) => Error::Closed,
        })
    }

    /// Makes a change that nobody waits for, unless the queue is half full: the other half is for those who wait. One that
    /// grows the data is skipped while the disk is full.
    pub(super) fn offer<C: Change>(&self, change: C) {
        if self.queue_depth() >= QUEUE / 2 || change.grows() && self.reserve.is_full() {
            return;
        }
        let (caller, _) = oneshot::channel();
        // What is offered is made again by the next occasion.
        drop(self.enqueue(Item::Change(Box::new(Submitted::new(change, caller)))));
    }

    pub(super) fn told(&self) -> broadcast::Receiver<Told> {
        self.told.subscribe()
    }

    pub(super) fn truncate_log(&self) {
        self.log.truncate_soon();
    }

    /// The file that is written.
    pub(super) fn file(&self) -> &DatabaseFile {
        &self.file
    }

    /// Age of the oldest change that is not made yet. What waits while the writer is between two batches is at most as old as
    /// what it does there.
    pub(super) fn oldest_change(&self) -> Duration {
        if self.queue_depth() == 0 {
            return self.oldest.age();
        }
        self.oldest.age().max(self.upkeep.age())
    }

    pub(super) fn queue_depth(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    pub(super) fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    pub(super) fn flush_failed(&self) -> bool {
        self.log.flush_failed().is_cancelled()
    }

    pub(super) fn is_replaced(&self) -> bool {
        self.replaced.is_cancelled()
    }

    pub(super) fn has_written(&self) -> bool {
        self.log.has_grown()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.closing.is_cancelled() || self.ended.is_cancelled()
    }

    pub(super) async fn refuses(&self) {
        self.closing.cancelled().await;
    }

    pub(super) async fn close(&self) {
        self.closing.cancel();
        self.ended.cancelled().await;
    }

    /// The last checkpoint, once the writer and all readers are closed.
    pub(super) async fn empty_log(&self) -> Result<(), LogLeft> {
        match self.checkpointer().await {
            Some(connection) => log::empty_at_the_end(connection, &self.log, self.file.wal()).await,
            None => Ok(()),
        }
    }

    /// Closes the last connection and leaves the log to other processes.
    pub(super) async fn leave_log(&self) {
        if let Some(Some(connection)) = self.checkpointer().await {
            log::close(connection, &self.log).await;
        }
    }

    /// What the checkpointer has returned; `None` where that was taken before.
    async fn checkpointer(&self) -> Option<Option<SqliteConnection>> {
        let task = self.checkpointer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // One that has panicked has lost its connection.
        Some(task?.await.unwrap_or(None))
    }
}

/// Ends the writer when a file of the database is no longer the one that is open.
async fn stop_when_replaced(
    watch: impl Future<Output = PathBuf>,
    replaced: CancellationToken,
    closing: CancellationToken,
) {
    let Some(path) = closing.run_until_cancelled(watch).await else { return };
    tracing::error!(
        path = %path.display(),
        "the file was replaced, renamed or deleted while the database is open: no change is acknowledged any more"
    );
    replaced.cancel();
    closing.cancel();
}

struct WriterTask {
    file: DatabaseFile,
    limits: Limits,
    /// `None` after a failure that may have left it in an unknown state.
    writing: Option<Writing>,
    changes: mpsc::Receiver<Waiting>,
    oldest: Arc<Oldest>,
    /// Since when it does something else than writing, for which changes wait.
    upkeep: Arc<Oldest>,
    told: broadcast::Sender<Told>,
    /// Changes when another connection commits; `None` where it has not been read on this one.
    version: Option<i64>,
    looked_at: Instant,
    /// When the next commit is due, by their rate.
    due: Instant,
    log: Arc<Log>,
    replaced: CancellationToken,
    outcomes: Arc<Outcomes>,
}

impl WriterTask {
    async fn run(mut self, closing: CancellationToken, _ended: tokio_util::sync::DropGuard) {
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
