//! Deleting users.
//!
//! Messages, conversations and changes refer to users by number, so the row of a deleted user stays as a tombstone: it has
//! the number, a random id and nothing personal. The other participants keep their conversations, and see the tombstone in
//! the user's place. The conversation ID stays, too: it is a hash of two addresses, and clients know it.
//!
//! The receipts are removed before ([`receipts`](super::receipts)), one conversation at a time.

use std::collections::HashMap;

use super::audit::{self, Event};
use super::changes::ChangeLog;
use super::conversations::begin_generation;
use super::error::Doing as _;
use super::friends::friend_ids;
use super::listing::listed;
use super::sql::Sql;
use super::users::{partners, visibility_changes};
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, WriteError, participants, stored};
use crate::audit::Action;
use crate::domain::{ChangeSet, ConversationId, Instance, Refusal, Subject, UserId};

listed!(
    NUMBER,
    TOUCHED,
    FORGOTTEN_CONVERSATIONS,
    UNFRIEND_OTHERS,
    UNFRIEND,
    REMOVE_REQUESTS,
    REMOVE_BLOCKS,
    REMOVE_STATIONS,
    REMOVE_WORKSPACES,
    REMOVE_INVITATIONS,
    REMOVE_CHANGES,
    REMOVE_CHANGE_NUMBER,
    SET_PARTNERS_NAME,
    ADD_TOMBSTONE,
    MOVE_PARTICIPANTS,
    REMOVE_USER,
    NUMBER_TOMBSTONE
);

const NUMBER: Sql =
    Sql::both("SELECT number, is_disabled FROM users WHERE id = $1 AND NOT is_deleted");

/// The users who have asked or blocked this user.
const TOUCHED: Sql = Sql::both(
    "
    SELECT from_id FROM friend_requests WHERE to_id = $1 AND is_open
    UNION SELECT user_id FROM blocks WHERE blocked_id = $1",
);

/// Conversations whose other participant was deleted before: nobody is left to read them.
const FORGOTTEN_CONVERSATIONS: Sql = Sql::both(
    "
    SELECT c.id, c.generation, c.next_seq FROM participants p
    JOIN conversations c ON c.number = p.conversation_number
    JOIN users o ON o.number = p.partner_number
    WHERE p.user_id = $1 AND o.is_deleted ORDER BY c.number",
);

const UNFRIEND_OTHERS: Sql = Sql::both(
    "
    DELETE FROM friends WHERE (user_id, friend_id) IN (
        SELECT friend_id, user_id FROM friends WHERE user_id = $1)",
);

const UNFRIEND: Sql = Sql::both("DELETE FROM friends WHERE user_id = $1");

const REMOVE_REQUESTS: Sql =
    Sql::both("DELETE FROM friend_requests WHERE from_id = $1 OR to_id = $1");

const REMOVE_BLOCKS: Sql = Sql::both("DELETE FROM blocks WHERE user_id = $1 OR blocked_id = $1");

const REMOVE_STATIONS: Sql = Sql::both("DELETE FROM stations WHERE user_id = $1");

const REMOVE_WORKSPACES: Sql = Sql::both("DELETE FROM workspaces WHERE owner_id = $1");

const REMOVE_INVITATIONS: Sql =
    Sql::both("DELETE FROM invitations WHERE email = (SELECT email FROM users WHERE id = $1)");

const REMOVE_CHANGES: Sql = Sql::both("DELETE FROM changes WHERE user_number = $1");

const REMOVE_CHANGE_NUMBER: Sql = Sql::both("DELETE FROM change_numbers WHERE user_number = $1");

/// The name under which a partner sees the conversation with the user.
const SET_PARTNERS_NAME: Sql = Sql::both(
    "
    UPDATE participants SET display_name = $3 WHERE conversation_id = $1 AND user_id = $2",
);

/// The number is unique, so the tombstone has its negative until the user's row is gone.
const ADD_TOMBSTONE: Sql = Sql::both(
    "
    INSERT INTO users (number, id, email, nick, full_name, api_key, api_key_digest, private_key,
                       public_key, is_disabled, is_deleted)
    VALUES ($1, $2, '', $3, '', '', $2, '', '', TRUE, TRUE)",
);

const MOVE_PARTICIPANTS: Sql = Sql::both(
    "
    UPDATE participants
    SET user_id = $2, secret = '', display_name = '', is_muted = FALSE, is_favorite = FALSE,
        is_hidden = FALSE, hide_id = '', background_color = '#ffffff', delivered_to = 0, read_to = 0
    WHERE user_id = $1",
);

const REMOVE_USER: Sql = Sql::both("DELETE FROM users WHERE id = $1");

const NUMBER_TOMBSTONE: Sql = Sql::both("UPDATE users SET number = -number WHERE id = $1");

/// The nick of a deleted user.
pub(crate) const DELETED_NICK: &str = "Deleted user";

/// Deletes a user whose receipts are removed. Leaves a tombstone.
#[derive(Clone, Debug)]
pub(crate) struct DeleteUser {
    pub(crate) user: UserId,
    /// The id of the tombstone.
    pub(crate) tombstone: UserId,
    /// [`DELETED_NICK`], wrapped for each partner.
    pub(crate) display_names: HashMap<UserId, String>,
}

impl WriteOp for DeleteUser {
    /// Whether the user existed.
    type Output = bool;
    /// [`Refusal::Outdated`] if the user was enabled meanwhile, or has a partner for whom the name is not wrapped.
    type Refusal = Refusal;

    async fn apply(&self, tx: &mut WriteTx) -> Result<bool, WriteError> {
        let user = self.user;
        let number = tx.query(NUMBER).await?.bind(user.as_str());
        let number: Option<(i64, bool)> = number.optional().await.doing("looking for a user")?;
        let Some((number, is_disabled)) = number else { return Ok(false) };
        if !is_disabled {
            return Err(Refusal::Outdated.into());
        }
        let partners = partners(tx.connection().await?, user).await?;
        if partners.iter().any(|(partner, _)| !self.display_names.contains_key(partner)) {
            return Err(Refusal::Outdated.into());
        }
        // Recorded first, while the id still leads to the number.
        ChangeLog::from(self.changes(tx).await?).record(tx).await?;
        self.remove_relations(tx, number).await?;
        self.leave_conversations(tx).await?;
        audit::record(tx, Action::UserDeleted, Event::about(user)).await?;
        audit::forget_deleted(tx, number).await?;
        self.leave_tombstone(tx, number).await?;
        tx.affected.mark_unknown(user);
        Ok(true)
    }
}

impl DeleteUser {
    /// Returns what changes for the other users.
    async fn changes(&self, tx: &mut WriteTx) -> Result<ChangeSet, Error> {
        let user = self.user;
        let mut changes = visibility_changes(tx, user).await?;
        // A new listener could not name the friend any more.
        for friend in friend_ids(tx.connection().await?, user).await? {
            changes.add(friend, Subject::Lists, None);
        }
        let touched = tx.query(TOUCHED).await?.bind(user.as_str()).values().await;
        let touched: Vec<String> = touched.doing("listing requests and blocks")?;
        for other in &touched {
            changes.add(stored(other)?, Subject::Lists, None);
        }
        for partner in self.display_names.keys() {
            let conversation = ConversationId::one_to_one(user, *partner);
            changes.add(*partner, Subject::Conversation(conversation), None);
        }
        Ok(changes)
    }

    async fn remove_relations(&self, tx: &mut WriteTx, number: i64) -> Result<(), Error> {
        for statement in [
            UNFRIEND_OTHERS,
            UNFRIEND,
            REMOVE_REQUESTS,
            REMOVE_BLOCKS,
            REMOVE_STATIONS,
            REMOVE_WORKSPACES,
            REMOVE_INVITATIONS,
        ] {
            let remove = tx.query(statement).await?.bind(self.user.as_str());
            remove.execute().await.doing("removing the relations of a user")?;
        }
        for statement in [REMOVE_CHANGES, REMOVE_CHANGE_NUMBER] {
            let remove = tx.query(statement).await?.bind(number);
            remove.execute().await.doing("removing the changes of a user")?;
        }
        Ok(())
    }

    async fn leave_conversations(&self, tx: &mut WriteTx) -> Result<(), Error> {
        for (partner, display_name) in &self.display_names {
            participants::settle(tx, self.user, *partner).await?;
            let conversation = ConversationId::one_to_one(self.user, *partner);
            let set = tx.query(SET_PARTNERS_NAME).await?.bind(conversation.as_str());
            let set = set.bind(partner.as_str()).bind(display_name.as_str());
            set.execute().await.doing("changing a display name")?;
        }
        let forgotten = tx.query(FORGOTTEN_CONVERSATIONS).await?.bind(self.user.as_str());
        let forgotten: Vec<(String, i64, i64)> =
            forgotten.all().await.doing("listing conversations without participants")?;
        for (id, generation, next_seq) in forgotten {
            let next = Instance::generate();
            begin_generation(tx, stored(&id)?, next, generation, next_seq > 1).await?;
        }
        Ok(())
    }

    async fn leave_tombstone(&self, tx: &mut WriteTx, number: i64) -> Result<(), Error> {
        let (user, tombstone) = (self.user.as_str(), self.tombstone.as_str());
        let add = tx.query(ADD_TOMBSTONE).await?.bind(-number).bind(tombstone).bind(DELETED_NICK);
        add.execute().await.doing("adding a tombstone")?;
        let moved = tx.query(MOVE_PARTICIPANTS).await?.bind(user).bind(tombstone);
        moved.execute().await.doing("moving a user's conversations to the tombstone")?;
        let remove = tx.query(REMOVE_USER).await?.bind(user);
        remove.execute().await.doing("removing a user")?;
        let set = tx.query(NUMBER_TOMBSTONE).await?.bind(tombstone);
        set.execute().await.map(drop).doing("numbering a tombstone")
    }
}
