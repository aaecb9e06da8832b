//! The epoch of a database, which distinguishes a database restored from a backup from its predecessor.

use rand::Rng as _;

use super::listing::listed;
use super::sql::{Connection, Sql};
use crate::domain::Timestamp;
use crate::random::os_random;

listed!(EPOCH, BEGIN, RESET_POSITIONS);

const EPOCH: Sql = Sql::both("SELECT id, began_at FROM epoch");

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

impl Epoch {
    pub(super) async fn read(connection: &mut Connection) -> Result<Self, sqlx::Error> {
        let (id, began_at): (String, i64) = connection.query(EPOCH).one().await?;
        let no_date = || sqlx::Error::Decode("epoch.began_at is not a date".into());
        let began_at = Timestamp::from_unix(began_at).ok_or_else(no_date)?;
        Ok(Self { id, began_at })
    }

    /// Begins a new epoch. No other connection may have the database open.
    pub(super) async fn begin(
        connection: &mut Connection,
        now: Timestamp,
    ) -> Result<Self, sqlx::Error> {
        let mut id = [0; 8];
        os_random().fill_bytes(&mut id);
        let id = hex::encode(id);
        connection.query(BEGIN).bind(id.as_str()).bind(now.unix()).execute().await?;
        connection.query(RESET_POSITIONS).execute().await?;
        Self::read(connection).await
    }
}
