//! Restores a backup in place of the database, as a new epoch, while no process has the database open.

use std::collections::HashMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use super::backup::{
    BackupError, beside, file_error, flush, flush_name, folder_beside, off_thread, open_alone,
    verify_backup,
};
use super::codes::is_busy;
use super::file::give;
use super::schema;
use super::wal::END_LOG;
use crate::clock::Clock;
use crate::domain::{ApiKey, Parse as _, UserId};
use crate::key_file::KeyFile;
use crate::sealing::KeyRing;
use crate::store::sql::Connection;
use crate::store::{DatabaseFile, Epoch, OpenError, Schema, ServerLock, sealing};

/// Selects accounts with their API keys in the form that [`KeyRing::read`] takes.
const ACCOUNTS: &str = "
    SELECT id, email, is_disabled,
           CASE WHEN api_key <> '' THEN api_key ELSE concat(sealing_key, ':', sealed_api_key) END AS api_key
    FROM users WHERE email <> '' ORDER BY email";

/// The same, in a database of a version that did not seal API keys.
const ACCOUNTS_IN_CLEAR: &str =
    "SELECT id, email, is_disabled, api_key FROM users WHERE email <> '' ORDER BY email";

const EPOCH: &str = "SELECT id FROM epoch";

/// The number of the newest entry of the audit log.
const NEWEST_ENTRY: &str = "SELECT coalesce(max(number), 0) FROM audit";

/// Entries that follow this one, about changes that an account does not show.
const UNDONE: &str = "
    SELECT concat_ws(' ', a.action, s.email, o.email, nullif(a.email, ''), c.id)
    FROM audit a
    LEFT JOIN users s ON s.number = a.subject_number
    LEFT JOIN users o ON o.number = a.other_number
    LEFT JOIN conversations c ON c.number = a.conversation_number
    WHERE a.number > $1 AND a.action IN ('invitation_revoked', 'friendship_ended', 'retention_set')
    ORDER BY a.number LIMIT 1000";

const SEALS: &str =
    "SELECT EXISTS (SELECT 1 FROM pragma_table_info('users') WHERE name = 'sealing_key')";

/// Bytes of the backup copied per step. The restore can be cancelled between steps.
const STEP: u64 = 8 * 1024 * 1024;

#[derive(Clone, Debug)]
pub(crate) struct Restored {
    pub(crate) path: String,
    pub(crate) epoch: Epoch,
    /// Account changes since the backup that the restore undid; `None` if there was no database to replace.
    pub(crate) since: Option<UndoneChanges>,
}

/// Account changes since the backup, which the restore undid. Accounts are listed by e-mail address.
#[derive(Clone, Debug, Default)]
pub(crate) struct UndoneChanges {
    /// Accounts disabled since the backup. They are enabled again.
    pub(crate) disabled: Vec<String>,
    /// Accounts whose API key was replaced. The old key is valid again.
    pub(crate) rotated: Vec<String>,
    /// Accounts added since the backup. They no longer exist.
    pub(crate) added: Vec<String>,
    /// Accounts deleted since the backup. They are back.
    pub(crate) deleted: Vec<String>,
    /// Accounts that the replaced database did not have, where nothing shows that it came after the backup. It may have been
    /// an older one, or a new one.
    pub(crate) missing: Vec<String>,
    /// Invitations revoked, friendships ended and rules of retention set since the backup, from the audit log: the action,
    /// and the addresses or the id of the conversation.
    pub(crate) undone: Vec<String>,
    /// Why the replaced database could not be compared, if so.
    pub(crate) unreadable: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Account {
    id: String,
    email: String,
    is_disabled: bool,
    api_key: String,
}

impl Account {
    /// Returns the API key; `None` if the key file does not open it.
    fn api_key(&self, keys: &KeyRing) -> Option<ApiKey> {
        keys.read(UserId::parse(&self.id)?, &self.api_key).ok()
    }
}

/// Replaces the database at `url` with a copy of a backup, migrates the copy and begins a new epoch in it. Slow and
/// fallible steps run on the copy first, so a cancelled restore leaves nothing behind. The database keeps its content
/// until the final replacement of its files.
pub(crate) async fn restore(
    url: &str,
    key_file: &KeyFile,
    backup: &Path,
    force: bool,
    clock: &Clock,
) -> Result<Restored, BackupError> {
    let database =
        DatabaseFile::parse(url).ok_or_else(|| OpenError::Url { url: url.to_owned() })?;
    verify_backup(backup).await?;
    let _lock = ServerLock::acquire(url, "restore").await?;
    let is_there = database.look()?.is_some();
    if is_there && !force {
        return Err(BackupError::Replaces { path: database.absolute() });
    }
    // Resolves a link, so that the file itself is replaced.
    let path = fs::canonicalize(database.path()).or_else(|_| std::path::absolute(database.path()));
    let path = path.map_err(|source| file_error(database.path(), "found", source))?;
    let folder = folder_beside(&path, ".restoring-");
    let folder = folder.map_err(|source| file_error(&path, "replaced", source))?;
    let owner = database.owner();
    let copy = copy_into(folder.path(), backup, owner.as_ref()).await?;
    let before = Beginning::of(&copy).await;
    let (epoch, keys) = begin_epoch(&copy, key_file, owner, clock).await?;
    flush(&copy).await?;
    let since =
        if is_there { Some(compare(&database, &copy, &keys, &before).await?) } else { None };
    replace(&path, &copy)?;
    Ok(Restored { path: path.display().to_string(), epoch, since })
}

/// Renames the copy to the database's name. The whole old log is in the old file by now, unless it can't be read.
/// Removes the old log first, because SQLite would take a log that outlived its database for part of the new one.
fn replace(database: &Path, copy: &Path) -> Result<(), BackupError> {
    for suffix in ["-wal", "-shm", "-journal"] {
        remove(&beside(database, suffix))?;
    }
    fs::rename(copy, database).map_err(|source| file_error(database, "replaced", source))?;
    flush_name(database)
}

/// Marks of a backup, by which a database that came after it is known.
struct Beginning {
    /// `None` in a backup of a version without epochs.
    epoch: Option<String>,
    newest_entry: Option<i64>,
}

impl Beginning {
    async fn of(copy: &Path) -> Self {
        let Ok(mut connection) = open_alone(copy).await else {
            return Self { epoch: None, newest_entry: None };
        };
        let epoch = sqlx::query_scalar(EPOCH).fetch_one(&mut connection).await.ok();
        let newest_entry = sqlx::query_scalar(NEWEST_ENTRY).fetch_one(&mut connection).await.ok();
        // A copy that can't be closed fails at the next opening.
        drop(connection.close().await);
        Self { epoch, newest_entry }
    }
}

/// Compares the database's accounts with those of the restored copy, and leaves the database without a log.
async fn compare(
    database: &DatabaseFile,
    copy: &Path,
    keys: &KeyRing,
    before: &Beginning,
) -> Result<UndoneChanges, BackupError> {
    let old = match read_old(database, before).await {
        Ok(old) => old,
        Err(error) if is_busy(&error) => {
            return Err(database.failed_exclusive(error).into());
        }
        Err(error) => {
            return Ok(UndoneChanges {
                unreadable: Some(error.to_string()),
                ..UndoneChanges::default()
            });
        }
    };
    let Old { accounts: old, came_after, undone } = old;
    let failed =
        |source| BackupError::Database { doing: "reading the accounts of the backup", source };
    let mut connection = open_alone(copy).await.map_err(failed)?;
    let restored = accounts(&mut connection).await.map_err(failed)?;
    connection.close().await.map_err(failed)?;
    let mut restored: HashMap<_, _> =
        restored.into_iter().map(|account| (account.id.clone(), account)).collect();
    let mut since = UndoneChanges { undone, ..UndoneChanges::default() };
    for account in old {
        let Some(before) = restored.remove(&account.id) else {
            since.added.push(account.email);
            continue;
        };
        if account.is_disabled && !before.is_disabled {
            since.disabled.push(account.email.clone());
        }
        // A key that the key file does not open counts as replaced.
        let api_key = account.api_key(keys);
        if api_key.is_none() || api_key != before.api_key(keys) {
            since.rotated.push(account.email);
        }
    }
    let mut gone: Vec<_> = restored.into_values().map(|account| account.email).collect();
    gone.sort();
    *if came_after { &mut since.deleted } else { &mut since.missing } = gone;
    Ok(since)
}

/// Facts about the replaced database.
struct Old {
    accounts: Vec<Account>,
    /// Whether it came after the backup: a database of the same epoch.
    came_after: bool,
    undone: Vec<String>,
}

async fn read_old(database: &DatabaseFile, before: &Beginning) -> Result<Old, sqlx::Error> {
    let mut old = database.options_exclusive().connect().await?;
    let read = facts_of_old(&mut old, before).await;
    let mode: Result<String, _> = sqlx::query_scalar(END_LOG).fetch_one(&mut old).await;
    old.close().await?;
    mode?;
    read
}

async fn facts_of_old(old: &mut SqliteConnection, before: &Beginning) -> Result<Old, sqlx::Error> {
    let accounts = accounts(old).await?;
    // An older version has no epoch, and no audit log.
    let epoch: Option<String> = sqlx::query_scalar(EPOCH).fetch_one(&mut *old).await.ok();
    let came_after = epoch.is_some() && epoch == before.epoch;
    let undone = match before.newest_entry.filter(|_| came_after) {
        Some(newest) => sqlx::query_scalar(UNDONE).bind(newest).fetch_all(old).await?,
        None => Vec::new(),
    };
    Ok(Old { accounts, came_after, undone })
}

async fn accounts(connection: &mut SqliteConnection) -> Result<Vec<Account>, sqlx::Error> {
    let seals: bool = sqlx::query_scalar(SEALS).fetch_one(&mut *connection).await?;
    let accounts = if seals { ACCOUNTS } else { ACCOUNTS_IN_CLEAR };
    sqlx::query_as(accounts).fetch_all(connection).await
}

/// Copies the backup into this folder, readable only for the database's owner. On cancellation the copy stops after the
/// current step.
async fn copy_into(
    folder: &Path,
    backup: &Path,
    owner: Option<&Metadata>,
) -> Result<PathBuf, BackupError> {
    let copy = folder.join("restored.db");
    let original = File::open(backup).map_err(|source| file_error(backup, "read", source))?;
    let written = |source| file_error(&copy, "written", source);
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&copy);
    let (original, file) = (Arc::new(original), Arc::new(created.map_err(written)?));
    give(&file, owner);
    loop {
        let (from, to) = (Arc::clone(&original), Arc::clone(&file));
        // The kernel copies between the files directly, without passing through this process.
        let step = move || io::copy(&mut (&*from).take(STEP), &mut &*to);
        if off_thread(step).await.map_err(written)? == 0 {
            return Ok(copy);
        }
    }
}

/// Migrates the copy, seals its API keys, and begins a new epoch in it.
async fn begin_epoch(
    copy: &Path,
    key_file: &KeyFile,
    owner: Option<Metadata>,
    clock: &Clock,
) -> Result<(Epoch, Arc<KeyRing>), BackupError> {
    let database = DatabaseFile::at(copy);
    schema::prepare(&database, Schema::Migrate).await?;
    let mut connection = Connection::Sqlite(database.connect_unconfigured().await?);
    let failed = |source| BackupError::Database { doing: "beginning a new epoch", source };
    let refused = |source| database.failed(source);
    let (keys, _) = sealing::prepare(&mut connection, key_file, owner, &refused).await?;
    let epoch = Epoch::begin(&mut connection, clock.now()).await.map_err(failed)?;
    let end = sqlx::query_scalar(END_LOG).fetch_one(connection.sqlite()).await;
    let _: String = end.map_err(failed)?;
    connection.close().await.map_err(failed)?;
    Ok((epoch, keys))
}

fn remove(path: &Path) -> Result<(), BackupError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(file_error(path, "removed", error))
        }
        _ => Ok(()),
    }
}
