//! API keys of users: looking them up, reading and replacing them. They are stored sealed (`src/sealing.rs`), or in clear
//! while nodes of a version without sealing may be running.

use std::convert::Infallible;

use super::audit::{self, Event};
use super::error::Doing as _;
use super::listing::listed;
use super::many_rows::Column::Text;
use super::many_rows::ManyRows;
use super::sql::{Connection, Query, Sql};
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Store, WriteError, stored};
use crate::audit::Action;
use crate::domain::{ApiKey, Refusal, UserId};
use crate::sealing::{KeyRing, StoredKey};

listed!(CURRENT, USER_WITH_KEY, SIGNING_KEY, API_KEY, REMOVE_NEW, SET_API_KEY);

/// Selects the number of the key that new API keys are sealed with; 0 while they are stored in clear.
pub(super) const CURRENT: Sql =
    Sql::both("SELECT coalesce(max(number), 0) FROM sealing_keys WHERE is_active");

/// Selects [`CURRENT`] and the user whose key has one of these digests. Always yields one row.
static USER_WITH_KEY: ManyRows = ManyRows::new(
    "SELECT (SELECT coalesce(max(number), 0) FROM sealing_keys WHERE is_active),
            (SELECT u.id FROM ({rows}) AS presented CROSS JOIN users u
             WHERE u.api_key_digest = presented.column1 AND NOT u.is_disabled LIMIT 1)",
    &[Text],
);

/// Selects a key in the form that [`KeyRing::read`] takes. A node of the previous version writes `api_key` alone, so what
/// is there counts.
///
/// Always yields one row, because the time taken must not reveal whether the user exists.
const SIGNING_KEY: Sql = Sql::both(
    "
    SELECT (SELECT CASE WHEN api_key <> '' THEN api_key ELSE concat(sealing_key, ':', sealed_api_key) END
            FROM users WHERE id = $1 AND NOT is_disabled)",
);

/// Selects the key of a user, who may be disabled, in the same form.
const API_KEY: Sql = Sql::both(
    "
    SELECT CASE WHEN api_key <> '' THEN api_key ELSE concat(sealing_key, ':', sealed_api_key) END
    FROM users WHERE id = $1",
);

const REMOVE_NEW: Sql = Sql::both("DELETE FROM users WHERE id = $1");

const SET_API_KEY: Sql = Sql::both(
    "
    UPDATE users SET api_key = $2, api_key_digest = $3, sealing_key = $4, sealed_api_key = $5 WHERE id = $1",
);

impl Store {
    /// `None` if no enabled user has the key.
    pub(crate) async fn user_with_key(&self, api_key: &ApiKey) -> Result<Option<UserId>, Error> {
        let mut reads = self.reader().await?;
        let (current, mut user) = user_with_key(&mut reads, &self.keys, api_key).await?;
        if self.keys.enter(current) && user.is_none() {
            // The user's key was sealed with a key that this process did not know.
            (_, user) = user_with_key(&mut reads, &self.keys, api_key).await?;
        }
        user.map(|id| stored(&id)).transpose()
    }

    /// `None` if the user is unknown or disabled.
    pub(crate) async fn signing_key(&self, user: UserId) -> Result<Option<ApiKey>, Error> {
        let key = self.reader().await?.query(SIGNING_KEY).bind(user.as_str()).value().await;
        let key: Option<String> = key.doing("reading a signing key")?;
        Ok(key.map(|key| self.keys.read(user, &key)).transpose()?)
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

async fn user_with_key(
    connection: &mut Connection,
    keys: &KeyRing,
    api_key: &ApiKey,
) -> Result<(i64, Option<String>), Error> {
    let digests = keys.digests(api_key);
    let bind = |digest: &String, values: &mut super::many_rows::Values<'_>| {
        values.add(digest.as_str());
    };
    let found = connection.query_rows(&USER_WITH_KEY, &digests, bind).one().await;
    found.doing("looking up an API key")
}

/// Returns an API key as a new row of this user stores it.
pub(super) async fn to_store(
    tx: &mut WriteTx,
    user: UserId,
    api_key: &ApiKey,
) -> Result<StoredKey, Error> {
    let current = tx.query(CURRENT).await?.value().await;
    let current: i64 = current.doing("reading the number of the sealing key")?;
    tx.keys().enter(current);
    Ok(tx.keys().store(current, user, api_key)?)
}

/// Writes the API key of a user in its stored form.
pub(super) async fn set(
    connection: &mut Connection,
    user: UserId,
    key: &StoredKey,
) -> Result<(), sqlx::Error> {
    let set = bind(connection.query(SET_API_KEY).bind(user.as_str()), key);
    set.execute().await.map(drop)
}

/// Binds the four columns of a stored key.
pub(super) fn bind<'c>(query: Query<'c>, key: &StoredKey) -> Query<'c> {
    query
        .bind(key.in_clear.as_str())
        .bind(key.digest.as_str())
        .bind(key.number)
        .bind(key.sealed.as_deref())
}

struct SetApiKey {
    user: UserId,
    api_key: ApiKey,
}

impl WriteOp for SetApiKey {
    type Output = Option<ApiKey>;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<Option<ApiKey>, WriteError<Infallible>> {
        let before = read(tx, API_KEY, self.user).await?;
        let key = to_store(tx, self.user, &self.api_key).await?;
        let set = set(tx.connection().await?, self.user, &key).await;
        set.doing("rotating an API key")?;
        if before.is_some() {
            audit::record(tx, Action::ApiKeyReplaced, Event::about(self.user)).await?;
        }
        tx.affected.mark_unknown(self.user);
        Ok(before)
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
        let current = read(tx, SIGNING_KEY, self.user).await?;
        if current.as_ref() == Some(&self.api_key) { Ok(()) } else { Err(Refusal::Outdated.into()) }
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
        if read(tx, API_KEY, self.user).await?.as_ref() != Some(&self.api_key) {
            return Ok(false);
        }
        audit::forget_added(tx, self.user).await?;
        let remove = tx.query(REMOVE_NEW).await?.bind(self.user.as_str());
        Ok(remove.execute().await.doing("removing a new user")? > 0)
    }
}

/// Reads the API key that this statement selects in its stored form.
async fn read(tx: &mut WriteTx, statement: Sql, user: UserId) -> Result<Option<ApiKey>, Error> {
    let key = tx.query(statement).await?.bind(user.as_str());
    let key: Option<(Option<String>,)> = key.optional().await.doing("reading an API key")?;
    let key = key.and_then(|(key,)| key);
    Ok(key.map(|key| tx.keys().read(user, &key)).transpose()?)
}
