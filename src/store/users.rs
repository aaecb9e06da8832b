//! Users and their keys. The private key is stored encrypted under a password that the server does not keep. The API
//! key is stored in clear, because signatures are checked with it.

use std::collections::HashMap;
use std::convert::Infallible;

use sha2::{Digest as _, Sha256};
use sqlx::FromRow;

use super::changes::ChangeLog;
use super::error::Doing as _;
use super::friends::friend_ids;
use super::listing::listed;
use super::sql::{Connection, Sql};
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Store, WriteError, participants, stored};
use crate::domain::{
    ApiKey, ChangeSet, ConversationId, Email, FullName, Nick, Refusal, Subject, UserId,
};
use crate::keys::PublicKey;

listed!(
    ADD,
    EMAIL,
    USER,
    USERS,
    USER_WITH_KEY,
    LOGIN,
    SIGNING_KEY,
    SET_NICK,
    SET_FULL_NAME,
    IS_DISABLED,
    SET_DISABLED,
    ASKED_BY,
    API_KEY,
    REMOVE_NEW,
    SET_API_KEY,
    PARTNERS,
    SET_DISPLAY_NAME
);

const ADD: Sql = Sql::both(
    "
    INSERT INTO users (number, id, email, nick, full_name, api_key, api_key_digest, private_key,
                       public_key)
    VALUES ((SELECT coalesce(max(number), 0) + 1 FROM users), $1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (id) DO NOTHING",
);

const EMAIL: Sql = Sql::both("SELECT email FROM users WHERE id = $1");

const USER: Sql = Sql::both(
    "
    SELECT id, email, nick, full_name, is_disabled, public_key FROM users
    WHERE id = $1 AND NOT is_deleted",
);

const USERS: Sql = Sql::both(
    "
    SELECT id, email, nick, full_name, is_disabled, public_key FROM users
    WHERE NOT is_deleted ORDER BY email",
);

const USER_WITH_KEY: Sql =
    Sql::both("SELECT id FROM users WHERE api_key_digest = $1 AND NOT is_disabled");

const LOGIN: Sql =
    Sql::both("SELECT nick, full_name, private_key FROM users WHERE id = $1 AND NOT is_disabled");

/// Always yields one row, because the time taken must not reveal whether the user exists.
const SIGNING_KEY: Sql =
    Sql::both("SELECT (SELECT api_key FROM users WHERE id = $1 AND NOT is_disabled)");

const SET_NICK: Sql = Sql::both("UPDATE users SET nick = $2 WHERE id = $1");

const SET_FULL_NAME: Sql = Sql::both("UPDATE users SET full_name = $2 WHERE id = $1");

const IS_DISABLED: Sql =
    Sql::both("SELECT is_disabled FROM users WHERE id = $1 AND NOT is_deleted");

const SET_DISABLED: Sql = Sql::both("UPDATE users SET is_disabled = $2 WHERE id = $1");

/// The users that are shown an open request of this user.
const ASKED_BY: Sql = Sql::both(
    "
    SELECT r.to_id FROM friend_requests r JOIN users u ON u.id = r.to_id
    WHERE r.from_id = $1 AND r.is_open AND NOT r.is_silent ORDER BY r.to_id",
);

const API_KEY: Sql = Sql::both("SELECT api_key FROM users WHERE id = $1");

const REMOVE_NEW: Sql = Sql::both("DELETE FROM users WHERE id = $1 AND api_key = $2");

const SET_API_KEY: Sql =
    Sql::both("UPDATE users SET api_key = $2, api_key_digest = $3 WHERE id = $1");

/// The other participants of the user's conversations, without those whose accounts were deleted.
const PARTNERS: Sql = Sql::both(
    "
    SELECT o.user_id, u.public_key
    FROM participants p
    JOIN participants o ON o.conversation_id = p.conversation_id AND o.user_id <> p.user_id
    JOIN users u ON u.id = o.user_id
    WHERE p.user_id = $1 AND NOT u.is_deleted ORDER BY o.user_id",
);

/// The name under which the partner sees the conversation with the user.
const SET_DISPLAY_NAME: Sql = Sql::both(
    "
    UPDATE participants SET display_name = $3
    WHERE user_id = $2 AND conversation_id IN (
        SELECT conversation_id FROM participants WHERE user_id = $1)",
);

/// A user as the command line shows one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub(crate) id: UserId,
    pub email: Email,
    pub(crate) nick: String,
    pub(crate) full_name: String,
    /// A disabled user can neither log in nor sign, and is hidden from friends.
    pub(crate) is_disabled: bool,
    pub(crate) public_key: PublicKey,
}

#[derive(FromRow)]
struct UserRow {
    id: String,
    email: String,
    nick: String,
    full_name: String,
    is_disabled: bool,
    public_key: String,
}

impl UserRow {
    fn user(self) -> Result<User, Error> {
        Ok(User {
            id: stored(&self.id)?,
            email: Email::from_stored(self.email),
            nick: self.nick,
            full_name: self.full_name,
            is_disabled: self.is_disabled,
            public_key: PublicKey::from_stored(self.public_key),
        })
    }
}

/// The stored part of the answer to a login.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) nick: String,
    pub(crate) full_name: String,
    /// Private key: PEM, encrypted under the user's encryption password.
    pub(crate) private_key: String,
}

impl Store {
    pub(crate) async fn user(&self, user: UserId) -> Result<Option<User>, Error> {
        let row = self.reader().await?.query(USER).bind(user.as_str()).optional().await;
        let row: Option<UserRow> = row.doing("reading a user")?;
        row.map(UserRow::user).transpose()
    }

    /// Returns all users, by address.
    ///
    /// # Errors
    ///
    /// [`Error`] if the store failed.
    pub async fn users(&self) -> Result<Vec<User>, Error> {
        let rows = self.reader().await?.query(USERS).all().await;
        let rows: Vec<UserRow> = rows.doing("listing users")?;
        rows.into_iter().map(UserRow::user).collect()
    }

    /// `None` if no enabled user has the key.
    pub(crate) async fn user_with_key(&self, api_key: &ApiKey) -> Result<Option<UserId>, Error> {
        let mut reads = self.reader().await?;
        let user = reads.query(USER_WITH_KEY).bind(digest(api_key).as_str());
        let user: Option<String> = user.optional_value().await.doing("looking up an API key")?;
        user.map(|id| stored(&id)).transpose()
    }

    /// `None` if the user is unknown or disabled.
    pub(crate) async fn login(&self, user: UserId) -> Result<Option<Login>, Error> {
        let row = self.reader().await?.query(LOGIN).bind(user.as_str()).optional().await;
        let row: Option<(String, String, String)> = row.doing("reading the data for a login")?;
        Ok(row.map(|(nick, full_name, private_key)| Login { nick, full_name, private_key }))
    }

    /// `None` if the user is unknown or disabled.
    pub(crate) async fn signing_key(&self, user: UserId) -> Result<Option<ApiKey>, Error> {
        let key = self.reader().await?.query(SIGNING_KEY).bind(user.as_str()).value().await;
        let key: Option<String> = key.doing("reading a signing key")?;
        key.map(|key| stored(&key)).transpose()
    }

    /// Returns the other users of all conversations of this user, friends or not.
    pub(crate) async fn partners(&self, user: UserId) -> Result<Vec<(UserId, PublicKey)>, Error> {
        let mut reads = self.reader().await?;
        partners(&mut reads, user).await
    }

    /// Disables or enables a user. A disabled user leaves the friends' lists and can't be written to; enabling brings
    /// everything back. Returns whether the user exists.
    ///
    /// # Errors
    ///
    /// [`Error`] if the store failed.
    pub async fn set_disabled(&self, user: UserId, is_disabled: bool) -> Result<bool, Error> {
        Ok(self.write(SetDisabled { user, is_disabled }).await?)
    }

    /// Replaces a user's API key. Returns the previous key; `None` if the user does not exist.
    ///
    /// # Errors
    ///
    /// [`Error`] if the store failed.
    pub async fn set_api_key(
        &self,
        user: UserId,
        api_key: ApiKey,
    ) -> Result<Option<ApiKey>, Error> {
        Ok(self.write(SetApiKey { user, api_key }).await?)
    }

    /// Removes a user that was added with this API key a moment ago. Returns whether the user still had the key.
    ///
    /// # Errors
    ///
    /// [`Error`] if the user can't be removed, such as a user with a friend by now.
    pub(crate) async fn remove_new_user(
        &self,
        user: UserId,
        api_key: ApiKey,
    ) -> Result<bool, Error> {
        Ok(self.write(RemoveNewUser { user, api_key }).await?)
    }
}

fn digest(api_key: &ApiKey) -> String {
    hex::encode(Sha256::digest(api_key.as_str()))
}

pub(super) async fn partners(
    connection: &mut Connection,
    user: UserId,
) -> Result<Vec<(UserId, PublicKey)>, Error> {
    let rows = connection.query(PARTNERS).bind(user.as_str()).all().await;
    let rows: Vec<(String, String)> = rows.doing("listing partners")?;
    let partner = |(id, key): (String, String)| Ok((stored(&id)?, PublicKey::from_stored(key)));
    rows.into_iter().map(partner).collect()
}

#[derive(Clone, Debug)]
pub(crate) struct AddUser {
    pub(crate) email: Email,
    pub(crate) nick: Nick,
    pub(crate) full_name: FullName,
    pub(crate) api_key: ApiKey,
    /// Private key: PEM, encrypted under the user's encryption password.
    pub(crate) private_key: String,
    pub(crate) public_key: PublicKey,
}

/// The id of a new user is taken: by the same address, or by another one with the same MD5.
#[derive(Clone, Debug)]
pub(crate) struct IdTaken {
    /// The address that has the id.
    pub(crate) holder: String,
}

impl WriteOp for AddUser {
    type Output = ();
    type Refusal = IdTaken;

    fn grows(&self) -> bool {
        true
    }

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError<IdTaken>> {
        let id = UserId::of(&self.email);
        let add = tx.query(ADD).await?;
        let add = add
            .bind(id.as_str())
            .bind(self.email.as_str())
            .bind(self.nick.as_str())
            .bind(self.full_name.as_str())
            .bind(self.api_key.as_str())
            .bind(digest(&self.api_key).as_str())
            .bind(self.private_key.as_str())
            .bind(self.public_key.as_str());
        if add.execute().await.doing("adding a user")? > 0 {
            return Ok(());
        }
        let holder = tx.query(EMAIL).await?.bind(id.as_str()).value().await;
        let holder = holder.doing("reading the address that has an id")?;
        Err(WriteError::Refused(IdTaken { holder }))
    }
}

/// Renames a user; `None` leaves a name as it is. A new nick comes wrapped for each user who sees it as a display name.
#[derive(Clone, Debug)]
pub(crate) struct RenameUser {
    pub(crate) user: UserId,
    pub(crate) nick: Option<Nick>,
    pub(crate) full_name: Option<FullName>,
    /// The new nick, wrapped for each partner.
    pub(crate) display_names: HashMap<UserId, String>,
}

impl WriteOp for RenameUser {
    /// Whether the user exists. Always `true` if neither name changes.
    type Output = bool;
    /// [`Refusal::Outdated`] if the user has a partner for whom the nick is not wrapped.
    type Refusal = Refusal;

    async fn apply(&self, tx: &mut WriteTx) -> Result<bool, WriteError> {
        if let Some(nick) = &self.nick {
            let partners = partners(tx.connection().await?, self.user).await?;
            if partners.iter().any(|(partner, _)| !self.display_names.contains_key(partner)) {
                return Err(Refusal::Outdated.into());
            }
            if !set(tx, SET_NICK, self.user, nick.as_str()).await? {
                return Ok(false);
            }
            for (partner, display_name) in &self.display_names {
                let rename = tx.query(SET_DISPLAY_NAME).await?.bind(self.user.as_str());
                let rename = rename.bind(partner.as_str()).bind(display_name.as_str());
                rename.execute().await.doing("changing a display name")?;
            }
            let friends = friend_ids(tx.connection().await?, self.user).await?;
            ChangeLog::from(self.changes(&friends)).record(tx).await?;
        }
        match &self.full_name {
            Some(full_name) => Ok(set(tx, SET_FULL_NAME, self.user, full_name.as_str()).await?),
            None => Ok(true),
        }
    }
}

impl RenameUser {
    /// Returns whom a new nick concerns: the user and all partners in their conversation, and friends in their list of
    /// friends.
    fn changes(&self, friends: &[UserId]) -> ChangeSet {
        let mut changes = ChangeSet::default();
        for partner in self.display_names.keys() {
            let conversation = ConversationId::one_to_one(self.user, *partner);
            changes.add(self.user, Subject::Conversation(conversation), None);
            changes.add(*partner, Subject::Conversation(conversation), None);
        }
        for friend in friends {
            changes.add(*friend, Subject::Friend(self.user), None);
        }
        changes
    }
}

async fn set(tx: &mut WriteTx, statement: Sql, user: UserId, value: &str) -> Result<bool, Error> {
    let set = tx.query(statement).await?.bind(user.as_str()).bind(value);
    Ok(set.execute().await.doing("changing a user")? > 0)
}

struct SetDisabled {
    user: UserId,
    is_disabled: bool,
}

impl WriteOp for SetDisabled {
    type Output = bool;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<bool, WriteError<Infallible>> {
        let user = self.user;
        let was_disabled = tx.query(IS_DISABLED).await?.bind(user.as_str());
        let was_disabled: Option<bool> =
            was_disabled.optional_value().await.doing("looking for a user")?;
        let Some(was_disabled) = was_disabled else { return Ok(false) };
        let set = tx.query(SET_DISABLED).await?.bind(user.as_str()).bind(self.is_disabled);
        set.execute().await.doing("disabling or enabling a user")?;
        // Settled even where nothing changes: a node of an earlier version does not.
        for (partner, _) in partners(tx.connection().await?, user).await? {
            participants::settle(tx, user, partner).await?;
        }
        if was_disabled != self.is_disabled {
            ChangeLog::from(visibility_changes(tx, user).await?).record(tx).await?;
        }
        tx.affected.mark_unknown(user);
        Ok(true)
    }
}

/// Returns what changes for others when a user appears or disappears: the friends' lists, and the lists of users who see
/// a request from this user.
pub(super) async fn visibility_changes(tx: &mut WriteTx, user: UserId) -> Result<ChangeSet, Error> {
    let mut changes = ChangeSet::default();
    for friend in friend_ids(tx.connection().await?, user).await? {
        changes.add(friend, Subject::Friend(user), None);
    }
    let asked: Vec<String> = {
        let asked = tx.query(ASKED_BY).await?.bind(user.as_str());
        asked.values().await.doing("listing friend requests")?
    };
    for asked in &asked {
        changes.add(stored(asked)?, Subject::Lists, None);
    }
    Ok(changes)
}

struct SetApiKey {
    user: UserId,
    api_key: ApiKey,
}

impl WriteOp for SetApiKey {
    type Output = Option<ApiKey>;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<Option<ApiKey>, WriteError<Infallible>> {
        let before = tx.query(API_KEY).await?.bind(self.user.as_str());
        let before: Option<String> = before.optional_value().await.doing("reading an API key")?;
        let set = tx.query(SET_API_KEY).await?.bind(self.user.as_str());
        let set = set.bind(self.api_key.as_str()).bind(digest(&self.api_key).as_str());
        set.execute().await.doing("rotating an API key")?;
        tx.affected.mark_unknown(self.user);
        Ok(before.map(|key| stored(&key)).transpose()?)
    }
}

/// Changes nothing. Refused with [`Refusal::Outdated`] unless the user is enabled and signs with this key.
pub(super) struct CheckKey {
    pub(super) user: UserId,
    pub(super) api_key: ApiKey,
}

impl WriteOp for CheckKey {
    type Output = ();
    type Refusal = Refusal;

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError> {
        let current = tx.query(SIGNING_KEY).await?.bind(self.user.as_str());
        let current: Option<String> = current.value().await.doing("reading a signing key")?;
        let is_current = current.is_some_and(|key| key == self.api_key.as_str());
        if is_current { Ok(()) } else { Err(Refusal::Outdated.into()) }
    }
}

struct RemoveNewUser {
    user: UserId,
    api_key: ApiKey,
}

impl WriteOp for RemoveNewUser {
    type Output = bool;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<bool, WriteError<Infallible>> {
        let remove = tx.query(REMOVE_NEW).await?;
        let remove = remove.bind(self.user.as_str()).bind(self.api_key.as_str());
        Ok(remove.execute().await.doing("removing a new user")? > 0)
    }
}
