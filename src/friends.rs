//! Friendship of two users: requesting it, ending it, and the one-to-one conversation that comes with it.

use crate::domain::{Approach, ConversationId, Email, Instance, Parse, Refusal, UserId};
use crate::error::Error;
use crate::keys::{self, ConversationSecret};
use crate::store::{ApproachFriend, Befriend, OncePerSignature, Store, User, Wrapping, WriteError};
use crate::users::{self, Caller, UserError};

/// The target of a friend request. Answers must not reveal whether such a user exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addressee(pub(crate) UserId);

impl Parse for Addressee {
    const EXPECTED: &'static str = "the e-mail address or the user id of another user";

    fn parse(text: &str) -> Option<Self> {
        UserId::named(text).map(Self)
    }

    fn objection(text: &str) -> Option<&'static str> {
        Email::objection(text)
    }
}

/// Requests a friendship, or accepts the request that the other user has made. Refuses with [`Refusal::TooMany`],
/// [`Refusal::TooManyFriends`] or [`Refusal::Replayed`].
///
/// The transaction decides whether the two become friends now. If so and it lacks wrapped keys, it refuses with
/// [`Refusal::Outdated`]. Keys are then wrapped outside the transaction, where they don't block the writer.
pub(crate) async fn approach(
    store: &Store,
    caller: &Caller,
    approach: Approach,
    other: UserId,
) -> Result<(), Error> {
    let Caller { user, station, replay, .. } = *caller;
    let mut befriend = None;
    loop {
        let change = ApproachFriend { approach, user, other, befriend, station };
        let change = store.write(OncePerSignature { replay, change });
        match caller.actor().does(change).await {
            Err(WriteError::Refused(Refusal::Outdated)) => {}
            approached => return Ok(approached?),
        }
        let (me, other) = (store.user(user).await?, store.user(other).await?);
        // The caller was deleted a moment ago.
        let Some(me) = me else { return Ok(()) };
        // The other user has made a request. After a deletion, the next attempt finds none.
        let wrap = |other| wrapped(&me, other, &ConversationSecret::generate());
        befriend = other.as_ref().map(wrap).transpose()?;
    }
}

/// Makes two users friends. The first friendship creates their conversation; a later one finds it again and does not
/// use the secret.
///
/// # Errors
///
/// [`UserError`] where they did not become friends, such as [`UserError::SameUser`] or [`UserError::TooManyFriends`].
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
            // A nick changed after it was wrapped, so wrap and try again.
            Err(WriteError::Refused(Refusal::Outdated)) => {}
            Err(WriteError::Refused(refusal)) => return Err(UserError::Refused(refusal)),
            Err(WriteError::Failed(error)) => return Err(error.into()),
        }
    }
}

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

/// Ends the friendship of two users. Returns whether there was one. Their conversation stays readable.
///
/// # Errors
///
/// [`UserError::NotFound`], [`UserError::Store`].
pub async fn unfriend(store: &Store, one: &str, other: &str) -> Result<bool, UserError> {
    let one = users::find(store, one).await?;
    let other = users::find(store, other).await?;
    Ok(store.unfriend(one.id, other.id).await?)
}
