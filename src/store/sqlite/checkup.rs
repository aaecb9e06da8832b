//! A look at a database in a file, for `chatserver doctor`.

use super::backup::look_through;
use super::invariants::contradiction;
use super::schema::{self, Looked, Schema, migrations};
use crate::domain::Timestamp;
use crate::store::checkup::{Archive, Checkup};
use crate::store::{DatabaseFile, OpenError, sealing};

const NEWEST: &str = "SELECT max((SELECT coalesce(max(last_access), 0) FROM conversations),
                                 (SELECT coalesce(max(used_at), 0) FROM stations))";

pub(crate) async fn examine(file: &DatabaseFile, is_full: bool) -> Result<Checkup, OpenError> {
    if file.look()?.is_none() {
        return Err(file.missing());
    }
    let Looked { mut connection, found, .. } = schema::look_closely(file).await?;
    schema::refuse(file, &found, Schema::MustBeCurrent)?;
    let failed = |source| file.failed(source);
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    let newest = sqlx::query_scalar(NEWEST).fetch_one(&mut *connection).await.map_err(failed)?;
    let sealing_keys = sqlx::query_as(sealing::REGISTERED.sqlite);
    let sealing_keys = sealing_keys.fetch_all(&mut *connection).await.map_err(failed)?;
    let damage = if is_full {
        look_through(&mut connection).await.err()
    } else {
        contradiction(&mut connection, false).await.map_err(failed)?
    };
    connection.close().await.map_err(failed)?;
    Ok(Checkup {
        migrations: migrations(),
        newest: Timestamp::from_unix(newest).filter(|date| date.unix() > 0),
        is_durable: journal == "wal",
        journal,
        damage,
        archive: Archive::Unknown,
        sealing_keys,
    })
}
