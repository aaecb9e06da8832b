//! Users: who they are, how they are added, renamed, disabled, and log in.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::domain::{ApiKey, Email, FullName, Nick, Replay, StationId, Timestamp, UserId};
use crate::keys::{self, EncryptionPassword, KeySource};
use crate::limits::Owner;
use crate::store::{self, AddUser, IdTaken, RenameUser, Store, User, WriteError};

/// The user of an authenticated request. Only authentication makes one, so a function that takes it need not check again.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user.
    pub user: UserId,
    /// The station that the request comes from. Requests of which the protocol says so may come without.
    pub station: Option<StationId>,
    /// Whether the request carries the user's signature. A login and a notification need none.
    pub is_signed: bool,
    /// Identifies the request: a change is made at most once for it.
    pub replay: Replay,
    /// The request's timestamp; the server's time where it has none.
    pub timestamp: Timestamp,
    /// The client's address.
    pub client: Option<IpAddr>,
}

impl Caller {
    /// On whose account the answer is.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner { user: Some(self.user), client: self.client }
    }
}

/// A command about users that was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Nobody has this address or id.
    #[error("there is no user {0}")]
    NotFound(String),
    /// The address is taken.
    #[error("there is a user {0} already")]
    EmailTaken(String),
    /// Another address has the same MD5.
    #[error("the address can't be used: {0} has the same user id")]
    IdTaken(String),
    /// Nobody befriends oneself.
    #[error("a friendship takes two different users")]
    SameUser,
    /// One of two new friends has as many as a user may have.
    #[error("{user} has {most} friends already; the limit is {most} (limits.friends)")]
    TooManyFriends {
        /// Who has.
        user: String,
        /// Maximum friends of one user.
        most: u32,
    },
    /// Key material can't be used.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// The store refused or failed.
    #[error("the store failed")]
    Store(#[from] store::Error),
}

/// What a new user must be told: the server keeps no copy of the password.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// The user's id.
    pub id: UserId,
    /// The address.
    pub email: Email,
    /// What the user logs in and signs with.
    pub api_key: ApiKey,
    /// What opens the user's private key.
    pub encryption_password: EncryptionPassword,
}

/// Adds a user with a new API key and a new RSA pair.
///
/// # Errors
///
/// [`UserError`] where nobody was added.
pub async fn add(
    store: &Store,
    keys: &KeySource,
    email: Email,
    nick: Nick,
    full_name: FullName,
    encryption_password: EncryptionPassword,
) -> Result<NewUser, UserError> {
    let pair = keys.key_pair().await;
    let api_key = ApiKey::generate();
    let add = AddUser {
        email: email.clone(),
        nick,
        full_name,
        api_key,
        private_key: pair.encrypted_pem(&encryption_password),
        public_key: pair.public().clone(),
    };
    match store.write(add).await {
        Ok(()) => Ok(NewUser { id: UserId::of(&email), email, api_key, encryption_password }),
        Err(WriteError::Refused(IdTaken { holder })) if holder == email.as_str() => {
            Err(UserError::EmailTaken(holder))
        }
        Err(WriteError::Refused(IdTaken { holder })) => Err(UserError::IdTaken(holder)),
        Err(WriteError::Failed(error)) => Err(error.into()),
    }
}

/// Finds the user whom an address or a user id names.
///
/// # Errors
///
/// [`UserError::NotFound`] where nobody is named so.
pub async fn find(store: &Store, name: &str) -> Result<User, UserError> {
    let not_found = || UserError::NotFound(name.to_owned());
    let id = UserId::named(name).ok_or_else(not_found)?;
    store.user(id).await?.ok_or_else(not_found)
}

/// Gives a user new names. The display names of the user's conversations follow the nick.
///
/// # Errors
///
/// [`UserError`] where nothing was changed.
pub async fn rename(
    store: &Store,
    user: UserId,
    nick: Option<Nick>,
    full_name: Option<FullName>,
) -> Result<(), UserError> {
    loop {
        let mut display_names = HashMap::new();
        if let Some(nick) = &nick {
            for (partner, key) in store.partners(user).await? {
                display_names.insert(partner, key.wrap(nick.as_str().as_bytes())?);
            }
        }
        let rename =
            RenameUser { user, nick: nick.clone(), full_name: full_name.clone(), display_names };
        match store.write(rename).await {
            Ok(true) => return Ok(()),
            Ok(false) => return Err(UserError::NotFound(user.to_string())),
            // The user has another partner since the nick was wrapped.
            Err(WriteError::Refused(_)) => {}
            Err(WriteError::Failed(error)) => return Err(error.into()),
        }
    }
}
