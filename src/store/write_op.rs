//! Changes that the writer makes, whatever their type.

use std::pin::Pin;

use tokio::sync::oneshot;

use super::write_tx::WriteTx;
use super::{Error, WriteError};

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
    pub(super) change: C,
    pub(super) outcome: Option<O>,
    responder: Responder<O>,
}

impl<C, O> Submitted<C, O> {
    pub(super) fn new(change: C, responder: Responder<O>) -> Self {
        Self { change, outcome: None, responder }
    }

    /// A caller that went away has given up its answer; the change too, only where it is for its answer alone.
    pub(super) fn settle(self, committed: Result<(), Error>) {
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
