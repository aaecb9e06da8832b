//! Whom a user has blocked. What a block does to messages and clears is found out where these are judged.

use super::changes::ChangeLog;
use super::error::Doing as _;
use super::friends::are_friends;
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Store, WireText, friend_requests, participants};
use crate::domain::{ChangeSet, Refusal, StationId, Subject, UserId};
use crate::store::WriteError;

/// Maximum users that one user blocks: more than one meets, and few enough for one answer.
const MOST_BLOCKS: u16 = 1000;

const BLOCKLIST: &str = r#"
    SELECT coalesce((SELECT string_agg('"' || blocked_id || '"', ',' ORDER BY blocked_id)
                     FROM blocks WHERE user_id = $1), ''),
           coalesce((SELECT string_agg('"' || conversation_id || '"', ',' ORDER BY conversation_id)
                     FROM participants WHERE user_id = $1 AND is_hidden), '')"#;

/// Whether the user has blocked this one, and how many in all.
const ACCESS: &str = "
    SELECT EXISTS (SELECT 1 FROM blocks WHERE user_id = $1 AND blocked_id = $2),
           (SELECT count(*) FROM blocks WHERE user_id = $1)";

const BLOCK: &str = "INSERT INTO blocks (user_id, blocked_id) VALUES ($1, $2)";

const UNBLOCK: &str = "DELETE FROM blocks WHERE user_id = $1 AND blocked_id = $2";

/// What a user does not want to see, in ascending order: JSON strings, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocklist {
    /// The ids of blocked users.
    pub users: WireText,
    /// The ids of conversations that are hidden for good.
    pub conversations: WireText,
}

impl Store {
    /// What a user does not want to see.
    ///
    /// # Errors
    ///
    /// [`Error`] where it could not be read.
    pub async fn blocklist(&self, user: UserId) -> Result<Blocklist, Error> {
        let blocklist = sqlx::query_as(BLOCKLIST).bind(user.as_str().to_owned());
        let blocklist = blocklist.fetch_one(&mut *self.reader().await?).await;
        let (users, conversations) = blocklist.doing("reading a block list")?;
        Ok(Blocklist { users, conversations })
    }
}

/// Blocks or unblocks a user.
#[derive(Clone, Debug)]
pub struct ChangeBlock {
    /// The user who blocks.
    pub user: UserId,
    /// The other user, who need not exist.
    pub other: UserId,
    /// Whether that one is to be blocked.
    pub blocked: bool,
    /// The station of the change, which is not told of it.
    pub station: Option<StationId>,
}

impl WriteOp for ChangeBlock {
    type Output = ();
    /// [`Refusal::TooMany`].
    type Refusal = Refusal;

    fn grows(&self) -> bool {
        self.blocked
    }

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError> {
        let access = sqlx::query_as(ACCESS).bind(self.user.as_str()).bind(self.other.as_str());
        let access = access.fetch_one(tx.connection().await?).await;
        let (is_blocked, blocks): (bool, i64) = access.doing("judging a block")?;
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
        let set = sqlx::query(if self.blocked { BLOCK } else { UNBLOCK });
        let set = set.bind(user.as_str()).bind(self.other.as_str());
        set.execute(tx.connection().await?).await.doing("changing a block")?;
        participants::settle(tx, user, self.other).await?;
        if self.blocked {
            friend_requests::silence(tx, self.other, user).await?;
        }
        let mut changes = ChangeSet::default().with(user, Subject::Lists, self.station);
        // What the other one is told is what the end of a friendship tells.
        if are_friends(tx, user, self.other).await? {
            changes.add(self.other, Subject::Friend(user), None);
        }
        ChangeLog::from(changes).record(tx).await
    }
}
