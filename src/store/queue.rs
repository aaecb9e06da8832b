//! Changes on their way to the writer, whatever their type, and how a batch of them is applied.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::changes::Acknowledge;
use super::messages::AddMessage;
use super::properties::ChangeProperty;
use super::write_tx::WriteTx;
use super::{Error, WireText, WriteError};
use crate::domain::Refusal;

/// A batch takes no further change once its changes have this many bytes: it bounds the time that one commit takes.
pub(super) const BATCH_BYTES: usize = 4 * 1024 * 1024;

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who is told what became of a change.
pub(super) type Responder<O> = oneshot::Sender<Result<O, Error>>;

/// A change of the database that is applied within a transaction.
pub trait WriteOp: Send + Sync + 'static {
    /// What it returns.
    type Output: Send + 'static;

    /// Why the rules may refuse it: [`Refusal`](crate::domain::Refusal), or [`Infallible`](std::convert::Infallible) where none
    /// does.
    type Refusal: Send + 'static;

    /// Whether it is made for its answer alone: it is skipped once its caller has given up waiting.
    const IS_FOR_ITS_ANSWER: bool = false;

    /// Whether it is the last change of its transaction. What it frees is overwritten before it is used again only in a later
    /// one: within its own, the rest of a page keeps what was there.
    const ENDS_BATCH: bool = false;

    /// Whether it grows the data for good. It is refused where the disk is nearly full, like every message, and all other
    /// changes are made.
    fn grows(&self) -> bool {
        false
    }

    /// About how many bytes it keeps while it waits; 0 for the usual few hundred.
    fn bytes(&self) -> usize {
        0
    }

    /// Applies it. A refusal must come before the first write, as the transaction goes on. It may be called again after a
    /// rollback.
    fn apply<'a>(
        &'a self,
        tx: &'a mut WriteTx,
    ) -> impl Future<Output = Result<Self::Output, WriteError<Self::Refusal>>> + Send + 'a;
}

/// What became of a change: its output, or why the rules refuse it.
pub(super) type Outcome<C> = Result<<C as WriteOp>::Output, <C as WriteOp>::Refusal>;

/// A kind of change of which many are applied by one statement each.
pub(super) trait Batched: Send + Sync {
    /// What became of one.
    type Outcome: Send;

    /// Whether it may wait a moment for what comes next: no caller waits for it.
    fn is_deferrable(&self) -> bool {
        false
    }

    /// Applies at least one and at most [`ROWS`](super::values::ROWS), in their order. They may be applied again after a rollback.
    fn apply_all(
        tx: &mut WriteTx,
        all: &[&Self],
    ) -> impl Future<Output = Result<Vec<Self::Outcome>, Error>> + Send;
}

/// A change of any type, without it.
pub(super) trait Queued: Send {
    /// Applies the change and keeps its outcome back until the commit.
    fn apply<'a>(&'a mut self, tx: &'a mut WriteTx) -> BoxFuture<'a, Result<(), Error>>;

    /// Whether it is the last change of its transaction.
    fn ends_batch(&self) -> bool;

    /// About how many bytes it keeps.
    fn bytes(&self) -> usize;

    /// Tells the caller what became of it: the outcome, unless the transaction failed.
    fn settle(self: Box<Self>, committed: Result<(), Error>);
}

/// A change that waits, and who waits for its outcome.
pub(super) struct Submitted<C, O> {
    change: C,
    outcome: Option<O>,
    responder: Responder<O>,
}

impl<C, O> Submitted<C, O> {
    pub(super) fn new(change: C, responder: Responder<O>) -> Self {
        Self { change, outcome: None, responder }
    }

    /// A caller that went away has given up its answer; the change too, only where it is for its answer alone.
    fn settle(self, committed: Result<(), Error>) {
        let result = committed.and_then(|()| self.outcome.ok_or(Error::Closed));
        drop(self.responder.send(result));
    }
}

impl<C: WriteOp> Queued for Submitted<C, Outcome<C>> {
    fn apply<'a>(&'a mut self, tx: &'a mut WriteTx) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            if C::IS_FOR_ITS_ANSWER {
                // The transaction has begun then, however long that took.
                tx.connection().await?;
                if self.responder.is_closed() {
                    return Ok(());
                }
            }
            self.outcome = match self.change.apply(tx).await {
                Ok(output) => Some(Ok(output)),
                Err(WriteError::Refused(refusal)) => Some(Err(refusal)),
                Err(WriteError::Failed(error)) => return Err(error),
            };
            Ok(())
        })
    }

    fn ends_batch(&self) -> bool {
        C::ENDS_BATCH
    }

    fn bytes(&self) -> usize {
        self.change.bytes()
    }

    fn settle(self: Box<Self>, committed: Result<(), Error>) {
        (*self).settle(committed);
    }
}

/// A change in the queue, and since when it waits.
pub(super) struct Waiting {
    pub(super) since: Instant,
    pub(super) item: QueuedWrite,
    _bytes: QueuedBytes,
}

impl Waiting {
    /// A change that begins to wait; `None` where those that wait have too many bytes already.
    pub(super) fn new(item: QueuedWrite, queued: &Arc<AtomicUsize>) -> Option<Self> {
        let bytes = QueuedBytes::take(queued, item.bytes())?;
        Some(Self { since: Instant::now(), item, _bytes: bytes })
    }
}

/// Maximum bytes of the changes that wait, but for the last one of them: four batches of messages. A client that goes away leaves its
/// change in the queue, and no other bound counts it from then on.
const MAX_BYTES: usize = 4 * BATCH_BYTES;

/// The bytes of a change that waits.
struct QueuedBytes {
    queued: Arc<AtomicUsize>,
    bytes: usize,
}

impl QueuedBytes {
    fn take(queued: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let before = queued.fetch_add(bytes, Ordering::Relaxed);
        let taken = Self { queued: Arc::clone(queued), bytes };
        (bytes == 0 || before < MAX_BYTES).then_some(taken)
    }
}

impl Drop for QueuedBytes {
    fn drop(&mut self) {
        self.queued.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Since when the oldest change of the present batch waits. All others in the queue are younger.
#[derive(Default)]
pub(super) struct Oldest(Mutex<Option<Instant>>);

impl Oldest {
    pub(super) fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    pub(super) fn age(&self) -> Duration {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// A change of any type, as it waits.
pub(super) enum QueuedWrite {
    Add(Box<Submitted<AddMessage, Result<(), Refusal>>>),
    Property(Box<Submitted<ChangeProperty, Result<WireText, Refusal>>>),
    Acknowledge(Box<Submitted<Acknowledge, ()>>),
    Other(Box<dyn Queued>),
}

impl QueuedWrite {
    /// About how many bytes it keeps: of a message its data.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Add(submitted) => submitted.change.message.data.len(),
            Self::Property(_) | Self::Acknowledge(_) => 0,
            Self::Other(change) => change.bytes(),
        }
    }

    /// Whether one statement serves both.
    fn goes_with(&self, next: &Self) -> bool {
        matches!(
            (self, next),
            (Self::Add(_), Self::Add(_))
                | (Self::Property(_), Self::Property(_))
                | (Self::Acknowledge(_), Self::Acknowledge(_))
        )
    }

    /// Whether it is the last change of its transaction.
    pub(super) fn ends_batch(&self) -> bool {
        matches!(self, Self::Other(change) if change.ends_batch())
    }

    /// Whether it may wait a moment for what comes next.
    pub(super) fn is_deferrable(&self) -> bool {
        match self {
            Self::Add(submitted) => submitted.change.is_deferrable(),
            Self::Property(submitted) => submitted.change.is_deferrable(),
            Self::Acknowledge(submitted) => submitted.change.is_deferrable(),
            Self::Other(_) => false,
        }
    }

    /// Tells the caller what became of it: the outcome, unless the transaction failed.
    pub(super) fn settle(self, committed: Result<(), Error>) {
        match self {
            Self::Add(submitted) => submitted.settle(committed),
            Self::Property(submitted) => submitted.settle(committed),
            Self::Acknowledge(submitted) => submitted.settle(committed),
            Self::Other(submitted) => submitted.settle(committed),
        }
    }
}

/// Applies these in their order, runs of those that go together by one statement each.
pub(super) async fn apply(tx: &mut WriteTx, batch: &mut [QueuedWrite]) -> Result<(), Error> {
    for run in batch.chunk_by_mut(QueuedWrite::goes_with) {
        let (mut messages, mut properties, mut acknowledged) = (Vec::new(), Vec::new(), Vec::new());
        for item in run {
            match item {
                QueuedWrite::Add(message) => messages.push(&mut **message),
                QueuedWrite::Property(property) => properties.push(&mut **property),
                QueuedWrite::Acknowledge(acknowledge) => acknowledged.push(&mut **acknowledge),
                QueuedWrite::Other(change) => change.apply(&mut *tx).await?,
            }
        }
        apply_together(tx, messages).await?;
        apply_together(tx, properties).await?;
        apply_together(tx, acknowledged).await?;
    }
    Ok(())
}

async fn apply_together<C: Batched>(
    tx: &mut WriteTx,
    run: Vec<&mut Submitted<C, C::Outcome>>,
) -> Result<(), Error> {
    if run.is_empty() {
        return Ok(());
    }
    let changes: Vec<_> = run.iter().map(|submitted| &submitted.change).collect();
    let outcomes = C::apply_all(tx, &changes).await?;
    for (submitted, outcome) in run.into_iter().zip(outcomes) {
        submitted.outcome = Some(outcome);
    }
    Ok(())
}
