//! The writer's queue, and how a batch of its changes is applied.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::changes::Acknowledge;
use super::messages::AddMessage;
use super::properties::ChangeProperty;
use super::write_op::{Batched, Queued, Submitted};
use super::write_tx::WriteTx;
use super::{Error, WireText};
use crate::domain::Refusal;

/// Maximum bytes of a batch, exceeded at most by its last change. Bounds the duration of one commit.
pub(crate) const BATCH_BYTES: usize = 4 * 1024 * 1024;

pub(crate) struct Waiting {
    pub(crate) since: Instant,
    pub(crate) item: QueuedWrite,
    _bytes: QueuedBytes,
}

impl Waiting {
    /// `None` if the queued changes hold too many bytes already.
    pub(crate) fn new(item: QueuedWrite, queued: &Arc<AtomicUsize>) -> Option<Self> {
        let bytes = QueuedBytes::take(queued, item.bytes())?;
        Some(Self { since: Instant::now(), item, _bytes: bytes })
    }
}

/// Maximum bytes of all queued changes, exceeded at most by the last one: four batches of messages. A change whose
/// client has gone away stays queued, and no other bound counts it then.
const MAX_BYTES: usize = 4 * BATCH_BYTES;

/// A queued change's share of the byte bound. Dropping it gives the bytes back.
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

/// Start of the current batch or upkeep. For a batch it is the enqueue time of its oldest change; all other queued
/// changes are younger.
#[derive(Default)]
pub(crate) struct Oldest(Mutex<Option<Instant>>);

impl Oldest {
    pub(crate) fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    pub(crate) fn age(&self) -> Duration {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// A type-erased queued change. Frequent kinds have variants, so that runs of them become one statement.
pub(crate) enum QueuedWrite {
    Add(Box<Submitted<AddMessage, Result<(), Refusal>>>),
    Property(Box<Submitted<ChangeProperty, Result<WireText, Refusal>>>),
    Acknowledge(Box<Submitted<Acknowledge, ()>>),
    Other(Box<dyn Queued>),
}

impl QueuedWrite {
    /// Returns the approximate bytes that the change holds: for a message, its data.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Add(submitted) => submitted.change.message.data.len(),
            Self::Property(_) | Self::Acknowledge(_) => 0,
            Self::Other(change) => change.bytes(),
        }
    }

    /// Whether one statement can apply both.
    fn goes_with(&self, next: &Self) -> bool {
        matches!(
            (self, next),
            (Self::Add(_), Self::Add(_))
                | (Self::Property(_), Self::Property(_))
                | (Self::Acknowledge(_), Self::Acknowledge(_))
        )
    }

    pub(crate) fn settle(self, committed: Result<(), Error>) {
        match self {
            Self::Add(submitted) => submitted.settle(committed),
            Self::Property(submitted) => submitted.settle(committed),
            Self::Acknowledge(submitted) => submitted.settle(committed),
            Self::Other(submitted) => submitted.settle(committed),
        }
    }
}

/// Applies the changes in order. One statement applies a run of the same kind.
pub(crate) async fn apply(tx: &mut WriteTx, batch: &mut [QueuedWrite]) -> Result<(), Error> {
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
