//! The only task that writes. It commits for many callers at once.
//!
//! Group commit: one transaction drains the queue, and one commit makes all of it durable before any caller is
//! answered. The next batch is what arrives during this commit. A batch is held back only above 1,000 commits/s, and
//! where all its changes are deferrable.
//!
//! Changes take effect in the order of the queue. Runs of changes of a frequent kind become multi-row statements. A
//! batch that fails is rolled back, and its changes are applied one at a time, so that a failing change fails alone.
//!
//! The task caches nothing between transactions, because other processes write to the same file.

mod task;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::counter;
use sqlx::SqliteConnection;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::changes::Acknowledge;
use super::messages::AddMessage;
use super::outcomes::Outcomes;
use super::properties::ChangeProperty;
use super::queue::{Oldest, QueuedWrite, Waiting};
use super::sql::Connection;
use super::sqlite::local::Local;
use super::sqlite::wal::{self, WalLeft};
use super::sqlite::watch::watch;
use super::write_op::{Outcome, Responder, Submitted, WriteOp};
use super::write_tx::WriteTx;
use super::{Error, WireText, WriteError};
use crate::domain::{Limits, StationId, UserId};
use crate::limits::BoundLog;
use task::WriterTask;

/// Maximum queued changes. Beyond that, changes are refused, so that no caller waits longer than is useful.
const QUEUE: usize = 4096;

/// How many commits a listener to [`CommitEvent`] may lag behind before it assumes that all users are affected.
const COMMIT_EVENTS: usize = 1024;

/// Users affected by a commit. A wake-up hint only; the truth is in the database.
#[derive(Clone, Debug)]
pub(crate) enum CommitEvent {
    /// These users. A station that is named made the change itself, and need not be woken.
    Users(Arc<HashMap<UserId, Option<StationId>>>),
    /// Any user may be affected: another process has written.
    AnyUser,
}

/// Receives the result of a queued change.
type Receiver<T> = oneshot::Receiver<Result<T, Error>>;

/// The store's handle of the writer: it enqueues changes.
pub(crate) struct Writer {
    queue: mpsc::Sender<Waiting>,
    /// Bytes of the changes in the queue.
    queued_bytes: Arc<AtomicUsize>,
    oldest: Arc<Oldest>,
    upkeep: Arc<Oldest>,
    commit_events: broadcast::Sender<CommitEvent>,
    outcomes: Arc<Outcomes>,
    bounds: BoundLog,
    /// Cancelled once changes are no longer accepted, for whatever reason.
    closing: CancellationToken,
    ended: CancellationToken,
    /// Returns its connection when the writer has ended.
    checkpointer: Mutex<Option<JoinHandle<Option<SqliteConnection>>>>,
    local: Local,
}

impl Writer {
    /// Starts the writer, and the tasks that checkpoint the log and watch the files and the disk.
    pub(crate) fn start(
        local: Local,
        limits: Limits,
        connection: Connection,
        checkpointer: SqliteConnection,
        tasks: &TaskTracker,
    ) -> Self {
        let Local { file, reserve, wal, replaced, opened, .. } = local.clone();
        let (queue, changes) = mpsc::channel(QUEUE);
        let oldest = Arc::new(Oldest::default());
        let (outcomes, upkeep) = (Arc::new(Outcomes::default()), Arc::new(Oldest::default()));
        let closing = wal.flush_failed().child_token();
        let ended = CancellationToken::new();
        let (commit_events, _) = broadcast::channel(COMMIT_EVENTS);
        let task = WriterTask {
            file: file.clone(),
            replaced: replaced.clone(),
            limits,
            write_tx: Some(WriteTx::new(connection, limits)),
            changes,
            oldest: Arc::clone(&oldest),
            upkeep: Arc::clone(&upkeep),
            commit_events: commit_events.clone(),
            version: None,
            looked_at: Instant::now(),
            due: Instant::now(),
            wal: Arc::clone(&wal),
            outcomes: Arc::clone(&outcomes),
        };
        let (close, guard) = (closing.clone(), ended.clone().drop_guard());
        // Runs on its own thread; as a task it would be scheduled behind its own waiters.
        let runtime = Handle::current();
        tasks.spawn_blocking(move || runtime.block_on(task.run(close, guard)));
        tasks.spawn(stop_when_replaced(
            watch(file, Arc::clone(&opened)),
            replaced,
            closing.clone(),
        ));
        let checkpoint = wal::checkpoint(checkpointer, opened, wal, ended.clone());
        tasks.spawn(reserve.watch(ended.clone()));
        // Changes are refused once the checkpointer ends: without it the log would grow without bound.
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
            commit_events,
            outcomes,
            bounds: BoundLog::default(),
            closing,
            ended,
            checkpointer,
            local,
        }
    }

    pub(crate) async fn add(&self, message: AddMessage) -> Result<(), WriteError> {
        self.local.reserve.refuse_growth()?;
        let submitted =
            self.submit(|responder| QueuedWrite::Add(Box::new(Submitted::new(message, responder))));
        submitted.await?.map_err(WriteError::Refused)
    }

    pub(crate) async fn change_property(
        &self,
        change: ChangeProperty,
    ) -> Result<WireText, WriteError> {
        let submitted = self
            .submit(|responder| QueuedWrite::Property(Box::new(Submitted::new(change, responder))));
        submitted.await?.map_err(WriteError::Refused)
    }

    pub(crate) async fn acknowledge(&self, change: Acknowledge) -> Result<(), Error> {
        self.submit(|responder| {
            QueuedWrite::Acknowledge(Box::new(Submitted::new(change, responder)))
        })
        .await
    }

    pub(crate) async fn write<C: WriteOp>(
        &self,
        change: C,
    ) -> Result<C::Output, WriteError<C::Refusal>> {
        if change.grows() {
            self.local.reserve.refuse_growth()?;
        }
        let written = self.begin(change)?.await.unwrap_or(Err(Error::Closed));
        written?.map_err(WriteError::Refused)
    }

    async fn submit<T>(&self, item: impl FnOnce(Responder<T>) -> QueuedWrite) -> Result<T, Error> {
        self.hand_in(item)?.await.unwrap_or(Err(Error::Closed))
    }

    /// Enqueues a change. It is made even if its outcome is not awaited, unless it is only for its answer
    /// ([`WriteOp::IS_FOR_ITS_ANSWER`]).
    pub(crate) fn begin<C: WriteOp>(&self, change: C) -> Result<Receiver<Outcome<C>>, Error> {
        self.hand_in(|responder| QueuedWrite::Other(Box::new(Submitted::new(change, responder))))
    }

    fn hand_in<T>(
        &self,
        item: impl FnOnce(Responder<T>) -> QueuedWrite,
    ) -> Result<Receiver<T>, Error> {
        let (responder, outcome) = oneshot::channel();
        let enqueued = self.enqueue(item(responder));
        if let Err(Error::QueueFull) = enqueued {
            counter!("chatserver_store_refused_changes_total", "cause" => "queue_full")
                .increment(1);
            self.bounds.hit("queue of the writer");
        }
        enqueued.map(|()| outcome)
    }

    fn enqueue(&self, item: QueuedWrite) -> Result<(), Error> {
        let waiting = Waiting::new(item, &self.queued_bytes).ok_or(Error::QueueFull)?;
        self.queue.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::QueueFull,
            mpsc::error::TrySendError::Closed(_) => Error::Closed,
        })
    }

    /// Enqueues a change without waiting for it, unless the queue is at least half full: the other half is for changes
    /// that callers await. A change that grows the data is skipped while the disk is full.
    pub(crate) fn offer<C: WriteOp>(&self, change: C) {
        if self.queue_depth() >= QUEUE / 2 || change.grows() && self.local.reserve.is_full() {
            return;
        }
        let (responder, _) = oneshot::channel();
        // A change that is refused here is offered again on the next occasion.
        drop(self.enqueue(QueuedWrite::Other(Box::new(Submitted::new(change, responder)))));
    }

    pub(crate) fn commit_events(&self) -> broadcast::Receiver<CommitEvent> {
        self.commit_events.subscribe()
    }

    /// Returns the age of the oldest change that is not made yet. A change that waits during the upkeep between two
    /// batches is at most as old as the upkeep.
    pub(crate) fn oldest_change(&self) -> Duration {
        if self.queue_depth() == 0 {
            return self.oldest.age();
        }
        self.oldest.age().max(self.upkeep.age())
    }

    pub(crate) fn queue_depth(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    pub(crate) fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.closing.is_cancelled() || self.ended.is_cancelled()
    }

    pub(crate) async fn refuses(&self) {
        self.closing.cancelled().await;
    }

    pub(crate) async fn close(&self) {
        self.closing.cancel();
        self.ended.cancelled().await;
    }

    /// Makes the last checkpoint, once the writer and all readers are closed.
    pub(crate) async fn empty_log(&self) -> Result<(), WalLeft> {
        match self.checkpointer().await {
            Some(connection) => {
                wal::empty_at_the_end(connection, &self.local.wal, self.local.file.wal()).await
            }
            None => Ok(()),
        }
    }

    /// Closes the last connection and leaves the log to other processes.
    pub(crate) async fn leave_log(&self) {
        if let Some(Some(connection)) = self.checkpointer().await {
            wal::close(connection, &self.local.wal).await;
        }
    }

    /// Waits for the checkpointer and takes its result; `None` where that was taken before.
    async fn checkpointer(&self) -> Option<Option<SqliteConnection>> {
        let task = self.checkpointer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A checkpointer that has panicked has lost its connection.
        Some(task?.await.unwrap_or(None))
    }
}

/// Stops the writer once a path of the database no longer leads to the open file.
async fn stop_when_replaced(
    watch: impl Future<Output = PathBuf>,
    replaced: CancellationToken,
    closing: CancellationToken,
) {
    let Some(path) = closing.run_until_cancelled(watch).await else { return };
    tracing::error!(
        path = %path.display(),
        "a file of the open database was replaced, renamed or deleted: no further change is acknowledged"
    );
    replaced.cancel();
    closing.cancel();
}
