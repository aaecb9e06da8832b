//! Participants: who takes part in a conversation, and what each may do there.

use super::Error;
use super::error::Doing as _;
use super::write_tx::WriteTx;
use crate::domain::{Access, ConversationId, Relation, UserId};

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

/// What the first of two users is to the other.
const RELATION: &str = "
    SELECT EXISTS (SELECT 1 FROM friends WHERE user_id = $1 AND friend_id = $2),
           EXISTS (SELECT 1 FROM blocks WHERE user_id = $1 AND blocked_id = $2),
           EXISTS (SELECT 1 FROM blocks WHERE user_id = $2 AND blocked_id = $1)";

const SET_ACCESS: &str =
    "UPDATE participants SET standing = $3 WHERE conversation_id = $1 AND user_id = $2";

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

/// Writes down what two users may do in their conversation, if they have one, after a change of what they are to each other.
pub(super) async fn settle(tx: &mut WriteTx, one: UserId, other: UserId) -> Result<(), Error> {
    let relation = sqlx::query_as(RELATION).bind(one.as_str()).bind(other.as_str());
    let relation = relation.fetch_one(tx.connection().await?).await;
    let (are_friends, blocks, is_blocked) =
        relation.doing("reading what two users are to each other")?;
    let relation = Relation { are_friends, blocks, is_blocked };
    let conversation = ConversationId::one_to_one(one, other);
    for (user, relation) in [(one, relation), (other, relation.of_other())] {
        let set = sqlx::query(SET_ACCESS)
            .bind(conversation.as_str())
            .bind(user.as_str())
            .bind(Access::between(relation).as_str());
        set.execute(tx.connection().await?).await.doing("settling what a participant may do")?;
    }
    Ok(())
}
