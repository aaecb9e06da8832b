//! The availability that each user has chosen, and the friends that see it.

use std::convert::Infallible;

use super::changes::ids;
use super::error::Doing as _;
use super::listing::listed;
use super::sql::Sql;
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Store, WriteError, stored};
use crate::domain::{Availability, UserId};

listed!(CHOSEN, SET, SEEN_BY);

const CHOSEN: Sql = Sql::both("SELECT availability FROM users WHERE id = $1");

const SET: Sql = Sql::both("UPDATE users SET availability = $2 WHERE id = $1");

/// Friends that the user has blocked are left out: they see none of it.
const SEEN_BY: Sql = Sql::both(
    "
    SELECT u.availability, coalesce((
        SELECT string_agg(f.friend_id, ',' ORDER BY f.friend_id) FROM friends f
        WHERE f.user_id = u.id AND NOT EXISTS (
            SELECT 1 FROM blocks b WHERE b.user_id = u.id AND b.blocked_id = f.friend_id)), '')
    FROM users u WHERE u.id = $1",
);

#[derive(Clone, Debug)]
pub(crate) struct SetAvailability {
    pub(crate) user: UserId,
    pub(crate) availability: Availability,
}

impl WriteOp for SetAvailability {
    /// The previous choice.
    type Output = Availability;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<Availability, WriteError<Infallible>> {
        let user = self.user.as_str();
        let chosen = tx.query(CHOSEN).await?.bind(user).optional_value().await;
        let chosen: Option<String> = chosen.doing("reading an availability")?;
        // The user was deleted a moment ago.
        let Some(chosen) = chosen else { return Ok(Availability::Offline) };
        let set = tx.query(SET).await?.bind(user).bind(self.availability.as_str());
        set.execute().await.doing("choosing an availability")?;
        Ok(stored(&chosen)?)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct SeenBy {
    /// Does not depend on whether the user is reachable.
    pub(crate) chosen: Availability,
    /// Without those that the user has blocked.
    pub(crate) friends: Vec<UserId>,
}

impl Store {
    /// `None` if the user does not exist.
    pub(crate) async fn seen_by(&self, user: UserId) -> Result<Option<SeenBy>, Error> {
        let mut reads = self.reader().await?;
        let row = reads.query(SEEN_BY).bind(user.as_str()).optional().await;
        let row: Option<(String, String)> = row.doing("reading an availability")?;
        row.map(|(chosen, friends)| {
            Ok(SeenBy { chosen: stored(&chosen)?, friends: ids(&friends)? })
        })
        .transpose()
    }
}
