//! The built-in migrations, compared with those that a database has. Both databases keep the same record of them.

use std::pin::pin;
use std::time::Duration;

use sqlx::migrate::{AppliedMigration, Migrate, MigrateError, Migration, Migrator};
use tokio::time::{Instant, sleep};

use crate::service_manager;

/// Table in which the migrator records the applied migrations.
pub(crate) const APPLIED: &str = "_sqlx_migrations";

/// Table that a database has while `copy` fills it. No other command opens such a database.
pub(crate) const COPYING: &str = "copying";

/// Interval between log lines while a step is running.
const LOG_EVERY: Duration = Duration::from_secs(2);

/// State of a database's schema, compared with the built-in migrations.
#[derive(PartialEq)]
pub(crate) enum SchemaState {
    Empty,
    Current,
    /// The number of applied migrations.
    Older(usize),
    /// The number of applied migrations. The first of them are all built-in ones.
    Newer(usize),
    Unknown,
    /// The database is the target of an unfinished copy.
    Unfinished,
}

/// Compares the migrations that a database records with the built-in ones.
pub(crate) async fn compare<C: Migrate>(
    connection: &mut C,
    known: &Migrator,
) -> Result<SchemaState, sqlx::Error> {
    let applied = connection.list_applied_migrations(APPLIED).await;
    let applied = applied.map_err(|error| match error {
        MigrateError::Execute(error) => error,
        other => sqlx::Error::Migrate(Box::new(other)),
    })?;
    let known: Vec<_> = known.iter().collect();
    let is_known = |(applied, known): (&AppliedMigration, &&Migration)| {
        applied.version == known.version && applied.checksum == known.checksum
    };
    Ok(if !applied.iter().zip(&known).all(is_known) {
        SchemaState::Unknown
    } else if applied.len() > known.len() {
        SchemaState::Newer(applied.len())
    } else if applied.len() < known.len() {
        SchemaState::Older(applied.len())
    } else {
        SchemaState::Current
    })
}

/// Runs `work` and logs every [`LOG_EVERY`] that the step is still running. So systemd knows that the start goes on.
pub(crate) async fn logged<T>(step: &str, work: impl Future<Output = T>) -> T {
    let (since, mut work) = (Instant::now(), pin!(work));
    loop {
        service_manager::starting(step);
        tokio::select! {
            done = &mut work => return done,
            () = sleep(LOG_EVERY) => tracing::info!(seconds = since.elapsed().as_secs(), "{step}"),
        }
    }
}
