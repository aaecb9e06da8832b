//! Signatures of applied changes, so that the same request bytes apply only once.

use std::convert::Infallible;

use super::error::Doing as _;
use super::listing::listed;
use super::many_rows::Column::{Integer, Text};
use super::many_rows::ManyRows;
use super::sql::Sql;
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{CheckKey, Error, Store, WriteError};
use crate::domain::{ApiKey, Refusal, Replay, Timestamp};

listed!(IS_KNOWN, RECORD, EXPIRE, ANY_EXPIRED);

const IS_KNOWN: Sql =
    Sql::both("SELECT EXISTS (SELECT 1 FROM replays WHERE expires_at = $1 AND signature = $2)");

static RECORD: ManyRows = ManyRows::new(
    "INSERT INTO replays (expires_at, signature)
     SELECT column1, column2 FROM ({rows}) AS made WHERE column1 IS NOT NULL",
    &[Integer, Text],
);

const EXPIRE: Sql = Sql::both(
    "
    DELETE FROM replays WHERE (expires_at, signature) IN (
        SELECT expires_at, signature FROM replays WHERE expires_at < $1
        ORDER BY expires_at, signature LIMIT $2)",
);

const ANY_EXPIRED: Sql = Sql::both("SELECT EXISTS (SELECT 1 FROM replays WHERE expires_at < $1)");

/// Maximum records removed by one step of expiry, so that it holds the writer for milliseconds.
const STEP: i64 = 1000;

impl Replay {
    pub(super) async fn is_known(&self, tx: &mut WriteTx) -> Result<bool, Error> {
        let known = tx.query(IS_KNOWN).await?;
        let known = known.bind(self.expires_at.unix()).bind(self.signature.as_str());
        known.value().await.doing("looking for a replay")
    }

    pub(super) fn record(&self, tx: &mut WriteTx) {
        Self::record_all(tx, &[self]);
    }

    pub(super) fn record_all(tx: &mut WriteTx, all: &[&Self]) {
        tx.defer(&RECORD, all, |replay, values| {
            values.add(replay.expires_at.unix()).add(replay.signature.as_str());
        });
    }
}

/// A change applied at most once per signed request. Later requests with the same bytes are refused. A request that was
/// refused or failed is not recorded and may be sent again.
#[derive(Clone, Debug)]
pub(crate) struct OncePerSignature<C> {
    pub(crate) replay: Replay,
    pub(crate) change: C,
}

impl<C: WriteOp> WriteOp for OncePerSignature<C>
where
    Refusal: From<C::Refusal>,
{
    type Output = C::Output;
    type Refusal = Refusal;

    const IS_FOR_ITS_ANSWER: bool = C::IS_FOR_ITS_ANSWER;

    fn grows(&self) -> bool {
        self.change.grows()
    }

    fn bytes(&self) -> usize {
        self.change.bytes()
    }

    async fn apply(&self, tx: &mut WriteTx) -> Result<C::Output, WriteError> {
        if self.replay.is_known(tx).await? {
            return Err(Refusal::Replayed.into());
        }
        let output = self.change.apply(tx).await.map_err(|error| match error {
            WriteError::Refused(refusal) => WriteError::Refused(refusal.into()),
            WriteError::Failed(error) => WriteError::Failed(error),
        })?;
        self.replay.record(tx);
        Ok(output)
    }
}

/// Changes nothing: only the signature of the request is stored.
struct Nothing;

impl WriteOp for Nothing {
    type Output = ();
    type Refusal = Infallible;

    async fn apply(&self, _: &mut WriteTx) -> Result<(), WriteError<Infallible>> {
        Ok(())
    }
}

struct Expire(Timestamp);

impl WriteOp for Expire {
    type Output = ();
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError<Infallible>> {
        let expire = tx.query(EXPIRE).await?.bind(self.0.unix()).bind(STEP);
        expire.execute().await.doing("removing expired signatures")?;
        Ok(())
    }
}

impl Store {
    /// Records a signature in the background. Skipped while the queue of the writer is at least half full.
    pub(crate) fn record_meanwhile(&self, replay: Replay) {
        self.writer.offer(OncePerSignature { replay, change: Nothing });
    }

    /// Records the signature of a request that changes nothing in the store but is accepted only once, and only if its
    /// user is still enabled and signs with this key.
    ///
    /// # Errors
    ///
    /// [`Refusal::Replayed`] if it is recorded already, [`Refusal::Outdated`] if the user is disabled or has another
    /// key, [`Error`] if it was not recorded.
    pub(crate) async fn record_with_key(
        &self,
        replay: Replay,
        api_key: ApiKey,
    ) -> Result<(), WriteError> {
        let change = CheckKey { user: replay.user, api_key };
        self.write(OncePerSignature { replay, change }).await
    }

    /// Removes up to 1,000 signatures that expired before `now`. Returns whether there were any.
    ///
    /// # Errors
    ///
    /// [`Error`] if they could not be removed.
    pub async fn expire_replays(&self, now: Timestamp) -> Result<bool, Error> {
        let any = self.reader().await?.query(ANY_EXPIRED).bind(now.unix()).value().await;
        let any = any.doing("looking for expired signatures")?;
        if any {
            self.write(Expire(now)).await?;
        }
        Ok(any)
    }
}
