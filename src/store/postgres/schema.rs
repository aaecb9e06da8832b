//! Migrating a PostgreSQL database. Several servers may start at once: one migrates, the others wait for it.

use sqlx::migrate::{Migrate as _, MigrateError, Migrator};
use sqlx::{Connection as _, PgConnection};

use super::connect::{self, failed};
use super::url::PgUrl;
use crate::store::migrations::{APPLIED, COPYING, SchemaState, compare, logged};
use crate::store::{OpenError, Schema};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Returns the number of built-in migrations.
pub(crate) fn migrations() -> usize {
    MIGRATIONS.iter().count()
}

/// Whether the schema has the migrator's table and the one of an unfinished copy, and whether it has tables at all. Those
/// of extensions don't count.
const TABLES: &str = "
    SELECT coalesce(bool_or(relname = $1), FALSE), coalesce(bool_or(relname = $2), FALSE), count(*) > 0 FROM pg_class AS c
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
      AND NOT EXISTS (SELECT 1 FROM pg_depend
                      WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')";

/// Outcome of [`migrate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Migrated {
    /// The schema is that of this version. The number of migrations that were run.
    Current(usize),
    /// The schema is that of a newer version, and this version works with it, too: during a rolling upgrade the first
    /// server of the new version migrates while the others still run.
    Newer,
}

/// Brings the database to the newest schema.
pub(crate) async fn migrate(url: &PgUrl) -> Result<Migrated, OpenError> {
    let mut connection = connect::migrate(url).await?;
    let migrated = migrate_on(url, &mut connection).await;
    // Closing gives the lock back, whatever has happened.
    let closed = connection.close().await;
    let migrated = migrated?;
    closed.map_err(|source| failed(url, source))?;
    Ok(migrated)
}

/// Brings the database to the newest schema, or returns why it can't. Returns whether the schema changed.
pub(crate) async fn prepare(url: &PgUrl, schema: Schema) -> Result<bool, OpenError> {
    let migrates = schema == Schema::Migrate || is_new(url, schema).await?;
    Ok(migrates && !matches!(migrate(url).await?, Migrated::Current(0) | Migrated::Newer))
}

/// Whether the database has no tables yet and is to get them. Refuses a schema that is not the newest.
async fn is_new(url: &PgUrl, schema: Schema) -> Result<bool, OpenError> {
    let mut connection = connect::migrate(url).await?;
    let found = look(url, &mut connection).await?;
    connection.close().await.map_err(|source| failed(url, source))?;
    match found {
        SchemaState::Empty if schema.creates() => Ok(true),
        SchemaState::Newer(_) => finished(url, &found).map(|_| false),
        found => refuse_unless_current(url, &found).map(|()| false),
    }
}

/// Refuses a schema that is not that of this version.
pub(crate) fn refuse_unless_current(url: &PgUrl, found: &SchemaState) -> Result<(), OpenError> {
    let path = url.to_string();
    match found {
        SchemaState::Current => Ok(()),
        SchemaState::Empty => Err(OpenError::Empty { url: path }),
        SchemaState::Older(found) => {
            Err(OpenError::OlderSchema { path, found: *found, known: MIGRATIONS.iter().count() })
        }
        SchemaState::Unfinished => Err(OpenError::UnfinishedCopy { path }),
        SchemaState::Newer(found) => {
            Err(OpenError::NewerSchema { path, found: *found, known: migrations() })
        }
        SchemaState::Unknown => Err(OpenError::UnknownSchema { path }),
    }
}

async fn migrate_on(url: &PgUrl, connection: &mut PgConnection) -> Result<Migrated, OpenError> {
    if let Some(done) = finished(url, &look(url, connection).await?)? {
        return Ok(done);
    }
    let lock = connection.lock();
    let locked = logged("waiting for another process that migrates the database", lock).await;
    locked.map_err(|source| unmigrated(url, source))?;
    // The other process may have done it all.
    let found = look(url, connection).await?;
    if let Some(done) = finished(url, &found)? {
        return Ok(done);
    }
    let applied = if let SchemaState::Older(applied) = found { applied } else { 0 };
    let migrations = MIGRATIONS.iter().count();
    tracing::info!(database = %url, applied, migrations, "migrating the database, each migration in a transaction");
    for (number, migration) in (1..).zip(MIGRATIONS.iter()).skip(applied) {
        let name = &migration.description;
        tracing::info!(migration = number, migrations, %name, "running a migration");
        let run = MIGRATIONS.run_direct(Some(migration.version), connection, false);
        let run = logged(&format!("migration {number} of {migrations} is running"), run).await;
        run.map_err(|source| unmigrated(url, source))?;
    }
    Ok(Migrated::Current(migrations - applied))
}

/// Returns the outcome if there is nothing to migrate. Refuses a database of another program.
fn finished(url: &PgUrl, found: &SchemaState) -> Result<Option<Migrated>, OpenError> {
    match found {
        SchemaState::Empty | SchemaState::Older(_) => Ok(None),
        SchemaState::Current => Ok(Some(Migrated::Current(0))),
        SchemaState::Newer(applied) => {
            let known = MIGRATIONS.iter().count();
            tracing::info!(database = %url, applied, known, "the schema is that of a newer version, which this version works with");
            Ok(Some(Migrated::Newer))
        }
        SchemaState::Unknown => Err(OpenError::UnknownSchema { path: url.to_string() }),
        SchemaState::Unfinished => Err(OpenError::UnfinishedCopy { path: url.to_string() }),
    }
}

pub(crate) async fn look(
    url: &PgUrl,
    connection: &mut PgConnection,
) -> Result<SchemaState, OpenError> {
    let tables = sqlx::query_as(TABLES).bind(APPLIED).bind(COPYING).fetch_one(&mut *connection);
    match tables.await.map_err(|source| failed(url, source))? {
        (true, true, _) => Ok(SchemaState::Unfinished),
        (true, false, _) => look_at_migrations(url, connection).await,
        (false, _, true) => Ok(SchemaState::Unknown),
        (false, _, false) => Ok(SchemaState::Empty),
    }
}

/// Compares the migrations of a database that has the migrator's table, whether a copy into it is finished or not.
pub(crate) async fn look_at_migrations(
    url: &PgUrl,
    connection: &mut PgConnection,
) -> Result<SchemaState, OpenError> {
    compare(connection, &MIGRATIONS).await.map_err(|source| failed(url, source))
}

fn unmigrated(url: &PgUrl, source: MigrateError) -> OpenError {
    OpenError::Migrate { path: url.to_string(), source }
}
