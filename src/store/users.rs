//! Users and their key pairs. The private key is stored encrypted under a password that the server does not keep. What
//! is stored of the API key is in `api_keys.rs`.

use std::collections::HashMap;
use std::convert::Infallible;

use sqlx::FromRow;

use super::audit::{self, Event};
use super::changes::ChangeLog;
use super::error::Doing as _;
use super::friends::friend_ids;
use super::listing::listed;
use super::sql::{Connection, Sql};
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Store, WriteError, api_keys, participants, stored};
use crate::audit::Action;
use crate::domain::{
    ApiKey, ChangeSet, ConversationId, Email, FullName, Nick, Refusal, Subject, UserId,
};
use crate::keys::PublicKey;

listed!(
    ADD,
    EMAIL,
    USER,
    USERS,
    LOGIN,
    SET_NICK,
    SET_FULL_NAME,
    IS_DISABLED,
    SET_DISABLED,
    ASKED_BY,
    PARTNERS,
    SET_DISPLAY_NAME
);

const ADD: Sql = Sql::both(
    "
    INSERT INTO users (number, id, email, nick, full_name, private_key, public_key, api_key, api_key_digest,
                       sealing_key, sealed_api_key)
    VALUES ((SELECT coalesce(max(number), 0) + 1 FROM users), $1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
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

const LOGIN: Sql =
    Sql::both("SELECT nick, full_name, private_key FROM users WHERE id = $1 AND NOT is_disabled");

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

    /// `None` if the user is unknown or disabled.
    pub(crate) async fn login(&self, user: UserId) -> Result<Option<Login>, Error> {
        let row = self.reader().await?.query(LOGIN).bind(user.as_str()).optional().await;
        let row: Option<(String, String, String)> = row.doing("reading the data for a login")?;
        Ok(row.map(|(nick, full_name, private_key)| Login { nick, full_name, private_key }))
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
        self.insert(tx, Action::UserAdded).await
    }
}

impl AddUser {
    /// Adds the user, which the audit log calls by this action.
    pub(super) async fn insert(
        &self,
        tx: &mut WriteTx,
        action: Action,
    ) -> Result<(), WriteError<IdTaken>> {
        let id = UserId::of(&self.email);
        let key = api_keys::to_store(tx, id, &self.api_key).await?;
        let add = tx.query(ADD).await?;
        let add = add
            .bind(id.as_str())
            .bind(self.email.as_str())
            .bind(self.nick.as_str())
            .bind(self.full_name.as_str())
            .bind(self.private_key.as_str())
            .bind(self.public_key.as_str());
        let add = api_keys::bind(add, &key);
        if add.execute().await.doing("adding a user")? > 0 {
            audit::name_invited(tx, id, &self.email).await?;
            return Ok(audit::record(tx, action, Event::about(id)).await?);
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
        if let Some(full_name) = &self.full_name
            && !set(tx, SET_FULL_NAME, self.user, full_name.as_str()).await?
        {
            return Ok(false);
        }
        let changed = match (&self.nick, &self.full_name) {
            (None, None) => return Ok(true),
            (Some(_), None) => "nick",
            (None, Some(_)) => "full name",
            (Some(_), Some(_)) => "nick and full name",
        };
        let event = Event::about(self.user).with_details(changed);
        audit::record(tx, Action::UserRenamed, event).await?;
        Ok(true)
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
            let action = if self.is_disabled { Action::UserDisabled } else { Action::UserEnabled };
            audit::record(tx, action, Event::about(user)).await?;
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
