//! The schema of the database: the migrations that are built in, and what the database has of them.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::time::Duration;

use sqlx::migrate::{AppliedMigration, Migrate as _, MigrateError, Migrator};
use sqlx::{Connection as _, SqliteConnection};
use tokio::time::{Instant, sleep};

use super::error::is_of_damage;
use super::invariants::contradiction;
use super::wal::execute;
use super::{DatabaseFile, OpenError, ServerLock, message_ids};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// The table in which the migrator keeps what was applied.
const APPLIED: &str = "_sqlx_migrations";

/// The number of migrations with which hashes of the IDs of messages came. They are listed after all migrations, so one
/// that needs them, or moves what they are made of, has to be run after that.
const HASHES: usize = 4;

/// How often to log that a step goes on.
const LOG_EVERY: Duration = Duration::from_secs(2);

/// What to do where there is no database, and with one whose schema is not the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// Create it, and bring it up to date.
    Migrate,
    /// Create it, but refuse an older one: another program may be working with it.
    CurrentOrNew,
    /// Refuse both.
    MustBeCurrent,
}

impl Schema {
    /// Whether a database is created where there is none.
    pub(super) fn creates(self) -> bool {
        self != Self::MustBeCurrent
    }
}

/// What a database has of the migrations.
#[derive(PartialEq)]
pub(super) enum Found {
    Empty,
    Current,
    Older(usize),
    Unknown,
}

/// A database that was looked at and is not a mixture, as far as that can be seen.
pub(super) struct Looked {
    /// The connection that has looked. It writes nothing.
    pub(super) connection: Guarded,
    pub(super) found: Found,
    /// It has the log of a process that has ended, which may be another database's.
    may_be_mixed: bool,
}

/// Looks at a database and changes neither its file nor its log.
///
/// # Errors
///
/// [`OpenError::Mixed`] where the two don't belong together.
pub(super) async fn look_closely(file: &DatabaseFile) -> Result<Looked, OpenError> {
    let failed = |source| file.failed(source);
    // The snapshot of a server that runs is always whole.
    let may_be_mixed = file.has_log() && !is_served(file);
    let mut connection = Guarded::new(file.connect_to_look().await?, may_be_mixed);
    let found = look(&mut connection).await;
    if may_be_mixed && let Some(found) = mixture(&mut connection, &found).await.map_err(failed)? {
        return Err(mixed(file, found));
    }
    Ok(Looked { connection, found: found.map_err(failed)?, may_be_mixed })
}

/// Leaves the database with the newest schema, or says why it can't. Returns whether it has changed the schema.
pub(super) async fn prepare(file: &DatabaseFile, schema: Schema) -> Result<bool, OpenError> {
    let failed = |source| file.failed(source);
    let Looked { connection, found, may_be_mixed } = look_closely(file).await?;
    refuse(file, &found, schema)?;
    if found == Found::Current {
        connection.close().await.map_err(failed)?;
        return Ok(false);
    }
    // While it is open, no connection of this process that writes is the last to be closed.
    let looking = if may_be_mixed {
        Some(connection)
    } else {
        connection.close().await.map_err(failed)?;
        None
    };
    let writer = match found {
        Found::Empty => file.connect_first().await?,
        _ => file.connect_writer().await?,
    };
    let mut writer = Guarded::new(writer, may_be_mixed);
    bring_up_to_date(file, schema, &mut writer, may_be_mixed).await?;
    writer.close().await.map_err(failed)?;
    if let Some(looking) = looking {
        looking.close().await.map_err(failed)?;
    }
    Ok(true)
}

/// Makes the schema or migrates it, in one transaction.
async fn bring_up_to_date(
    file: &DatabaseFile,
    schema: Schema,
    writer: &mut SqliteConnection,
    may_be_mixed: bool,
) -> Result<(), OpenError> {
    let failed = |source| file.failed(source);
    // Another process may be doing the same: the second waits here and then finds it done.
    let transaction = writer.begin_with("BEGIN IMMEDIATE");
    let begun =
        logged("waiting for another process that writes to the database", transaction).await;
    let mut transaction = begun.map_err(failed)?;
    let found = look(&mut transaction).await.map_err(failed)?;
    refuse(file, &found, schema)?;
    if let Found::Older(applied) = found {
        migrate(file, &mut transaction, applied).await?;
        // Again, as the older schema may not have had what all checks read.
        if may_be_mixed
            && let Some(found) = contradiction(&mut transaction, false).await.map_err(failed)?
        {
            transaction.rollback().await.map_err(failed)?;
            return Err(mixed(file, found));
        }
    } else {
        run(file, &mut transaction, None).await?;
        // What the migrations have made and removed again leaves free pages.
        execute(&mut transaction, "PRAGMA incremental_vacuum").await.map_err(failed)?;
    }
    logged("committing the migrations", transaction.commit()).await.map_err(failed)
}

/// Whether another process keeps the database to itself, or serves it.
fn is_served(file: &DatabaseFile) -> bool {
    matches!(ServerLock::holder_of(file), Ok(Some(holder)) if !holder.is_this_process())
}

fn mixed(file: &DatabaseFile, found: String) -> OpenError {
    OpenError::Mixed { path: file.path().display().to_string(), found }
}

/// What shows that a database and its log don't belong together, if anything does.
async fn mixture(
    looking: &mut SqliteConnection,
    found: &Result<Found, sqlx::Error>,
) -> Result<Option<String>, sqlx::Error> {
    match found {
        Ok(Found::Current) => contradiction(looking, false).await,
        Ok(Found::Older(_)) => contradiction(looking, true).await,
        Err(error) if is_of_damage(error) => Ok(Some(error.to_string())),
        _ => Ok(None),
    }
}

/// A connection to a database whose log may be another's. SQLite moves the log into the database and removes it when the
/// last connection is closed, so this one stays open until the process ends, unless it is closed on purpose.
pub(super) enum Guarded {
    /// Dropping it does not close it.
    StaysOpen(ManuallyDrop<SqliteConnection>),
    /// The database is not in doubt.
    Closes(SqliteConnection),
}

impl Guarded {
    fn new(connection: SqliteConnection, may_be_mixed: bool) -> Self {
        if may_be_mixed {
            Self::StaysOpen(ManuallyDrop::new(connection))
        } else {
            Self::Closes(connection)
        }
    }

    /// Closes it, once its database was found to be whole.
    pub(super) async fn close(self) -> Result<(), sqlx::Error> {
        match self {
            Self::StaysOpen(connection) => ManuallyDrop::into_inner(connection).close().await,
            Self::Closes(connection) => connection.close().await,
        }
    }
}

impl Deref for Guarded {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        match self {
            Self::StaysOpen(connection) => connection,
            Self::Closes(connection) => connection,
        }
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        match self {
            Self::StaysOpen(connection) => connection,
            Self::Closes(connection) => connection,
        }
    }
}

/// Runs the migrations that come after the first few, and says in the log how far it is.
async fn migrate(
    file: &DatabaseFile,
    transaction: &mut SqliteConnection,
    applied: usize,
) -> Result<(), OpenError> {
    let (path, migrations) = (file.path().display(), MIGRATIONS.iter().count());
    tracing::info!(%path, applied, migrations, "migrating the database: it keeps its schema until all is done");
    for (number, migration) in (1..).zip(MIGRATIONS.iter()).skip(applied) {
        let name = &migration.description;
        tracing::info!(migration = number, migrations, %name, "running a migration");
        let run = run(file, transaction, Some(migration.version));
        logged(&format!("migration {number} of {migrations} is running"), run).await?;
    }
    if applied < HASHES {
        let list = message_ids::list_all(transaction);
        logged("listing the IDs of messages", list).await.map_err(|source| file.failed(source))?;
    }
    Ok(())
}

/// Runs migrations up to a version, or all.
async fn run(
    file: &DatabaseFile,
    transaction: &mut SqliteConnection,
    up_to: Option<i64>,
) -> Result<(), OpenError> {
    let failed = |source| OpenError::Migrate { path: file.path().display().to_string(), source };
    MIGRATIONS.run_direct(up_to, transaction, false).await.map_err(failed)
}

/// Logs every few seconds that a step goes on.
async fn logged<T>(step: &str, work: impl Future<Output = T>) -> T {
    let (since, mut work) = (Instant::now(), pin!(work));
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = sleep(LOG_EVERY) => tracing::info!(seconds = since.elapsed().as_secs(), "{step}"),
        }
    }
}

fn refuse(file: &DatabaseFile, found: &Found, schema: Schema) -> Result<(), OpenError> {
    let path = file.path().display().to_string();
    match (found, schema) {
        (Found::Unknown, _) => Err(OpenError::UnknownSchema { path }),
        (Found::Empty, Schema::MustBeCurrent) => Err(file.missing()),
        (Found::Older(found), Schema::MustBeCurrent | Schema::CurrentOrNew) => {
            Err(OpenError::OlderSchema { path, found: *found, known: MIGRATIONS.iter().count() })
        }
        _ => Ok(()),
    }
}

pub(super) async fn look(connection: &mut SqliteConnection) -> Result<Found, sqlx::Error> {
    let tables: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_schema ORDER BY name")
        .fetch_all(&mut *connection)
        .await?;
    if tables.is_empty() {
        return Ok(Found::Empty);
    }
    if !tables.iter().any(|table| table == APPLIED) {
        return Ok(Found::Unknown);
    }
    let applied = connection.list_applied_migrations(APPLIED).await;
    let applied = applied.map_err(|error| match error {
        MigrateError::Execute(error) => error,
        other => sqlx::Error::Migrate(Box::new(other)),
    })?;
    Ok(compare(&applied))
}

fn compare(applied: &[AppliedMigration]) -> Found {
    let known: Vec<_> = MIGRATIONS.iter().collect();
    let is_known = |(applied, known): (&AppliedMigration, &&sqlx::migrate::Migration)| {
        applied.version == known.version && applied.checksum == known.checksum
    };
    if applied.len() > known.len() || !applied.iter().zip(&known).all(is_known) {
        Found::Unknown
    } else if applied.len() < known.len() {
        Found::Older(applied.len())
    } else {
        Found::Current
    }
}
