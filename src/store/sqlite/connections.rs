//! The connections that serve a database: one writes, one moves the write-ahead log into the file, the others read.

use std::time::Duration;

use sqlx::SqliteConnection;
use tokio::time::{Instant, sleep};

use super::file::{BUSY_TIMEOUT, DatabaseFile};
use super::schema::{self, Schema};
use super::server_lock::ServerLock;
use crate::store::OpenError;
use crate::store::sql::Connection;

/// Delay before a busy database is opened again.
const OPEN_AGAIN: Duration = Duration::from_millis(20);

pub(crate) struct Connections {
    /// Whether the schema was created or migrated.
    pub(crate) is_migrated: bool,
    pub(crate) writer: Connection,
    pub(crate) checkpointer: SqliteConnection,
    pub(crate) readers: Vec<Connection>,
}

impl Connections {
    /// Opens all connections and brings the schema up to date. Retries for [`BUSY_TIMEOUT`], because SQLite does not
    /// wait for another process that creates the same database at this moment.
    pub(crate) async fn open(file: &DatabaseFile, schema: Schema) -> Result<Self, OpenError> {
        let (since, mut is_migrated) = (Instant::now(), false);
        loop {
            match Self::try_open(file, schema, &mut is_migrated).await {
                Err(error) if error.is_busy() && since.elapsed() < BUSY_TIMEOUT => {
                    sleep(OPEN_AGAIN).await;
                    ServerLock::wait_until_shared(file).await?;
                }
                opened => return opened,
            }
        }
    }

    /// An attempt that migrates may still fail, so `is_migrated` outlives it.
    async fn try_open(
        file: &DatabaseFile,
        schema: Schema,
        is_migrated: &mut bool,
    ) -> Result<Self, OpenError> {
        *is_migrated |= schema::prepare(file, schema).await?;
        let (writer, checkpointer) = (file.connect_writer().await?, file.connect_writer().await?);
        let readers = file.connect_readers().await?;
        Ok(Self {
            is_migrated: *is_migrated,
            writer: Connection::Sqlite(writer),
            checkpointer,
            readers: readers.into_iter().map(Connection::Sqlite).collect(),
        })
    }
}
