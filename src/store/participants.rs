//! Participants: who takes part in a conversation, and what each may do there.

use super::Error;
use super::error::Doing as _;
use super::write_tx::WriteTx;
use crate::domain::{ConversationId, Refusal, UserId};

const ADD: &str = "
    INSERT INTO participants (place, user_id, user_number, conversation_id, conversation_number,
                              standing, people, secret, display_name)
    SELECT (u.number << 32) + c.number, u.id, u.number, c.id, c.number, 'open', '', $3, $4
    FROM users u CROSS JOIN conversations c WHERE u.id = $2 AND c.id = $1";

/// Writes who takes part into each row of the conversations that the condition names.
macro_rules! name_people {
    ($which:literal) => {
        concat!(
            r#"UPDATE participants SET people = (
                   SELECT concat(string_agg(concat('"', id, '"'), ','),
                                 '],"participants":[',
                                 string_agg(concat('{"userid":"', id, '","username":', json_quote(nick), '}'), ','))
                   FROM (SELECT u.id, u.nick FROM participants o JOIN users u ON u.id = o.user_id
                         WHERE o.conversation_number = participants.conversation_number
                         ORDER BY u.id) AS everybody)
               WHERE conversation_number IN (SELECT conversation_number FROM participants WHERE "#,
            $which,
            ")"
        )
    };
}

const NAME_PEOPLE: &str = name_people!("conversation_id = $1 AND user_id = $2");

const NAME_PEOPLE_OF: &str = name_people!("user_id = $1");

/// What two may do in their conversation follows from friends and blocks.
const SETTLE: &str = "
    UPDATE participants SET standing = (
        SELECT CASE
            WHEN EXISTS (SELECT 1 FROM blocks b
                         WHERE b.user_id = participants.user_id AND b.blocked_id = o.user_id)
            THEN 'blocked'
            WHEN EXISTS (SELECT 1 FROM blocks b
                         WHERE b.user_id = o.user_id AND b.blocked_id = participants.user_id)
                 OR NOT EXISTS (SELECT 1 FROM friends f
                                WHERE f.user_id = participants.user_id AND f.friend_id = o.user_id)
            THEN 'not_friends'
            ELSE 'open' END
        FROM participants o
        WHERE o.conversation_number = participants.conversation_number
            AND o.user_id <> participants.user_id)
    WHERE conversation_number = (SELECT number FROM conversations WHERE id = $1)";

/// What a participant may do in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Everything.
    Open,
    /// Read: the participant has blocked the other one.
    Blocked,
    /// Read: the two are not friends, or the other one has blocked the participant.
    NotFriends,
}

impl Access {
    /// Refuses what needs more than reading.
    pub(super) fn refuse_write(self) -> Result<(), Refusal> {
        match self {
            Self::Open => Ok(()),
            Self::Blocked => Err(Refusal::Blocked),
            Self::NotFriends => Err(Refusal::NotFriends),
        }
    }

    /// What the column says.
    pub(super) fn of(text: &str) -> Result<Self, Error> {
        match text {
            "open" => Ok(Self::Open),
            "blocked" => Ok(Self::Blocked),
            "not_friends" => Ok(Self::NotFriends),
            _ => Err(Error::not_as_stored("what a participant may do")),
        }
    }
}

/// Adds a participant with the conversation's secret and its name, both wrapped for this one.
pub(super) async fn add(
    tx: &mut WriteTx,
    conversation: ConversationId,
    user: UserId,
    secret: &str,
    display_name: &str,
) -> Result<(), Error> {
    let add = sqlx::query(ADD)
        .bind(conversation.as_str())
        .bind(user.as_str())
        .bind(secret)
        .bind(display_name);
    add.execute(tx.connection().await?).await.map(drop).doing("adding a participant")
}

/// Writes down the nicks of all who take part in a conversation of this user.
pub(super) async fn name_people(
    tx: &mut WriteTx,
    conversation: ConversationId,
    user: UserId,
) -> Result<(), Error> {
    let name = sqlx::query(NAME_PEOPLE).bind(conversation.as_str()).bind(user.as_str());
    name.execute(tx.connection().await?)
        .await
        .map(drop)
        .doing("naming the people of a conversation")
}

/// The same for all conversations of a user, whose nick is another.
pub(super) async fn name_people_of(tx: &mut WriteTx, user: UserId) -> Result<(), Error> {
    let name = sqlx::query(NAME_PEOPLE_OF).bind(user.as_str());
    name.execute(tx.connection().await?).await.map(drop).doing("naming the people of conversations")
}

/// Settles what two may do in their conversation, if they have one, after a change of what they are to each other.
pub(super) async fn settle(tx: &mut WriteTx, one: UserId, other: UserId) -> Result<(), Error> {
    let settle =
        sqlx::query(SETTLE).bind(ConversationId::one_to_one(one, other).as_str().to_owned());
    settle
        .execute(tx.connection().await?)
        .await
        .map(drop)
        .doing("settling what participants may do")
}
