//! Friendship of two users: asking for it, ending it, and the one-to-one conversation that comes with it.

use crate::domain::{ConversationId, Email, Instance, Parse, UserId};
use crate::error::Error;
use crate::keys::{self, ConversationSecret};
use crate::store::{
    Approach, ApproachFriend, Approached, Befriend, Befriended, DeclineFriend, MOST_OPEN_REQUESTS,
    Once, RemoveFriend, Store, User, Wrapping,
};
use crate::users::{self, Caller, UserError};

/// Somebody who is asked for friendship. Whether there is such a user must not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addressee(UserId);

impl Parse for Addressee {
    const EXPECTED: &'static str = "the e-mail address or the user id of somebody else";

    fn parse(text: &str) -> Option<Self> {
        UserId::named(text).map(Self)
    }

    fn objection(text: &str) -> Option<&'static str> {
        Email::objection(text)
    }
}

/// Asks somebody for friendship; where that one has asked already, they become friends.
///
/// # Errors
///
/// [`Error::InvalidField`] for oneself, [`Error::TooMany`], [`Error::Replayed`]; then nothing was changed.
pub async fn add(store: &Store, caller: &Caller, friend: Addressee) -> Result<(), Error> {
    if friend.0 == caller.user {
        return Err(Error::malformed("friend", Addressee::EXPECTED));
    }
    approach(store, caller, Approach::Add, friend.0).await
}

/// Becomes the friend of somebody who has asked for it.
///
/// # Errors
///
/// [`Error::TooMany`], [`Error::Replayed`]; then nothing was changed.
pub async fn accept(store: &Store, caller: &Caller, friend: UserId) -> Result<(), Error> {
    approach(store, caller, Approach::Accept, friend).await
}

/// The transaction finds out whether they become friends now. Keys are wrapped outside of it, where they
/// hold nobody up, and the next transaction finds out anew.
async fn approach(
    store: &Store,
    caller: &Caller,
    approach: Approach,
    other: UserId,
) -> Result<(), Error> {
    let mut befriend = None;
    loop {
        let (station, replay) = (caller.station, caller.replay);
        let change = ApproachFriend { approach, other, befriend, station, replay };
        match store.change(change).await? {
            Approached::Done => return Ok(()),
            Approached::Replayed => return Err(Error::Replayed { conversation: None }),
            Approached::TooMany => {
                let most = MOST_OPEN_REQUESTS.into();
                return Err(Error::TooMany { what: "open friend requests", most });
            }
            Approached::TooManyFriends { most } => {
                let most = usize::try_from(most).unwrap_or(usize::MAX);
                return Err(Error::TooMany { what: "friends for each of the two", most });
            }
            Approached::NeedsKeys => {
                let (me, other) = (store.user(caller.user).await?, store.user(other).await?);
                // Who has asked exists, and users stay.
                let (me, other) = (me.ok_or(Error::Internal)?, other.ok_or(Error::Internal)?);
                befriend = Some(wrapped(&me, &other, &ConversationSecret::generate())?);
            }
        }
    }
}

/// Declines what somebody has asked. That one does not learn of it.
///
/// # Errors
///
/// [`Error::Replayed`]; then nothing was changed.
pub async fn decline(store: &Store, caller: &Caller, other: UserId) -> Result<(), Error> {
    let (station, replay) = (caller.station, caller.replay);
    once(store.change(DeclineFriend { other, station, replay }).await?)
}

/// Ends a friendship, or takes back what the caller has asked. The conversation stays readable.
///
/// # Errors
///
/// [`Error::Replayed`]; then nothing was changed.
pub async fn remove(store: &Store, caller: &Caller, other: UserId) -> Result<(), Error> {
    let (station, replay) = (caller.station, caller.replay);
    once(store.change(RemoveFriend { other, station, replay }).await?)
}

fn once(made: Once) -> Result<(), Error> {
    match made {
        Once::Done => Ok(()),
        Once::Replayed => Err(Error::Replayed { conversation: None }),
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
        match store.change(wrapped(&one, &other, secret)?).await? {
            Befriended::Friends => return Ok(ConversationId::one_to_one(one.id, other.id)),
            Befriended::NickChanged => {}
            Befriended::TooMany { user, most } => {
                let full = if user == one.id { one.email } else { other.email };
                return Err(UserError::TooManyFriends { user: full.to_string(), most });
            }
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
