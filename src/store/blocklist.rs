//! Block lists. A block changes the access of both participants, which messages, reports and clears check. It also
//! silences the other user's open request.

use super::changes::ChangeLog;
use super::error::Doing as _;
use super::friends::are_friends;
use super::listing::listed;
use super::sql::{Sql, Utf8};
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Store, WireText, WriteError, friend_requests, participants};
use crate::domain::{ChangeSet, MOST_BLOCKS, Refusal, StationId, Subject, UserId};

listed!(BLOCKLIST, BLOCKED, BLOCK, UNBLOCK);

const BLOCKLIST: Sql = Sql::both(
    r#"
    SELECT coalesce((SELECT string_agg('"' || blocked_id || '"', ',' ORDER BY blocked_id)
                     FROM blocks WHERE user_id = $1), ''),
           coalesce((SELECT string_agg('"' || conversation_id || '"', ',' ORDER BY conversation_id)
                     FROM participants WHERE user_id = $1 AND is_hidden), '')"#,
);

/// Whether the user has blocked this other user, and how many users in all.
const BLOCKED: Sql = Sql::both(
    "
    SELECT EXISTS (SELECT 1 FROM blocks WHERE user_id = $1 AND blocked_id = $2),
           (SELECT count(*) FROM blocks WHERE user_id = $1)",
);

/// A user who was deleted a moment ago blocks nobody.
const BLOCK: Sql =
    Sql::both("INSERT INTO blocks (user_id, blocked_id) SELECT id, $2 FROM users WHERE id = $1");

const UNBLOCK: Sql = Sql::both("DELETE FROM blocks WHERE user_id = $1 AND blocked_id = $2");

/// Users and conversations that a user hides, in ascending order: JSON strings, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blocklist {
    pub(crate) users: WireText,
    /// Only those hidden for good.
    pub(crate) conversations: WireText,
}

impl Store {
    pub(crate) async fn blocklist(&self, user: UserId) -> Result<Blocklist, Error> {
        let mut reads = self.reader().await?;
        let blocklist = reads.query(BLOCKLIST).bind(user.as_str()).one().await;
        let (Utf8(users), Utf8(conversations)) = blocklist.doing("reading a block list")?;
        Ok(Blocklist { users, conversations })
    }
}

/// Blocks or unblocks a user. Idempotent.
#[derive(Clone, Debug)]
pub(crate) struct ChangeBlock {
    pub(crate) user: UserId,
    /// Need not exist.
    pub(crate) other: UserId,
    pub(crate) blocked: bool,
    /// The calling station, which is not told of the change.
    pub(crate) station: Option<StationId>,
}

impl WriteOp for ChangeBlock {
    type Output = ();
    /// [`Refusal::TooMany`] above 1,000 blocked users.
    type Refusal = Refusal;

    fn grows(&self) -> bool {
        self.blocked
    }

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError> {
        let blocked = tx.query(BLOCKED).await?.bind(self.user.as_str()).bind(self.other.as_str());
        let (is_blocked, blocks): (bool, i64) = blocked.one().await.doing("checking a block")?;
        if self.blocked != is_blocked {
            if self.blocked && blocks >= i64::from(MOST_BLOCKS) {
                return Err(
                    Refusal::TooMany { what: "blocked users", most: MOST_BLOCKS.into() }.into()
                );
            }
            self.set(tx).await?;
        }
        Ok(())
    }
}

impl ChangeBlock {
    async fn set(&self, tx: &mut WriteTx) -> Result<(), Error> {
        let user = self.user;
        let set = tx.query(if self.blocked { BLOCK } else { UNBLOCK }).await?;
        let set = set.bind(user.as_str()).bind(self.other.as_str());
        set.execute().await.doing("changing a block")?;
        participants::settle(tx, user, self.other).await?;
        if self.blocked {
            friend_requests::silence(tx, self.other, user).await?;
        }
        let mut changes = ChangeSet::default().with(user, Subject::Lists, self.station);
        // The other user sees the same notification as when a friendship ends.
        if are_friends(tx, user, self.other).await? {
            changes.add(self.other, Subject::Friend(user), None);
        }
        ChangeLog::from(changes).record(tx).await
    }
}
