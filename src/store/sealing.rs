//! Which keys of the key file seal the API keys of a database, and sealing those that are not sealed with the newest one.
//!
//! The database records each key with its fingerprint, so that it is never served with the key file of another one. New
//! API keys are sealed with the active key of the greatest number. A PostgreSQL database that has users has none at first:
//! nodes of the previous version can't read sealed keys. `chatserver keys rotate` activates one.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::Metadata;
use std::sync::Arc;

use super::api_keys::{self, CURRENT};
use super::audit::{self, Event};
use super::engine::Engine;
use super::error::Doing as _;
use super::listing::listed;
use super::sql::{Connection, Sql};
use super::sqlite::space::sweep;
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, OpenError, Store, WriteError, postgres, stored};
use crate::audit::Action;
use crate::domain::UserId;
use crate::key_file::{KeyFile, KeyFileError, Secret, Secrets};
use crate::sealing::{IN_CLEAR, KeyRing};

listed!(REGISTERED, REGISTER, ACTIVATE, FORGET, ANY_USER, USES, NEXT, BEGIN, COMMIT);

pub(super) const REGISTERED: Sql =
    Sql::both("SELECT number, fingerprint, is_active FROM sealing_keys ORDER BY number");

const REGISTER: Sql = Sql::both(
    "
    INSERT INTO sealing_keys (number, fingerprint) VALUES ($1, $2) ON CONFLICT (number) DO NOTHING",
);

const ACTIVATE: Sql = Sql::both(
    "
    INSERT INTO sealing_keys (number, fingerprint, is_active) VALUES ($1, $2, TRUE)
    ON CONFLICT (number) DO UPDATE SET is_active = TRUE",
);

const FORGET: Sql = Sql::both("DELETE FROM sealing_keys WHERE number = $1");

const ANY_USER: Sql = Sql::both("SELECT EXISTS (SELECT 1 FROM users)");

/// Counts users by the number of the key that their API keys are sealed with.
const USES: Sql =
    Sql::both("SELECT sealing_key, count(*) FROM users WHERE NOT is_deleted GROUP BY sealing_key");

/// Selects API keys that are not sealed with this key or a newer one, in the form that [`KeyRing::read`] takes.
const NEXT: Sql = Sql::both(
    "
    SELECT id, CASE WHEN api_key <> '' THEN api_key ELSE concat(sealing_key, ':', sealed_api_key) END
    FROM users WHERE sealing_key < $1 AND NOT is_deleted ORDER BY sealing_key, id LIMIT $2",
);

const BEGIN: Sql = Sql::pair("BEGIN IMMEDIATE", "BEGIN ISOLATION LEVEL SERIALIZABLE");

const COMMIT: Sql = Sql::both("COMMIT");

/// Maximum API keys that one transaction seals.
const STEP: i64 = 128;

/// A key of the key file, as a database records it.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Registered {
    pub(crate) number: i64,
    pub(crate) fingerprint: String,
    pub(crate) is_active: bool,
}

/// The state of the sealed API keys of a database.
#[derive(Clone, Debug)]
pub(crate) struct Sealing {
    pub(crate) registered: Vec<Registered>,
    /// Number of users by the number of the key, 0 for those whose key is in clear.
    uses: HashMap<i64, i64>,
}

impl Sealing {
    /// Returns the number of the key that new API keys are sealed with; 0 while they are stored in clear.
    pub(crate) fn current(&self) -> i64 {
        let active = self.registered.iter().filter(|key| key.is_active);
        active.map(|key| key.number).max().unwrap_or(IN_CLEAR)
    }

    /// Whether an API key is sealed with an older key than the current one.
    pub(crate) fn is_unfinished(&self) -> bool {
        let current = self.current();
        self.uses.keys().any(|number| *number < current)
    }

    /// Returns how many users have an API key that is sealed with this key; 0 stands for clear ones.
    pub(crate) fn users(&self, number: i64) -> i64 {
        self.uses.get(&number).copied().unwrap_or_default()
    }
}

/// Opens the key file of a database, and makes it if the database has none yet. Refuses the file of another database.
///
/// Seals what is in clear, if no node of an earlier version can be running: on a file, and where there are no users yet.
/// A file is then rewritten, so that no clear key is left in its free space. `owner` is the owner of the database, and
/// `failed` names the database in an error.
///
/// Returns the keys, and whether anything was written.
pub(super) async fn prepare(
    connection: &mut Connection,
    file: &KeyFile,
    owner: Option<Metadata>,
    failed: &(impl Fn(sqlx::Error) -> OpenError + Sync),
) -> Result<(Arc<KeyRing>, bool), OpenError> {
    let mut registered = registered(connection).await.map_err(failed)?;
    let is_new = registered.is_empty();
    let keys = open(file, owner.as_ref(), &registered)?;
    if is_new {
        register(connection, &keys).await.map_err(failed)?;
        // Another process may have registered another key.
        registered = self::registered(connection).await.map_err(failed)?;
    }
    for Registered { number, fingerprint, .. } in &registered {
        keys.check(*number, fingerprint)?;
    }
    let is_sealing = registered.iter().any(|key| key.is_active);
    let newest = registered.last().filter(|_| !is_sealing);
    let has_begun = match newest {
        Some(newest) => begin_sealing(connection, &keys, newest, failed).await?,
        None => false,
    };
    let current = connection.query(CURRENT).value().await.map_err(failed)?;
    keys.enter(current);
    Ok((keys, is_new || has_begun))
}

/// Opens the key file of a database for `copy`, which brings the rows of `registered` along. Where the database of the
/// copy has no key file yet, it gets one with the keys of `original`.
pub(super) fn adopt(
    file: &KeyFile,
    original: Option<&KeyFile>,
    owner: Option<&Metadata>,
    registered: &[Registered],
) -> Result<(), KeyFileError> {
    if registered.is_empty() {
        return Ok(());
    }
    let original = match file.read()? {
        Some(_) => None,
        None => original.map(KeyFile::read).transpose()?.flatten(),
    };
    let keys = match &original {
        Some(secrets) => Arc::new(KeyRing::new(file.clone(), secrets)),
        None => open(file, owner, registered)?,
    };
    registered.iter().try_for_each(|key| keys.check(key.number, &key.fingerprint))?;
    original.map_or(Ok(()), |secrets| file.make(&secrets, owner).map(drop))
}

/// Reads the key file. Makes it only if no key of it is registered: a new key opens nothing.
fn open(
    file: &KeyFile,
    owner: Option<&Metadata>,
    registered: &[Registered],
) -> Result<Arc<KeyRing>, KeyFileError> {
    let secrets = match read(file, registered)? {
        Some(secrets) => secrets,
        None => file.make(&Secrets::from([(1, Secret::generate())]), owner)?,
    };
    Ok(Arc::new(KeyRing::new(file.clone(), &secrets)))
}

/// Reads the key file. `None` if there is none, and no key of it is registered.
fn read(file: &KeyFile, registered: &[Registered]) -> Result<Option<Secrets>, KeyFileError> {
    match (file.read()?, registered.last()) {
        (None, Some(Registered { number, fingerprint, .. })) => {
            let (path, fingerprint) = (file.path().to_owned(), fingerprint.clone());
            Err(KeyFileError::Missing { path, number: *number, fingerprint })
        }
        (secrets, _) => Ok(secrets),
    }
}

/// Compares the key file with the keys that a database records, and changes nothing. Returns the number and the
/// fingerprint of each key in the file; `None` if there is no file, and the database needs none yet.
///
/// # Errors
///
/// [`KeyFileError`] where the server would refuse the file, or miss it.
pub(crate) fn look_at_keys(
    file: &KeyFile,
    registered: &[Registered],
) -> Result<Option<Vec<(i64, String)>>, KeyFileError> {
    let Some(secrets) = read(file, registered)? else { return Ok(None) };
    let keys = KeyRing::new(file.clone(), &secrets);
    registered.iter().try_for_each(|key| keys.check(key.number, &key.fingerprint))?;
    Ok(Some(keys.fingerprints()))
}

/// Registers the newest key of the file.
async fn register(connection: &mut Connection, keys: &KeyRing) -> Result<(), sqlx::Error> {
    let (number, fingerprint) = keys.newest();
    let register = connection.query(REGISTER).bind(number).bind(fingerprint.as_str());
    register.execute().await.map(drop)
}

async fn registered(connection: &mut Connection) -> Result<Vec<Registered>, sqlx::Error> {
    connection.query(REGISTERED).all().await
}

/// Seals all API keys and activates the key, if no node of an earlier version can be running. Returns whether it did.
async fn begin_sealing(
    connection: &mut Connection,
    keys: &KeyRing,
    key: &Registered,
    failed: &(impl Fn(sqlx::Error) -> OpenError + Sync),
) -> Result<bool, OpenError> {
    let has_users: bool = connection.query(ANY_USER).value().await.map_err(failed)?;
    if has_users {
        if matches!(connection, Connection::Postgres(_)) {
            tracing::warn!(
                "API keys are stored in clear, because nodes of an earlier version can't read sealed ones: run `chatserver \
                 keys rotate` once all nodes have this version"
            );
            return Ok(false);
        }
        tracing::info!("sealing the API keys, and rewriting the database without clear ones");
        let mut sealed = 0;
        loop {
            connection.query(BEGIN).execute().await.map_err(failed)?;
            let step = seal_step(connection, keys, key.number).await;
            // After a failure the connection is closed, which rolls back.
            let step = step.map_err(|source| OpenError::Unsealed { source })?;
            connection.query(COMMIT).execute().await.map_err(failed)?;
            sealed += step;
            if step == 0 {
                break;
            }
        }
        sweep(connection.sqlite()).await.map_err(failed)?;
        tracing::info!(api_keys = sealed, "API keys sealed");
    }
    let activate = connection.query(ACTIVATE).bind(key.number).bind(key.fingerprint.as_str());
    activate.execute().await.map_err(failed)?;
    Ok(true)
}

/// Seals up to [`STEP`] API keys that are not sealed with this key. Returns their number. Runs in a transaction.
async fn seal_step(
    connection: &mut Connection,
    keys: &KeyRing,
    number: i64,
) -> Result<usize, Error> {
    let next = connection.query(NEXT).bind(number).bind(STEP).all().await;
    let next: Vec<(String, String)> = next.doing("reading API keys to seal")?;
    for (id, key) in &next {
        let user: UserId = stored(id)?;
        let key = keys.store(number, user, &keys.read(user, key)?)?;
        let set = api_keys::set(connection, user, &key).await;
        set.doing("sealing an API key")?;
    }
    Ok(next.len())
}

/// Registers a key and makes it the one that API keys are sealed with from now on.
struct Activate {
    number: i64,
    fingerprint: String,
}

impl WriteOp for Activate {
    type Output = ();
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError<Infallible>> {
        let activate = tx.query(ACTIVATE).await?.bind(self.number).bind(self.fingerprint.as_str());
        activate.execute().await.doing("activating a sealing key")?;
        let details = format!("key {}", self.number);
        let event = Event::default().with_details(&details);
        audit::record(tx, Action::SealingKeyActivated, event).await?;
        Ok(())
    }
}

/// Seals a few API keys with the current key.
struct SealStep;

impl WriteOp for SealStep {
    /// Number of API keys that were sealed.
    type Output = usize;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<usize, WriteError<Infallible>> {
        let current = tx.query(CURRENT).await?.value().await;
        let current: i64 = current.doing("reading the number of the sealing key")?;
        let keys = tx.shared_keys();
        Ok(seal_step(tx.connection().await?, &keys, current).await?)
    }
}

/// Forgets a key that seals nothing.
struct Forget(i64);

/// Why a key is still needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StillNeeded {
    /// New API keys are sealed with it.
    IsCurrent,
    /// The API keys of this many users are sealed with it.
    By(i64),
}

impl WriteOp for Forget {
    /// Whether the key was registered.
    type Output = bool;
    type Refusal = StillNeeded;

    async fn apply(&self, tx: &mut WriteTx) -> Result<bool, WriteError<StillNeeded>> {
        let sealing = sealing(tx.connection().await?).await?;
        let newest = sealing.registered.last().is_some_and(|key| key.number == self.0);
        if newest || sealing.current() == self.0 {
            return Err(WriteError::Refused(StillNeeded::IsCurrent));
        }
        match sealing.users(self.0) {
            0 => {}
            users => return Err(WriteError::Refused(StillNeeded::By(users))),
        }
        let forget = tx.query(FORGET).await?.bind(self.0);
        let forgotten = forget.execute().await.doing("forgetting a sealing key")? > 0;
        if forgotten {
            let details = format!("key {}", self.0);
            let event = Event::default().with_details(&details);
            audit::record(tx, Action::SealingKeyDropped, event).await?;
        }
        Ok(forgotten)
    }
}

async fn sealing(connection: &mut Connection) -> Result<Sealing, Error> {
    let registered = registered(connection).await.doing("reading the sealing keys")?;
    let uses: Result<Vec<(i64, i64)>, _> = connection.query(USES).all().await;
    let uses = uses.doing("counting the uses of sealing keys")?.into_iter().collect();
    Ok(Sealing { registered, uses })
}

impl Store {
    /// Returns the keys of the key file.
    pub(crate) fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// Returns how the API keys are sealed.
    pub(crate) async fn sealing(&self) -> Result<Sealing, Error> {
        sealing(&mut *self.reader().await?).await
    }

    /// Seals new API keys with this key of the key file from now on.
    pub(crate) async fn activate_key(&self, number: i64, fingerprint: &str) -> Result<(), Error> {
        Ok(self.write(Activate { number, fingerprint: fingerprint.to_owned() }).await?)
    }

    /// Seals a few API keys that are not sealed with the current key. Returns their number.
    pub(crate) async fn seal_step(&self) -> Result<usize, Error> {
        Ok(self.write(SealStep).await?)
    }

    /// Forgets a key that seals nothing. Returns whether it was registered.
    pub(crate) async fn forget_key(&self, number: i64) -> Result<bool, WriteError<StillNeeded>> {
        self.write(Forget(number)).await
    }

    /// Removes what the sealing has left of clear keys, as far as that goes beside requests. A file overwrites it at once.
    pub(crate) async fn remove_clear_keys(&self) -> Result<(), OpenError> {
        match &self.engine {
            Engine::Sqlite(_) => {
                self.truncate_log();
                Ok(())
            }
            Engine::Postgres(server) => postgres::connect::vacuum_users(server.url()).await,
        }
    }
}
