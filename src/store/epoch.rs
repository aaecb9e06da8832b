//! The epoch of a database, which distinguishes a database restored from a backup from its predecessor.

use sqlx::SqliteConnection;

use crate::domain::Timestamp;

const EPOCH: &str = "SELECT id, began_at FROM epoch";

/// Resets all positions, so that every station is notified of everything again. The restore may have undone changes
/// that a station was told of.
const BEGIN: &str = "
    UPDATE epoch SET id = lower(hex(randomblob(8))), began_at = $1;
    UPDATE stations SET position = NULL";

/// The name of an epoch and the time at which it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// 16 random hexadecimal characters.
    pub id: String,
    /// The second of the restore; 1970-01-01 00:00:00 if nothing was ever restored.
    pub began_at: Timestamp,
}

impl Epoch {
    pub(super) async fn read(connection: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let (id, began_at): (String, i64) = sqlx::query_as(EPOCH).fetch_one(connection).await?;
        let no_date = || sqlx::Error::Decode("epoch.began_at is not a date".into());
        let began_at = Timestamp::from_unix(began_at).ok_or_else(no_date)?;
        Ok(Self { id, began_at })
    }

    /// Begins a new epoch. No other connection may have the database open.
    pub(super) async fn begin(
        connection: &mut SqliteConnection,
        now: Timestamp,
    ) -> Result<Self, sqlx::Error> {
        sqlx::query(BEGIN).bind(now.unix()).execute(&mut *connection).await?;
        Self::read(connection).await
    }
}
