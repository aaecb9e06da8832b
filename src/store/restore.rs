//! Restoring a backup: into a new epoch, in the place of the database, while nobody has that open.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tempfile::TempPath;

use super::backup::{
    BackupError, beside, file_error, flush, flush_name, open_alone, verify_backup,
};
use super::error::is_busy;
use super::{DatabaseFile, Epoch, OpenError, Schema, ServerLock, schema};
use crate::clock::Timestamp;
use crate::id::Parse as _;

const ACCOUNTS: &str = "SELECT id, email, is_disabled, api_key_digest FROM users ORDER BY email";

/// Succeeds only for the one connection to a database, moves the whole log into it and removes the log.
const END_LOG: &str = "PRAGMA journal_mode = DELETE";

/// How long to wait for another program to close the database.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a restore has done.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The path of the database.
    pub path: String,
    /// The epoch that has begun.
    pub epoch: Epoch,
    /// What the replaced database knew of accounts; `None` where there was none.
    pub since: Option<Since>,
}

/// What had become of accounts since the backup, which the restore has undone. E-mail addresses.
#[derive(Clone, Debug, Default)]
pub struct Since {
    /// Accounts that were disabled. They are enabled again.
    pub disabled: Vec<String>,
    /// Accounts with a new API key. The old one is valid again.
    pub rotated: Vec<String>,
    /// Accounts that are no longer there.
    pub added: Vec<String>,
    /// Why the replaced database can't tell, where it can't.
    pub unreadable: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Account {
    id: String,
    email: String,
    is_disabled: bool,
    api_key_digest: String,
}

/// Puts a copy of a backup in the place of the database at `url`, brought up to date, and begins a new epoch in it.
///
/// # Errors
///
/// [`BackupError`]; then the database is as it was.
pub async fn restore(
    url: &str,
    backup: &Path,
    force: bool,
    now: Timestamp,
) -> Result<Restored, BackupError> {
    let database =
        DatabaseFile::parse(url).ok_or_else(|| OpenError::Url { url: url.to_owned() })?;
    verify_backup(backup).await?;
    let _lock = ServerLock::acquire(url, "restore").await?;
    let is_there = database.look()?.is_some();
    if is_there && !force {
        return Err(BackupError::Replaces { path: database.absolute() });
    }
    // The file itself, where a link leads to it.
    let path = fs::canonicalize(database.path()).or_else(|_| std::path::absolute(database.path()));
    let path = path.map_err(|source| file_error(database.path(), "found", source))?;
    let since = if is_there { Some(compare(&database, backup).await?) } else { None };
    let copy = copy_beside(backup, &path)?;
    let epoch = begin_epoch(&copy, now).await?;
    flush(&copy).await?;
    // All of the old log is in the old file by now, unless that can't be read. A log that outlived its database would be
    // taken for a part of the new one.
    for suffix in ["-wal", "-shm", "-journal"] {
        remove(&beside(&path, suffix))?;
    }
    copy.persist(&path).map_err(|error| file_error(&path, "replaced", error.error))?;
    flush_name(&path)?;
    Ok(Restored { path: path.display().to_string(), epoch, since })
}

/// Compares the accounts of the database with those of the backup, and leaves the database without a log.
async fn compare(database: &DatabaseFile, backup: &Path) -> Result<Since, BackupError> {
    let old = match accounts_of_old(database).await {
        Ok(old) => old,
        Err(error) if is_busy(&error) => {
            return Err(BackupError::OpenElsewhere { path: database.absolute() });
        }
        Err(error) => {
            return Ok(Since { unreadable: Some(error.to_string()), ..Since::default() });
        }
    };
    let failed =
        |source| BackupError::Database { doing: "reading the accounts of the backup", source };
    let mut connection = open_alone(backup).await.map_err(failed)?;
    let restored = accounts(&mut connection).await.map_err(failed)?;
    connection.close().await.map_err(failed)?;
    let restored: HashMap<_, _> =
        restored.into_iter().map(|account| (account.id.clone(), account)).collect();
    let mut since = Since::default();
    for account in old {
        let Some(before) = restored.get(&account.id) else {
            since.added.push(account.email);
            continue;
        };
        if account.is_disabled && !before.is_disabled {
            since.disabled.push(account.email.clone());
        }
        if account.api_key_digest != before.api_key_digest {
            since.rotated.push(account.email);
        }
    }
    Ok(since)
}

async fn accounts_of_old(database: &DatabaseFile) -> Result<Vec<Account>, sqlx::Error> {
    let mut old = database.options_plainly().busy_timeout(PATIENCE).connect().await?;
    let read = accounts(&mut old).await;
    let mode: Result<String, _> = sqlx::query_scalar(END_LOG).fetch_one(&mut old).await;
    old.close().await?;
    mode?;
    read
}

async fn accounts(on: &mut SqliteConnection) -> Result<Vec<Account>, sqlx::Error> {
    sqlx::query_as(ACCOUNTS).fetch_all(on).await
}

/// A copy in the folder of the database, so that it can take its name in one step. Readable for its owner alone.
fn copy_beside(backup: &Path, database: &Path) -> Result<TempPath, BackupError> {
    let folder = database.parent().unwrap_or(Path::new("/"));
    let created = tempfile::Builder::new().prefix(".restoring-").suffix(".db").tempfile_in(folder);
    let mut copy = created.map_err(|source| file_error(folder, "written", source))?;
    let mut original = File::open(backup).map_err(|source| file_error(backup, "read", source))?;
    let copied = io::copy(&mut original, copy.as_file_mut());
    copied.map_err(|source| file_error(copy.path(), "written", source))?;
    Ok(copy.into_temp_path())
}

async fn begin_epoch(copy: &Path, now: Timestamp) -> Result<Epoch, BackupError> {
    let database = DatabaseFile::at(copy);
    schema::prepare(&database, Schema::Migrate).await?;
    let mut connection = database.connect_plainly().await?;
    let failed = |source| BackupError::Database { doing: "beginning a new epoch", source };
    let epoch = Epoch::begin(&mut connection, now).await.map_err(failed)?;
    let _: String = sqlx::query_scalar(END_LOG).fetch_one(&mut connection).await.map_err(failed)?;
    connection.close().await.map_err(failed)?;
    Ok(epoch)
}

fn remove(path: &Path) -> Result<(), BackupError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(file_error(path, "removed", error))
        }
        _ => Ok(()),
    }
}
