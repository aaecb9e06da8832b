//! The database schema: the built-in migrations, and which of them a database has.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

use sqlx::migrate::Migrator;
use sqlx::{Connection as _, SqliteConnection};

use super::codes::is_of_damage;
use super::invariants::contradiction;
use super::unlisted::list_missing;
use super::wal::execute;
use crate::store::migrations::{APPLIED, COPYING, SchemaState, compare, logged};
use crate::store::{DatabaseFile, OpenError, ServerLock};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Returns the number of built-in migrations.
pub(crate) fn migrations() -> usize {
    MIGRATIONS.iter().count()
}

/// Number of migrations up to and including the one since which all messages are listed in `message_ids`.
///
/// They are listed after all migrations. So a migration that needs the list, or moves what it is computed from, must
/// run after that step.
const ALL_LISTED: usize = 9;

/// Number of migrations up to and including the one since which whole runs of 32 messages are listed.
const RUNS_LISTED: usize = 4;

/// How to treat a missing database, and one with an older schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// Creates a missing database, and migrates an older one.
    Migrate,
    /// Creates a missing database, but refuses an older one: another program may be working with it.
    CurrentOrNew,
    /// Refuses a missing database and an older one.
    MustBeCurrent,
}

impl Schema {
    pub(crate) fn creates(self) -> bool {
        self != Self::MustBeCurrent
    }
}

/// An inspected database. As far as the checks can tell, its log is its own.
pub(crate) struct Looked {
    /// The connection that inspected the database. It writes nothing.
    pub(crate) connection: Guarded,
    pub(crate) found: SchemaState,
    /// The log is that of a process that has ended, and may belong to another database.
    may_be_mixed: bool,
}

/// Inspects a database without changing its file or its log.
///
/// # Errors
///
/// [`OpenError::Mixed`] where the file and the log do not belong together.
pub(crate) async fn look_closely(file: &DatabaseFile) -> Result<Looked, OpenError> {
    let failed = |source| file.failed(source);
    // A running server's snapshot is always whole.
    let may_be_mixed = file.has_log() && !is_served(file);
    let mut connection = Guarded::new(file.connect_to_inspect().await?, may_be_mixed);
    let found = look(&mut connection).await;
    if may_be_mixed && let Some(found) = mixture(&mut connection, &found).await.map_err(failed)? {
        return Err(mixed(file, found));
    }
    Ok(Looked { connection, found: found.map_err(failed)?, may_be_mixed })
}

/// Brings the database to the newest schema, or returns why it can't. Returns whether the schema changed.
pub(crate) async fn prepare(file: &DatabaseFile, schema: Schema) -> Result<bool, OpenError> {
    let failed = |source| file.failed(source);
    let Looked { connection, found, may_be_mixed } = look_closely(file).await?;
    refuse(file, &found, schema)?;
    refuse_served(file, &found)?;
    if found == SchemaState::Current {
        connection.close().await.map_err(failed)?;
        return Ok(false);
    }
    // Stays open during the migration. SQLite moves the log into the database on the last close, so no writing
    // connection of this process may be the last to close.
    let looking = if may_be_mixed {
        Some(connection)
    } else {
        connection.close().await.map_err(failed)?;
        None
    };
    let writer = match found {
        SchemaState::Empty => file.connect_new_file().await?,
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

/// Creates or migrates the schema in one transaction.
async fn bring_up_to_date(
    file: &DatabaseFile,
    schema: Schema,
    writer: &mut SqliteConnection,
    may_be_mixed: bool,
) -> Result<(), OpenError> {
    let failed = |source| file.failed(source);
    // Another process may be doing the same. The second one waits here and then finds the work done.
    let transaction = writer.begin_with("BEGIN IMMEDIATE");
    let begun =
        logged("waiting for another process that writes to the database", transaction).await;
    let mut transaction = begun.map_err(failed)?;
    let found = look(&mut transaction).await.map_err(failed)?;
    refuse(file, &found, schema)?;
    if let SchemaState::Older(applied) = found {
        migrate(file, &mut transaction, applied).await?;
        // Checked again, because the older schema may lack what some checks read.
        if may_be_mixed
            && let Some(found) = contradiction(&mut transaction, false).await.map_err(failed)?
        {
            transaction.rollback().await.map_err(failed)?;
            return Err(mixed(file, found));
        }
    } else {
        run(file, &mut transaction, None).await?;
        // What the migrations create and then remove leaves free pages.
        execute(&mut transaction, "PRAGMA incremental_vacuum").await.map_err(failed)?;
    }
    logged("committing the migrations", transaction.commit()).await.map_err(failed)
}

/// Whether another process holds the server lock: it serves the database, or has it to itself.
fn is_served(file: &DatabaseFile) -> bool {
    matches!(ServerLock::holder_of(file), Ok(Some(holder)) if !holder.is_this_process())
}

/// Refuses to migrate while another process serves the database: its statements fit the older schema.
fn refuse_served(file: &DatabaseFile, found: &SchemaState) -> Result<(), OpenError> {
    match ServerLock::holder_of(file) {
        Ok(Some(holder)) if matches!(found, SchemaState::Older(_)) && !holder.is_this_process() => {
            Err(OpenError::InUse { path: file.path().display().to_string(), holder })
        }
        _ => Ok(()),
    }
}

fn mixed(file: &DatabaseFile, found: String) -> OpenError {
    OpenError::Mixed { path: file.path().display().to_string(), found }
}

/// Returns the evidence that a database and its log do not belong together, if there is any.
async fn mixture(
    looking: &mut SqliteConnection,
    found: &Result<SchemaState, sqlx::Error>,
) -> Result<Option<String>, sqlx::Error> {
    match found {
        Ok(SchemaState::Current) => contradiction(looking, false).await,
        Ok(SchemaState::Older(_)) => contradiction(looking, true).await,
        Err(error) if is_of_damage(error) => Ok(Some(error.to_string())),
        _ => Ok(None),
    }
}

/// A connection to a database whose log may belong to another database.
///
/// SQLite moves the log into the database and removes it when the last connection closes. So this connection stays open
/// until the process ends, unless [`Self::close`] closes it.
pub(crate) enum Guarded {
    /// The log is in doubt: dropping this does not close the connection.
    StaysOpen(ManuallyDrop<SqliteConnection>),
    /// The log is not in doubt: dropping this closes the connection.
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

    /// Closes the connection. Call this only once the database was found to be whole.
    pub(crate) async fn close(self) -> Result<(), sqlx::Error> {
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

/// Runs the migrations after the first `applied` ones, and logs the progress.
async fn migrate(
    file: &DatabaseFile,
    transaction: &mut SqliteConnection,
    applied: usize,
) -> Result<(), OpenError> {
    let (path, migrations) = (file.path().display(), MIGRATIONS.iter().count());
    tracing::info!(%path, applied, migrations, "migrating the database in one transaction: it keeps its schema until the last step");
    for (number, migration) in (1..).zip(MIGRATIONS.iter()).skip(applied) {
        let name = &migration.description;
        tracing::info!(migration = number, migrations, %name, "running a migration");
        let run = run(file, transaction, Some(migration.version));
        logged(&format!("migration {number} of {migrations} is running"), run).await?;
    }
    if applied < ALL_LISTED {
        let list = list_missing(transaction, applied >= RUNS_LISTED);
        logged("listing the IDs of messages", list).await.map_err(|source| file.failed(source))?;
    }
    Ok(())
}

/// Runs the migrations up to a version, or all of them.
async fn run(
    file: &DatabaseFile,
    transaction: &mut SqliteConnection,
    up_to: Option<i64>,
) -> Result<(), OpenError> {
    let failed = |source| OpenError::Migrate { path: file.path().display().to_string(), source };
    MIGRATIONS.run_direct(up_to, transaction, false).await.map_err(failed)
}

/// Refuses a database in this state, unless it is usable or [`prepare`] makes it so.
pub(crate) fn refuse(
    file: &DatabaseFile,
    found: &SchemaState,
    schema: Schema,
) -> Result<(), OpenError> {
    let path = file.path().display().to_string();
    match (found, schema) {
        (SchemaState::Unfinished, _) => Err(OpenError::UnfinishedCopy { path }),
        (SchemaState::Newer(found), _) => {
            Err(OpenError::NewerSchema { path, found: *found, known: migrations() })
        }
        (SchemaState::Unknown, _) => Err(OpenError::UnknownSchema { path }),
        (SchemaState::Empty, Schema::MustBeCurrent) => Err(file.missing()),
        (SchemaState::Older(found), Schema::MustBeCurrent | Schema::CurrentOrNew) => {
            Err(OpenError::OlderSchema { path, found: *found, known: migrations() })
        }
        _ => Ok(()),
    }
}

pub(crate) async fn look(connection: &mut SqliteConnection) -> Result<SchemaState, sqlx::Error> {
    let tables: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_schema ORDER BY name")
        .fetch_all(&mut *connection)
        .await?;
    if tables.is_empty() {
        return Ok(SchemaState::Empty);
    }
    if !tables.iter().any(|table| table == APPLIED) {
        return Ok(SchemaState::Unknown);
    }
    if tables.iter().any(|table| table == COPYING) {
        return Ok(SchemaState::Unfinished);
    }
    look_at_migrations(connection).await
}

/// Compares the migrations of a database that has the migrator's table, whether a copy into it is finished or not.
pub(crate) async fn look_at_migrations(
    connection: &mut SqliteConnection,
) -> Result<SchemaState, sqlx::Error> {
    compare(connection, &MIGRATIONS).await
}
