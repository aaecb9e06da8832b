//! The only task that writes. It commits for many callers at once.
//!
//! Group commit: one transaction drains the queue, and one commit makes all of it durable before any caller is
//! answered. The next batch is what arrives during this commit. A batch is held back only above 1,000 commits/s.
//!
//! Changes take effect in the order of the queue. Runs of changes of a frequent kind become multi-row statements. A
//! batch that fails is rolled back, and its changes are applied one at a time, so that a failing change fails alone.
//!
//! The task caches nothing between transactions, because other processes write to the same database.

mod task;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use metrics::counter;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::changes::Acknowledge;
use super::commit_event::CommitEvent;
use super::engine::Engine;
use super::messages::AddMessage;
use super::outcomes::Outcomes;
use super::properties::ChangeProperty;
use super::queue::{Oldest, QueuedWrite, Waiting};
use super::sql::Connection;
use super::write_op::{Outcome, Responder, Submitted, WriteOp};
use super::write_tx::WriteTx;
use super::{Error, WireText, WriteError};
use crate::domain::Limits;
use crate::limits::BoundLog;
use crate::sealing::KeyRing;
use task::WriterTask;

/// Maximum queued changes. Beyond that, changes are refused, so that no caller waits longer than is useful.
const QUEUE: usize = 4096;

/// How many commits a listener to [`CommitEvent`] may lag behind before it assumes that all users are affected.
const COMMIT_EVENTS: usize = 1024;

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
    engine: Engine,
}

impl Writer {
    /// Starts the writer with a connection that may write. It ends when `closing` is cancelled, and then cancels `ended`.
    pub(crate) fn start(
        engine: Engine,
        limits: Limits,
        keys: Arc<KeyRing>,
        connection: Connection,
        [closing, ended]: [CancellationToken; 2],
        tasks: &TaskTracker,
    ) -> Self {
        let (queue, changes) = mpsc::channel(QUEUE);
        let oldest = Arc::new(Oldest::default());
        let (outcomes, upkeep) = (Arc::new(Outcomes::default()), Arc::new(Oldest::default()));
        let (commit_events, _) = broadcast::channel(COMMIT_EVENTS);
        let task = WriterTask {
            engine: engine.clone(),
            limits,
            keys: Arc::clone(&keys),
            write_tx: Some(WriteTx::new(connection, limits, keys)),
            changes,
            oldest: Arc::clone(&oldest),
            upkeep: Arc::clone(&upkeep),
            commit_events: commit_events.clone(),
            version: None,
            looked_at: Instant::now(),
            due: Instant::now(),
            outcomes: Arc::clone(&outcomes),
            turns: 0,
        };
        let (close, guard) = (closing.clone(), ended.clone().drop_guard());
        // Runs on its own thread; as a task it would be scheduled behind its own waiters.
        let runtime = Handle::current();
        tasks.spawn_blocking(move || runtime.block_on(task.run(close, guard)));
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
            engine,
        }
    }

    pub(crate) async fn add(&self, message: AddMessage) -> Result<(), WriteError> {
        self.refuse_growth()?;
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
            self.refuse_growth()?;
        }
        let written = self.begin(change)?.await.unwrap_or(Err(Error::Closed));
        written?.map_err(WriteError::Refused)
    }

    /// Refuses a change that grows the data while the disk of a file is nearly full.
    fn refuse_growth(&self) -> Result<(), Error> {
        self.engine.local().map_or(Ok(()), |local| local.reserve.refuse_growth())
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
        if self.queue_depth() >= QUEUE / 2 || change.grows() && self.refuse_growth().is_err() {
            return;
        }
        let (responder, _) = oneshot::channel();
        // A change that is refused here is offered again on the next occasion.
        drop(self.enqueue(QueuedWrite::Other(Box::new(Submitted::new(change, responder)))));
    }

    pub(crate) fn commit_events(&self) -> &broadcast::Sender<CommitEvent> {
        &self.commit_events
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
}
