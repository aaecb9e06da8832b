//! The schema of the database: the migrations that are built in, and what the database has of them.

use sqlx::migrate::{AppliedMigration, Migrate as _, MigrateError, Migrator};
use sqlx::{Connection as _, SqliteConnection};

use super::{DatabaseFile, OpenError, message_ids};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// The table in which the migrator keeps what was applied.
const APPLIED: &str = "_sqlx_migrations";

/// The number of migrations with which hashes of the IDs of messages came. They are listed after all migrations, so one
/// that needs them, or moves what they are made of, has to be run after that.
const HASHES: usize = 4;

/// What to do with a database whose schema is not the newest. An empty one is always filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// Bring it up to date.
    Migrate,
    /// Refuse it: another program may be working with it.
    MustBeCurrent,
}

#[derive(PartialEq)]
enum Found {
    Empty,
    Current,
    Older(usize),
    Unknown,
}

/// Leaves the database with the newest schema, or says why it can't.
pub(super) async fn prepare(file: &DatabaseFile, schema: Schema) -> Result<(), OpenError> {
    let failed = |source| file.failed(source);
    let mut looking = file.connect_to_look().await?;
    let found = look(&mut looking).await;
    looking.close().await.map_err(failed)?;
    let found = found.map_err(failed)?;
    refuse(file, &found, schema)?;
    if found == Found::Current {
        return Ok(());
    }
    let mut connection = file.connect_writer().await?;
    // Another process may be doing the same: the second waits here and then finds it done.
    let begun = connection.begin_with("BEGIN IMMEDIATE").await;
    let mut transaction = begun.map_err(failed)?;
    let found = look(&mut transaction).await.map_err(failed)?;
    refuse(file, &found, schema)?;
    let migrated = MIGRATIONS.run_direct(None, &mut *transaction, false).await;
    migrated
        .map_err(|source| OpenError::Migrate { path: file.path().display().to_string(), source })?;
    if matches!(found, Found::Older(applied) if applied < HASHES) {
        message_ids::list_all(&mut transaction).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)?;
    connection.close().await.map_err(failed)
}

fn refuse(file: &DatabaseFile, found: &Found, schema: Schema) -> Result<(), OpenError> {
    let path = file.path().display().to_string();
    match (found, schema) {
        (Found::Unknown, _) => Err(OpenError::UnknownSchema { path }),
        (Found::Older(found), Schema::MustBeCurrent) => {
            Err(OpenError::OlderSchema { path, found: *found, known: MIGRATIONS.iter().count() })
        }
        _ => Ok(()),
    }
}

async fn look(connection: &mut SqliteConnection) -> Result<Found, sqlx::Error> {
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
