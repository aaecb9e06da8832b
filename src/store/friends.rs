//! Friendships, and the one-to-one conversation that the first friendship of two users creates.

use std::convert::Infallible;

use super::audit::{self, Event};
use super::changes::ChangeLog;
use super::conversations::begin_generation;
use super::error::Doing as _;
use super::listing::listed;
use super::sql::{Connection, Sql};
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Store, WriteError, participants, stored};
use crate::audit::Action;
use crate::domain::{
    Availability, ChangeSet, ConversationId, Email, Instance, Refusal, StationId, UserId,
};
use crate::keys::PublicKey;

listed!(
    FRIENDS,
    FRIENDSHIPS,
    BEFRIEND,
    UNFRIEND,
    ARE_FRIENDS,
    FRIEND_IDS,
    FULL,
    FORGET_REQUESTS,
    NICK,
    ADD_CONVERSATION,
    LEFT_BY_DELETED,
    REMOVE_PARTICIPANTS
);

/// A friend that has blocked the user looks offline. A disabled friend is hidden.
const FRIENDS: Sql = Sql::both(
    "
    SELECT f.friend_id, u.nick, u.public_key, CASE
        WHEN EXISTS (SELECT 1 FROM blocks b
                     WHERE b.user_id = f.friend_id AND b.blocked_id = f.user_id) THEN 'offline'
        ELSE u.availability END
    FROM friends f JOIN users u ON u.id = f.friend_id
    WHERE f.user_id = $1 AND NOT u.is_disabled ORDER BY f.friend_id",
);

const FRIENDSHIPS: Sql = Sql::both(
    "
    SELECT one.email, other.email, f.user_id, f.friend_id
    FROM friends f JOIN users one ON one.id = f.user_id JOIN users other ON other.id = f.friend_id
    WHERE f.user_id < f.friend_id ORDER BY one.email, other.email",
);

const BEFRIEND: Sql = Sql::both(
    "INSERT INTO friends (user_id, friend_id) VALUES ($1, $2), ($2, $1) ON CONFLICT DO NOTHING",
);

const UNFRIEND: Sql = Sql::both(
    "
    DELETE FROM friends
    WHERE (user_id, friend_id) IN (VALUES ($1, $2), ($2, $1))",
);

const ARE_FRIENDS: Sql =
    Sql::both("SELECT EXISTS (SELECT 1 FROM friends WHERE user_id = $1 AND friend_id = $2)");

const FRIEND_IDS: Sql =
    Sql::both("SELECT friend_id FROM friends WHERE user_id = $1 ORDER BY friend_id");

/// Selects one of two users that has the maximum number of friends, unless the two are friends already.
const FULL: Sql = Sql::both(
    "
    SELECT user_id FROM friends
    WHERE user_id IN ($1, $2)
        AND NOT EXISTS (SELECT 1 FROM friends WHERE user_id = $1 AND friend_id = $2)
    GROUP BY user_id HAVING count(*) >= $3 ORDER BY user_id LIMIT 1",
);

const FORGET_REQUESTS: Sql = Sql::both(
    "
    DELETE FROM friend_requests
    WHERE (from_id, to_id) IN (VALUES ($1, $2), ($2, $1))",
);

const NICK: Sql = Sql::both("SELECT nick FROM users WHERE id = $1");

const ADD_CONVERSATION: Sql = Sql::both(
    "
    INSERT INTO conversations (id, generation, instance, next_seq, last_message_id, last_access)
    VALUES ($1, (SELECT coalesce(max(generation), 0) + 1 FROM conversations), $2, 1, '', 0)
    ON CONFLICT (id) DO NOTHING",
);

/// Generation and next sequence number of a conversation that has a deleted participant.
const LEFT_BY_DELETED: Sql = Sql::both(
    "
    SELECT c.generation, c.next_seq FROM conversations c
    WHERE c.id = $1 AND EXISTS (
        SELECT 1 FROM participants p JOIN users u ON u.id = p.user_id
        WHERE p.conversation_number = c.number AND u.is_deleted)",
);

const REMOVE_PARTICIPANTS: Sql = Sql::both(
    "
    DELETE FROM participants
    WHERE conversation_number = (SELECT number FROM conversations WHERE id = $1)",
);

/// A friend, as one user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Friend {
    pub(crate) id: UserId,
    pub(crate) nick: String,
    pub(crate) public_key: PublicKey,
    /// Offline if the friend has blocked the user.
    pub(crate) chosen: Availability,
}

/// A pair of friends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Friendship {
    pub(crate) emails: [Email; 2],
    pub(crate) conversation: ConversationId,
}

impl Store {
    /// In ascending order of the IDs.
    pub(crate) async fn friends(&self, user: UserId) -> Result<Vec<Friend>, Error> {
        let mut reads = self.reader().await?;
        let rows = reads.query(FRIENDS).bind(user.as_str()).all().await;
        let rows: Vec<(String, String, String, String)> = rows.doing("listing friends")?;
        let friend = |(id, nick, public_key, chosen): (String, String, String, String)| {
            let public_key = PublicKey::from_stored(public_key);
            Ok(Friend { id: stored(&id)?, nick, public_key, chosen: stored(&chosen)? })
        };
        rows.into_iter().map(friend).collect()
    }

    /// Returns all friendships, each once.
    ///
    /// # Errors
    ///
    /// [`Error`] if the read failed.
    pub async fn friendships(&self) -> Result<Vec<Friendship>, Error> {
        let rows = self.reader().await?.query(FRIENDSHIPS).all().await;
        let rows: Vec<(String, String, String, String)> = rows.doing("listing friendships")?;
        let friendship = |(one, other, one_id, other_id): (String, String, String, String)| {
            Ok(Friendship {
                emails: [Email::from_stored(one), Email::from_stored(other)],
                conversation: ConversationId::one_to_one(stored(&one_id)?, stored(&other_id)?),
            })
        };
        rows.into_iter().map(friendship).collect()
    }

    /// Ends a friendship and keeps the conversation. Returns whether there was one.
    pub(crate) async fn unfriend(&self, one: UserId, other: UserId) -> Result<bool, Error> {
        Ok(self.write(Unfriend(one, other)).await?)
    }
}

pub(super) async fn are_friends(
    tx: &mut WriteTx,
    one: UserId,
    other: UserId,
) -> Result<bool, Error> {
    let are_friends = tx.query(ARE_FRIENDS).await?.bind(one.as_str()).bind(other.as_str());
    are_friends.value().await.doing("looking for a friendship")
}

/// In ascending order.
pub(super) async fn friend_ids(
    connection: &mut Connection,
    user: UserId,
) -> Result<Vec<UserId>, Error> {
    let ids = connection.query(FRIEND_IDS).bind(user.as_str());
    let ids: Vec<String> = ids.values().await.doing("listing friends")?;
    ids.iter().map(|id| stored(id)).collect()
}

/// The wrapped keys and names that one of two new friends needs for their conversation.
#[derive(Clone, Debug)]
pub(crate) struct Wrapping {
    /// The user that can unwrap them.
    pub(crate) user: UserId,
    /// The user's nick, which the other's `display_name` contains.
    pub(crate) nick: String,
    /// The conversation's secret, wrapped for the user.
    pub(crate) secret: String,
    /// The other's nick, wrapped for the user.
    pub(crate) display_name: String,
}

/// Makes two users friends, and creates their conversation if there is none.
#[derive(Clone, Debug)]
pub(crate) struct Befriend {
    pub(crate) wrappings: [Wrapping; 2],
    /// The first instance of a new conversation. Unused if the two have one already.
    pub(crate) instance: Instance,
}

impl WriteOp for Befriend {
    type Output = ();
    /// [`Refusal::Outdated`] if a nick has changed meanwhile, [`Refusal::TooManyFriends`].
    type Refusal = Refusal;

    fn grows(&self) -> bool {
        true
    }

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError> {
        self.make(tx, None).await
    }
}

impl Befriend {
    /// Makes them friends within another change. `at` is the station of the first user that makes the change, if any.
    pub(super) async fn make(
        &self,
        tx: &mut WriteTx,
        at: Option<StationId>,
    ) -> Result<(), WriteError> {
        for wrapping in &self.wrappings {
            let nick = tx.query(NICK).await?.bind(wrapping.user.as_str());
            let nick: Option<String> = nick.optional_value().await.doing("reading a nick")?;
            if nick.as_ref() != Some(&wrapping.nick) {
                return Err(Refusal::Outdated.into());
            }
        }
        let [one, other] = self.wrappings.each_ref().map(|wrapping| wrapping.user);
        refuse_full(tx, one, other).await?;
        let befriend = tx.query(BEFRIEND).await?.bind(one.as_str()).bind(other.as_str());
        if befriend.execute().await.doing("making friends")? > 0 {
            self.add_conversation(tx, ConversationId::one_to_one(one, other)).await?;
            participants::settle(tx, one, other).await?;
            forget_requests(tx, one, other).await?;
            let changes = ChangeSet::new_friendship(one, other, at);
            ChangeLog::from(changes).record(tx).await?;
            audit::record(tx, Action::FriendshipMade, Event::between(one, other)).await?;
        }
        Ok(())
    }

    async fn add_conversation(
        &self,
        tx: &mut WriteTx,
        conversation: ConversationId,
    ) -> Result<(), Error> {
        let add = tx.query(ADD_CONVERSATION).await?;
        let add = add.bind(conversation.as_str()).bind(self.instance.as_str());
        let is_new = add.execute().await.doing("adding a conversation")? > 0;
        if !is_new && !self.begin_anew(tx, conversation).await? {
            return Ok(());
        }
        let [one, other] = self.wrappings.each_ref().map(|wrapping| wrapping.user);
        for (wrapping, users) in self.wrappings.iter().zip([[one, other], [other, one]]) {
            let Wrapping { secret, display_name, .. } = wrapping;
            participants::add(tx, conversation, users, secret, display_name).await?;
        }
        Ok(())
    }

    /// Clears the conversation and removes its participants, if one of them is a deleted user. Returns whether it was. The
    /// address was added again, and the new user must not read what the deleted one could.
    async fn begin_anew(
        &self,
        tx: &mut WriteTx,
        conversation: ConversationId,
    ) -> Result<bool, Error> {
        let left = tx.query(LEFT_BY_DELETED).await?.bind(conversation.as_str());
        let left: Option<(i64, i64)> = left.optional().await.doing("looking for a conversation")?;
        let Some((generation, next_seq)) = left else { return Ok(false) };
        begin_generation(tx, conversation, self.instance, generation, next_seq > 1).await?;
        let remove = tx.query(REMOVE_PARTICIPANTS).await?.bind(conversation.as_str());
        remove.execute().await.doing("removing the participants of a conversation")?;
        Ok(true)
    }
}

async fn forget_requests(tx: &mut WriteTx, one: UserId, other: UserId) -> Result<(), Error> {
    let forget = tx.query(FORGET_REQUESTS).await?.bind(one.as_str()).bind(other.as_str());
    forget.execute().await.map(drop).doing("removing friend requests")
}

/// Refuses a new friendship if one of the two has the maximum number of friends; 0 means no maximum.
async fn refuse_full(tx: &mut WriteTx, one: UserId, other: UserId) -> Result<(), WriteError> {
    let most = tx.limits().friends;
    if most == 0 {
        return Ok(());
    }
    let full = tx.query(FULL).await?;
    let full = full.bind(one.as_str()).bind(other.as_str()).bind(i64::from(most));
    let full: Option<String> = full.optional_value().await.doing("counting friends")?;
    match full {
        Some(user) => Err(Refusal::TooManyFriends { user: stored(&user)?, most }.into()),
        None => Ok(()),
    }
}

struct Unfriend(UserId, UserId);

impl WriteOp for Unfriend {
    /// Whether there was a friendship.
    type Output = bool;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<bool, WriteError<Infallible>> {
        let ended = end_friendship(tx, self.0, self.1).await?;
        if ended {
            let changes = ChangeSet::end_of_friendship(self.0, self.1, None);
            ChangeLog::from(changes).record(tx).await?;
        }
        Ok(ended)
    }
}

/// Returns whether there was a friendship.
pub(super) async fn end_friendship(
    tx: &mut WriteTx,
    one: UserId,
    other: UserId,
) -> Result<bool, Error> {
    let unfriend = tx.query(UNFRIEND).await?.bind(one.as_str()).bind(other.as_str());
    let ended = unfriend.execute().await.doing("ending a friendship")? > 0;
    if ended {
        participants::settle(tx, one, other).await?;
        audit::record(tx, Action::FriendshipEnded, Event::between(one, other)).await?;
    }
    Ok(ended)
}
