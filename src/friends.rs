//! Friendship of two users, and the one-to-one conversation that comes with it.

use crate::id::{ConversationId, Instance};
use crate::keys::ConversationSecret;
use crate::store::{Befriend, Befriended, Store, User, Wrapping};
use crate::users::{self, UserError};

/// Makes two users friends. Their conversation comes into being with the first friendship, and is
/// found again by a later one, which then has no use for the secret.
///
/// # Errors
///
/// [`UserError`] where they did not become friends.
pub async fn befriend(
    store: &Store,
    one: &str,
    other: &str,
    secret: &ConversationSecret,
) -> Result<ConversationId, UserError> {
    loop {
        let one = users::find(store, one).await?;
        let other = users::find(store, other).await?;
        if one.id == other.id {
            return Err(UserError::SameUser);
        }
        let befriend = Befriend {
            wrappings: [wrap(secret, &one, &other)?, wrap(secret, &other, &one)?],
            instance: Instance::generate(),
        };
        match store.change(befriend).await? {
            Befriended::Friends => return Ok(ConversationId::one_to_one(one.id, other.id)),
            Befriended::NickChanged => {}
        }
    }
}

fn wrap(secret: &ConversationSecret, user: &User, other: &User) -> Result<Wrapping, UserError> {
    Ok(Wrapping {
        user: user.id,
        nick: user.nick.clone(),
        secret: user.public_key.wrap(secret.as_bytes())?,
        display_name: user.public_key.wrap(other.nick.as_bytes())?,
    })
}

/// Ends the friendship of two users; whether there was one. Their conversation stays readable.
///
/// # Errors
///
/// [`UserError`] where one of them does not exist or the store failed.
pub async fn unfriend(store: &Store, one: &str, other: &str) -> Result<bool, UserError> {
    let one = users::find(store, one).await?;
    let other = users::find(store, other).await?;
    Ok(store.unfriend(one.id, other.id).await?)
}
