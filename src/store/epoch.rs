//! The epoch of a database, which distinguishes a database restored from a backup, or one that has lost commits, from its
//! predecessor.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};

use rand::Rng as _;

use super::admin_links;
use super::error::Doing as _;
use super::listing::listed;
use super::sql::{Connection, Sql};
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Store, WriteError};
use crate::domain::Timestamp;
use crate::random::os_random;

listed!(EPOCH, BEGIN, RESET_POSITIONS);

pub(super) const EPOCH: Sql = Sql::both("SELECT id, began_at FROM epoch");

const BEGIN: Sql = Sql::both("UPDATE epoch SET id = $1, began_at = $2");

/// Resets all positions, so that every station is notified of everything again. The restore may have undone changes
/// that a station was told of.
const RESET_POSITIONS: Sql = Sql::both("UPDATE stations SET position = NULL");

/// The name of an epoch and the time at which it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// 16 random hexadecimal characters.
    pub id: String,
    /// The second of the restore; 1970-01-01 00:00:00 if nothing was ever restored.
    pub began_at: Timestamp,
}

/// The epoch that the store knows of.
pub(super) struct CurrentEpoch(RwLock<Arc<Epoch>>);

impl CurrentEpoch {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self(RwLock::new(Arc::new(epoch)))
    }

    pub(super) fn get(&self) -> Arc<Epoch> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the epoch. Returns whether it is another one.
    pub(super) fn enter(&self, epoch: Epoch) -> bool {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = **current != epoch;
        *current = Arc::new(epoch);
        is_new
    }
}

/// Begins a new epoch while servers run. They notice it within a second.
struct BeginEpoch(Timestamp);

impl WriteOp for BeginEpoch {
    type Output = Epoch;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<Epoch, WriteError<Infallible>> {
        let begun = Epoch::begin(tx.connection().await?, self.0).await;
        Ok(begun.doing("beginning an epoch")?)
    }
}

impl Store {
    /// Begins a new epoch: clients read everything again, and requests signed up to `now` are refused. For a PostgreSQL
    /// database that has lost commits.
    ///
    /// # Errors
    ///
    /// [`Error`] if none was begun.
    pub(crate) async fn begin_epoch(&self, now: Timestamp) -> Result<Epoch, Error> {
        Ok(self.write(BeginEpoch(now)).await?)
    }
}

impl Epoch {
    pub(super) async fn read(connection: &mut Connection) -> Result<Self, sqlx::Error> {
        let (id, began_at): (String, i64) = connection.query(EPOCH).one().await?;
        Self::of(id, began_at)
            .ok_or_else(|| sqlx::Error::Decode("epoch.began_at is not a date".into()))
    }

    /// Makes an epoch of its row. `None` if its time is not one.
    pub(super) fn of(id: String, began_at: i64) -> Option<Self> {
        Some(Self { id, began_at: Timestamp::from_unix(began_at)? })
    }

    /// Begins a new epoch. No server may have a file open meanwhile.
    pub(super) async fn begin(
        connection: &mut Connection,
        now: Timestamp,
    ) -> Result<Self, sqlx::Error> {
        let mut id = [0; 8];
        os_random().fill_bytes(&mut id);
        let id = hex::encode(id);
        connection.query(BEGIN).bind(id.as_str()).bind(now.unix()).execute().await?;
        connection.query(RESET_POSITIONS).execute().await?;
        admin_links::forget_all(connection).await?;
        Self::read(connection).await
    }
}
