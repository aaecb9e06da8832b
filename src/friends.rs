//! Friendship of two users: asking for it, ending it, and the one-to-one conversation that comes with it.

use crate::domain::{Approach, ConversationId, Email, Instance, Parse, Refusal, UserId};
use crate::error::Error;
use crate::keys::{self, ConversationSecret};
use crate::store::{ApproachFriend, Befriend, OncePerSignature, Store, User, Wrapping, WriteError};
use crate::users::{self, Caller, UserError};

/// Somebody who is asked for friendship. Whether there is such a user must not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addressee(pub UserId);

impl Parse for Addressee {
    const EXPECTED: &'static str = "the e-mail address or the user id of another user";

    fn parse(text: &str) -> Option<Self> {
        UserId::named(text).map(Self)
    }

    fn objection(text: &str) -> Option<&'static str> {
        Email::objection(text)
    }
}

/// Asks a user for friendship, or becomes the friend of one who has asked.
///
/// The transaction finds out whether they become friends now, and refuses as [`Refusal::Outdated`] what lacks wrapped keys for
/// that. Keys are wrapped outside of it, where they hold nothing up.
///
/// # Errors
///
/// [`Refusal::TooMany`], [`Refusal::TooManyFriends`], [`Refusal::Replayed`].
pub async fn approach(
    store: &Store,
    caller: &Caller,
    approach: Approach,
    other: UserId,
) -> Result<(), Error> {
    let Caller { user, station, replay, .. } = *caller;
    let mut befriend = None;
    loop {
        let change = ApproachFriend { approach, user, other, befriend, station };
        match store.write(OncePerSignature { replay, change }).await {
            Err(WriteError::Refused(Refusal::Outdated)) => {}
            approached => return Ok(approached?),
        }
        let (me, other) = (store.user(user).await?, store.user(other).await?);
        // Who has asked exists, and users stay.
        let (me, other) = (me.ok_or(Error::Internal)?, other.ok_or(Error::Internal)?);
        befriend = Some(wrapped(&me, &other, &ConversationSecret::generate())?);
    }
}

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
        match store.write(wrapped(&one, &other, secret)?).await {
            Ok(()) => return Ok(ConversationId::one_to_one(one.id, other.id)),
            Err(WriteError::Refused(Refusal::TooManyFriends { user, most })) => {
                let full = if user == one.id { one.email } else { other.email };
                return Err(UserError::TooManyFriends { user: full.to_string(), most });
            }
            // A nick has changed since it was wrapped.
            Err(WriteError::Refused(_)) => {}
            Err(WriteError::Failed(error)) => return Err(error.into()),
        }
    }
}

/// What it takes to make two users friends.
fn wrapped(one: &User, other: &User, secret: &ConversationSecret) -> Result<Befriend, keys::Error> {
    Ok(Befriend {
        wrappings: [wrap(secret, one, other)?, wrap(secret, other, one)?],
        instance: Instance::generate(),
    })
}

fn wrap(secret: &ConversationSecret, user: &User, other: &User) -> Result<Wrapping, keys::Error> {
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
