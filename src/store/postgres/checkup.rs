//! A look at a database of a PostgreSQL server, for `chatserver doctor`.

use sqlx::Connection as _;

use super::connect::{self, failed};
use super::schema::{self, migrations};
use super::url::PgUrl;
use crate::domain::Timestamp;
use crate::store::checkup::{Archive, Checkup};
use crate::store::migrations::SchemaState;
use crate::store::{OpenError, sealing};

const NEWEST: &str = "SELECT greatest((SELECT coalesce(max(last_access), 0) FROM conversations),
                                      (SELECT coalesce(max(used_at), 0) FROM stations))";

/// Settings by which a power cut could lose answered changes, or damage go unnoticed; failed checksums; the archive.
const LOOK: &str = "
    SELECT current_setting('fsync')::boolean, current_setting('full_page_writes')::boolean,
           current_setting('data_checksums')::boolean,
           coalesce((SELECT checksum_failures FROM pg_stat_database WHERE datname = current_database()), 0),
           current_setting('archive_mode') <> 'off',
           (SELECT extract(epoch FROM last_archived_time)::bigint FROM pg_stat_archiver)";

pub(crate) async fn examine(url: &PgUrl) -> Result<Checkup, OpenError> {
    let mut connection = connect::migrate(url).await?;
    let found = schema::look(url, &mut connection).await?;
    // A node of this version works on a newer schema, too.
    if !matches!(found, SchemaState::Newer(_)) {
        schema::refuse_unless_current(url, &found)?;
    }
    let of = |source| failed(url, source);
    let sealing_keys = sqlx::query_as(sealing::REGISTERED.postgres);
    let sealing_keys = sealing_keys.fetch_all(&mut connection).await.map_err(of)?;
    let newest = sqlx::query_scalar(NEWEST).fetch_one(&mut connection).await.map_err(of)?;
    let (fsync, whole_pages, checksums, failures, has_archive, archived): (
        bool,
        bool,
        bool,
        i64,
        bool,
        Option<i64>,
    ) = sqlx::query_as(LOOK).fetch_one(&mut connection).await.map_err(of)?;
    connection.close().await.map_err(of)?;
    let on = |is_on| if is_on { "on" } else { "off" };
    Ok(Checkup {
        migrations: migrations(),
        newest: Timestamp::from_unix(newest).filter(|date| date.unix() > 0),
        journal: format!(
            "fsync = {}, full_page_writes = {}, data_checksums = {}",
            on(fsync),
            on(whole_pages),
            on(checksums)
        ),
        is_durable: fsync && whole_pages,
        damage: (failures > 0)
            .then(|| format!("PostgreSQL has counted {failures} pages with a wrong checksum")),
        archive: if has_archive {
            Archive::Archived(archived.and_then(Timestamp::from_unix))
        } else {
            Archive::Off
        },
        sealing_keys,
    })
}
