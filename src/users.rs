//! Users: adding, finding and renaming them, and the authenticated user of a request.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::audit::Actor;
use crate::domain::{ApiKey, Email, FullName, Nick, Refusal, Replay, StationId, Timestamp, UserId};
use crate::keys::{self, EncryptionPassword, KeySource};
use crate::limits::Owner;
pub(crate) use crate::store::DELETED_NICK;
use crate::store::{self, AddUser, DeleteUser, IdTaken, RenameUser, Store, User, WriteError};

/// The user of an authenticated request. Only authentication makes one, so a function that takes it need not check
/// again.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// For a registration, the user that the invitation is for, who does not exist yet.
    pub(crate) user: UserId,
    /// The station that the request comes from. `None` for requests that the protocol allows without one.
    pub(crate) station: Option<StationId>,
    /// Whether the request carries the user's signature. Logins and notifications need none.
    pub(crate) is_signed: bool,
    /// Identifies the request, so that a change is made at most once for it.
    pub(crate) replay: Replay,
    /// The request's timestamp, or the server's time where the request has none.
    pub(crate) timestamp: Timestamp,
    pub(crate) client: Option<IpAddr>,
}

impl Caller {
    /// Returns the user as the actor of a change.
    pub(crate) fn actor(&self) -> Actor {
        Actor::Client { user: self.user, address: self.client }
    }

    /// Returns the owner of the memory that the answer takes.
    pub(crate) fn owner(&self) -> Owner {
        Owner { user: Some(self.user), client: self.client }
    }
}

/// Why a command about users was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No user has this address or ID.
    #[error("there is no user {0}")]
    NotFound(String),
    /// Another user has the address already.
    #[error("there is a user {0} already")]
    EmailTaken(String),
    /// Another address has the same MD5, and therefore the same user ID.
    #[error("the address can't be used: {0} has the same user id")]
    IdTaken(String),
    /// A user can't befriend themselves.
    #[error("a friendship needs two different users")]
    SameUser,
    /// One of two new friends has the maximum of friends.
    #[error("limit reached: at most {most} friends for {user} (limits.friends)")]
    TooManyFriends {
        /// The user with the maximum.
        user: String,
        /// Maximum friends of one user.
        most: u32,
    },
    /// The rules refuse it for another reason.
    #[error(transparent)]
    Refused(Refusal),
    /// Key material can't be used.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// The store refused or failed.
    #[error("the store failed")]
    Store(#[from] store::Error),
}

/// Credentials that an operator passes on to a new user. The server keeps no copy of the password.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// The user's ID.
    pub id: UserId,
    /// Address that the user was added with.
    pub email: Email,
    /// The key that the user logs in and signs with.
    pub api_key: ApiKey,
    /// Opens the private key. Stored nowhere else.
    pub encryption_password: EncryptionPassword,
}

/// A user with new keys who is still to be added.
pub(crate) struct Candidate {
    pub(crate) credentials: NewUser,
    change: AddUser,
}

impl Candidate {
    /// Makes an API key and an RSA pair.
    pub(crate) async fn new(
        keys: &KeySource,
        email: Email,
        nick: Nick,
        full_name: FullName,
        encryption_password: EncryptionPassword,
    ) -> Self {
        let pair = keys.key_pair().await;
        let api_key = ApiKey::generate();
        let change = AddUser {
            email: email.clone(),
            nick,
            full_name,
            api_key: api_key.clone(),
            private_key: pair.encrypted_pem(&encryption_password),
            public_key: pair.public().clone(),
        };
        let id = UserId::of(&email);
        Self { credentials: NewUser { id, email, api_key, encryption_password }, change }
    }

    /// Adds the user: [`UserError::EmailTaken`], [`UserError::IdTaken`] or [`UserError::Store`] if that fails.
    pub(crate) async fn add_to(self, store: &Store) -> Result<NewUser, UserError> {
        let email = self.credentials.email.as_str();
        match store.write(self.change).await {
            Ok(()) => Ok(self.credentials),
            Err(WriteError::Refused(IdTaken { holder })) if holder == email => {
                Err(UserError::EmailTaken(holder))
            }
            Err(WriteError::Refused(IdTaken { holder })) => Err(UserError::IdTaken(holder)),
            Err(WriteError::Failed(error)) => Err(error.into()),
        }
    }
}

/// Adds a user with a new API key and a new RSA pair.
///
/// # Errors
///
/// [`UserError::EmailTaken`], [`UserError::IdTaken`], [`UserError::Store`].
pub async fn add(
    store: &Store,
    keys: &KeySource,
    email: Email,
    nick: Nick,
    full_name: FullName,
    encryption_password: EncryptionPassword,
) -> Result<NewUser, UserError> {
    let candidate = Candidate::new(keys, email, nick, full_name, encryption_password).await;
    candidate.add_to(store).await
}

/// Finds a user by e-mail address or user ID. [`UserError::NotFound`] where no user matches.
pub(crate) async fn find(store: &Store, name: &str) -> Result<User, UserError> {
    let not_found = || UserError::NotFound(name.to_owned());
    let id = UserId::named(name).ok_or_else(not_found)?;
    store.user(id).await?.ok_or_else(not_found)
}

/// Whether the text that an operator has typed confirms that the user with this address is to be deleted.
pub(crate) fn confirms_deletion(typed: &str, email: &Email) -> bool {
    typed.trim().eq_ignore_ascii_case(email.as_str())
}

/// Deletes a user. The other participants keep the conversations, with [`DELETED_NICK`] as the name. Returns the random id
/// that stands for the user from then on.
///
/// The user is disabled first, and then loses the receipts. A deletion that was interrupted can be begun
/// again. A server removes the conversations that nobody can read any more; without one, use [`Store::purge`].
///
/// # Errors
///
/// [`UserError::NotFound`], [`UserError::Store`].
pub async fn delete(store: &Store, user: UserId) -> Result<UserId, UserError> {
    let not_found = || UserError::NotFound(user.to_string());
    let tombstone = UserId::generate();
    loop {
        if !store.set_disabled(user, true).await? {
            return Err(not_found());
        }
        store.remove_receipts(user).await?;
        let mut display_names = HashMap::new();
        for (partner, key) in store.partners(user).await? {
            display_names.insert(partner, key.wrap(DELETED_NICK.as_bytes())?);
        }
        match store.write(DeleteUser { user, tombstone, display_names }).await {
            Ok(true) => break,
            Ok(false) => return Err(not_found()),
            // The user was enabled, or has got another partner since the name was wrapped.
            Err(WriteError::Refused(Refusal::Outdated)) => {}
            Err(WriteError::Refused(refusal)) => return Err(UserError::Refused(refusal)),
            Err(WriteError::Failed(error)) => return Err(error.into()),
        }
    }
    store.truncate_log();
    Ok(tombstone)
}

/// Renames a user. The display names of the user's conversations follow the nick.
///
/// # Errors
///
/// [`UserError`] where nothing was changed, such as [`UserError::NotFound`].
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
            // The user has got another partner since the nick was wrapped, so it is wrapped again.
            Err(WriteError::Refused(Refusal::Outdated)) => {}
            Err(WriteError::Refused(refusal)) => return Err(UserError::Refused(refusal)),
            Err(WriteError::Failed(error)) => return Err(error.into()),
        }
    }
}
