//! What users have chosen to be seen as.

use super::changes::ids;
use super::error::Doing as _;
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Store, stored};
use crate::domain::{Availability, UserId};
use crate::store::WriteError;
use std::convert::Infallible;

const CHOSEN: &str = "SELECT availability FROM users WHERE id = $1";

const SET: &str = "UPDATE users SET availability = $2 WHERE id = $1";

/// Whom the user has blocked sees nothing of it.
const SEEN_BY: &str = "
    SELECT u.availability, coalesce((
        SELECT string_agg(f.friend_id, ',' ORDER BY f.friend_id) FROM friends f
        WHERE f.user_id = u.id AND NOT EXISTS (
            SELECT 1 FROM blocks b WHERE b.user_id = u.id AND b.blocked_id = f.friend_id)), '')
    FROM users u WHERE u.id = $1";

/// A choice of what to be seen as.
#[derive(Clone, Debug)]
pub struct SetAvailability {
    /// The user.
    pub user: UserId,
    /// The choice.
    pub availability: Availability,
}

impl WriteOp for SetAvailability {
    /// The choice before it.
    type Output = Availability;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<Availability, WriteError<Infallible>> {
        let user = self.user.as_str();
        let chosen: String = sqlx::query_scalar(CHOSEN)
            .bind(user)
            .fetch_one(tx.connection().await?)
            .await
            .doing("reading an availability")?;
        let set = sqlx::query(SET).bind(user).bind(self.availability.as_str());
        set.execute(tx.connection().await?).await.doing("choosing an availability")?;
        Ok(stored(&chosen)?)
    }
}

/// What a user has chosen, and who sees it.
#[derive(Clone, Debug)]
pub struct SeenBy {
    /// The choice.
    pub chosen: Availability,
    /// The friends whom the user has not blocked.
    pub friends: Vec<UserId>,
}

impl Store {
    /// What a user has chosen, and who sees it; `None` where there is no such user.
    ///
    /// # Errors
    ///
    /// [`Error`] where it could not be read.
    pub async fn seen_by(&self, user: UserId) -> Result<Option<SeenBy>, Error> {
        let row = sqlx::query_as(SEEN_BY).bind(user.as_str());
        let row: Option<(String, String)> = row
            .fetch_optional(&mut *self.reader().await?)
            .await
            .doing("reading an availability")?;
        row.map(|(chosen, friends)| {
            Ok(SeenBy { chosen: stored(&chosen)?, friends: ids(&friends)? })
        })
        .transpose()
    }
}
