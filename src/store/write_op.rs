//! Changes of the database. [`WriteOp`] is one change. [`Batched`] is a frequent kind, of which one statement applies
//! many. [`Queued`] is any other change in the writer's queue, without its type.

use std::pin::Pin;

use tokio::sync::oneshot;

use super::write_tx::WriteTx;
use super::{Error, WriteError};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Sends the result of a change to its caller.
pub(crate) type Responder<O> = oneshot::Sender<Result<O, Error>>;

/// A change of the database that is applied within a transaction.
pub trait WriteOp: Send + Sync + 'static {
    /// The result of a change that is made.
    type Output: Send + 'static;

    /// Why the rules may refuse the change: [`Refusal`](crate::domain::Refusal), or
    /// [`Infallible`](std::convert::Infallible) where no rule does.
    type Refusal: Send + 'static;

    /// Whether the change is made only for its answer. It is skipped once its caller has given up waiting.
    const IS_FOR_ITS_ANSWER: bool = false;

    /// Whether the change grows the data for good. While the disk is nearly full, such a change is refused, like every
    /// message; all other changes are made.
    fn grows(&self) -> bool {
        false
    }

    /// Approximate bytes that the change holds while it is queued; 0 stands for the usual few hundred.
    fn bytes(&self) -> usize {
        0
    }

    /// Applies the change. A refusal must come before the first write, because the transaction goes on after it.
    ///
    /// May be called again after a rollback.
    fn apply<'a>(
        &'a self,
        tx: &'a mut WriteTx,
    ) -> impl Future<Output = Result<Self::Output, WriteError<Self::Refusal>>> + Send + 'a;
}

/// Outcome of a change: its output, or why the rules refuse it.
pub(crate) type Outcome<C> = Result<<C as WriteOp>::Output, <C as WriteOp>::Refusal>;

/// A kind of change of which one statement applies many.
pub(crate) trait Batched: Send + Sync {
    type Outcome: Send;

    /// Applies at least one and at most [`ROWS`](super::many_rows::ROWS) changes, in their order. May be called again
    /// after a rollback.
    fn apply_all(
        tx: &mut WriteTx,
        all: &[&Self],
    ) -> impl Future<Output = Result<Vec<Self::Outcome>, Error>> + Send;
}

pub(crate) trait Queued: Send {
    /// Applies the change and keeps its outcome back until the commit.
    fn apply<'a>(&'a mut self, tx: &'a mut WriteTx) -> BoxFuture<'a, Result<(), Error>>;

    fn bytes(&self) -> usize;

    fn settle(self: Box<Self>, committed: Result<(), Error>);
}

/// A queued change, its outcome once it is applied, and the sender of the result.
pub(crate) struct Submitted<C, O> {
    pub(crate) change: C,
    pub(crate) outcome: Option<O>,
    responder: Responder<O>,
}

impl<C, O> Submitted<C, O> {
    pub(crate) fn new(change: C, responder: Responder<O>) -> Self {
        Self { change, outcome: None, responder }
    }

    /// Sends the result. A cancelled caller loses the answer but not the change, unless the change is only for its
    /// answer.
    pub(crate) fn settle(self, committed: Result<(), Error>) {
        let result = committed.and_then(|()| self.outcome.ok_or(Error::Closed));
        drop(self.responder.send(result));
    }
}

impl<C: WriteOp> Queued for Submitted<C, Outcome<C>> {
    fn apply<'a>(&'a mut self, tx: &'a mut WriteTx) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            if C::IS_FOR_ITS_ANSWER {
                // Begins the transaction first, however long that takes, so that the check comes after the wait.
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
            if C::IS_FOR_ITS_ANSWER && tx.is_on_server() {
                tx.connection().await?;
                if self.responder.is_closed() {
                    return Err(Error::Abandoned);
                }
            }
            Ok(())
        })
    }

    fn bytes(&self) -> usize {
        self.change.bytes()
    }

    fn settle(self: Box<Self>, committed: Result<(), Error>) {
        (*self).settle(committed);
    }
}
