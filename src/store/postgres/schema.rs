//! Migrating a PostgreSQL database. Several servers may start at once: one migrates, the others wait for it.

use sqlx::migrate::{Migrate as _, MigrateError, Migrator};
use sqlx::{Connection as _, PgConnection};

use super::connect::{self, failed};
use super::url::PgUrl;
use crate::store::migrations::{APPLIED, SchemaState, compare, logged};
use crate::store::{OpenError, Schema};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Whether the schema has the migrator's table, and whether it has tables at all. Those of extensions don't count.
const TABLES: &str = "
    SELECT coalesce(bool_or(relname = $1), FALSE), count(*) > 0 FROM pg_class AS c
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
        SchemaState::Empty => Err(OpenError::Empty { url: url.to_string() }),
        SchemaState::Older(found) => {
            let (path, known) = (url.to_string(), MIGRATIONS.iter().count());
            Err(OpenError::OlderSchema { path, found, known })
        }
        found => finished(url, &found).map(|_| false),
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
    }
}

async fn look(url: &PgUrl, connection: &mut PgConnection) -> Result<SchemaState, OpenError> {
    let failed = |source| failed(url, source);
    let tables = sqlx::query_as(TABLES).bind(APPLIED).fetch_one(&mut *connection).await;
    match tables.map_err(failed)? {
        (true, _) => compare(connection, &MIGRATIONS).await.map_err(failed),
        (false, true) => Ok(SchemaState::Unknown),
        (false, false) => Ok(SchemaState::Empty),
    }
}

fn unmigrated(url: &PgUrl, source: MigrateError) -> OpenError {
    OpenError::Migrate { path: url.to_string(), source }
}
