//! Participants of conversations. The column `standing` holds the [`Access`] of each, so that a message need not look
//! up friendships and blocks.

use super::Error;
use super::error::Doing as _;
use super::listing::listed;
use super::sql::Sql;
use super::write_tx::WriteTx;
use crate::domain::{Access, ConversationId, Relation, UserId};

listed!(ADD, RELATION, SET_ACCESS);

const ADD: Sql = Sql::both(
    "
    INSERT INTO participants (place, user_id, user_number, conversation_id, conversation_number,
                              partner_number, standing, secret, display_name)
    SELECT (u.number << 32) + c.number, u.id, u.number, c.id, c.number, o.number, 'open', $4, $5
    FROM users u CROSS JOIN users o CROSS JOIN conversations c
    WHERE u.id = $2 AND o.id = $3 AND c.id = $1",
);

/// A disabled user counts as no friend.
const RELATION: Sql = Sql::both(
    "
    SELECT EXISTS (SELECT 1 FROM friends f
                   JOIN users u ON u.id = f.user_id JOIN users o ON o.id = f.friend_id
                   WHERE f.user_id = $1 AND f.friend_id = $2
                       AND NOT u.is_disabled AND NOT o.is_disabled),
           EXISTS (SELECT 1 FROM blocks WHERE user_id = $1 AND blocked_id = $2),
           EXISTS (SELECT 1 FROM blocks WHERE user_id = $2 AND blocked_id = $1)",
);

const SET_ACCESS: Sql =
    Sql::both("UPDATE participants SET standing = $3 WHERE conversation_id = $1 AND user_id = $2");

/// Adds a participant with the conversation's secret and name, both wrapped for this participant.
pub(super) async fn add(
    tx: &mut WriteTx,
    conversation: ConversationId,
    [user, partner]: [UserId; 2],
    secret: &str,
    display_name: &str,
) -> Result<(), Error> {
    let add = tx.query(ADD).await?;
    let add = add
        .bind(conversation.as_str())
        .bind(user.as_str())
        .bind(partner.as_str())
        .bind(secret)
        .bind(display_name);
    add.execute().await.map(drop).doing("adding a participant")
}

/// Updates the access of two users to their conversation, if they have one, after their relation changed.
pub(super) async fn settle(tx: &mut WriteTx, one: UserId, other: UserId) -> Result<(), Error> {
    let relation = tx.query(RELATION).await?.bind(one.as_str()).bind(other.as_str()).one().await;
    let (are_friends, blocks, is_blocked) = relation.doing("reading the relation of two users")?;
    let relation = Relation { are_friends, blocks, is_blocked };
    let conversation = ConversationId::one_to_one(one, other);
    for (user, relation) in [(one, relation), (other, relation.of_other())] {
        let set = tx.query(SET_ACCESS).await?;
        let set = set
            .bind(conversation.as_str())
            .bind(user.as_str())
            .bind(Access::between(relation).as_str());
        set.execute().await.doing("updating the access of a participant")?;
    }
    Ok(())
}
