//! Signatures of changes that were carried out, so that the same bytes change nothing again.

use super::error::Doing as _;
use super::queue::Change;
use super::values::ManyRows;
use super::write_tx::WriteTx;
use super::{Error, Store};
use crate::domain::{Replay, Timestamp};

const IS_KNOWN: &str =
    "SELECT EXISTS (SELECT 1 FROM replays WHERE expires_at = $1 AND signature = $2)";

static RECORD: ManyRows = ManyRows::new(
    "INSERT INTO replays (expires_at, signature)
     SELECT column1, column2 FROM (VALUES {rows}) AS made WHERE column1 IS NOT NULL",
    2,
);

const EXPIRE: &str = "
    DELETE FROM replays WHERE (expires_at, signature) IN (
        SELECT expires_at, signature FROM replays WHERE expires_at < $1
        ORDER BY expires_at, signature LIMIT $2)";

const ANY_EXPIRED: &str = "SELECT EXISTS (SELECT 1 FROM replays WHERE expires_at < $1)";

/// The most records that one step of expiry removes: it holds the writer for milliseconds.
const STEP: i64 = 1000;

/// What became of a change that its signature makes once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Once {
    /// It is carried out; perhaps there was nothing to change.
    Done,
    /// It was carried out before.
    Replayed,
}

impl Replay {
    pub(super) async fn is_known(&self, tx: &mut WriteTx) -> Result<bool, Error> {
        let known =
            sqlx::query_scalar(IS_KNOWN).bind(self.expires_at.unix()).bind(self.signature.as_str());
        known.fetch_one(tx.connection().await?).await.doing("looking for a replay")
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

/// Records a signature, unless it is known.
struct Record(Replay);

impl Change for Record {
    type Outcome = Once;

    async fn apply(&self, tx: &mut WriteTx) -> Result<Once, Error> {
        if self.0.is_known(tx).await? {
            return Ok(Once::Replayed);
        }
        self.0.record(tx);
        Ok(Once::Done)
    }
}

struct Expire(Timestamp);

impl Change for Expire {
    type Outcome = ();

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), Error> {
        let expire = sqlx::query(EXPIRE).bind(self.0.unix()).bind(STEP);
        expire.execute(tx.connection().await?).await.map(drop).doing("removing expired signatures")
    }
}

impl Store {
    /// Records a signature, unless the writer is busy. Nobody waits for it.
    pub fn record_meanwhile(&self, replay: Replay) {
        self.writer.offer(Record(replay));
    }

    /// Records the signature of what changes nothing in the store, and is accepted once all the same.
    ///
    /// # Errors
    ///
    /// [`Error`] where it was not recorded.
    pub async fn record(&self, replay: Replay) -> Result<Once, Error> {
        self.change(Record(replay)).await
    }

    /// Removes one step of the signatures that expired before this moment, and says whether there were any.
    ///
    /// # Errors
    ///
    /// [`Error`] where they could not be removed.
    pub async fn expire_replays(&self, now: Timestamp) -> Result<bool, Error> {
        let any = sqlx::query_scalar(ANY_EXPIRED).bind(now.unix());
        let any = any.fetch_one(&mut *self.reader().await?).await;
        let any = any.doing("looking for expired signatures")?;
        if any {
            self.change(Expire(now)).await?;
        }
        Ok(any)
    }
}
