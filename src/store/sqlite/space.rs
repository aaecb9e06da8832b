//! Free space in the database file, and how it returns to the file system.
//!
//! Deleted rows leave free pages behind, which still hold the ciphertext. With `auto_vacuum=INCREMENTAL` these pages
//! are cut off the end of the file in small steps. A used page at the end moves into a free one. The last copies of the
//! deleted rows are in the write-ahead log, which is truncated afterwards.

use std::convert::Infallible;

use sqlx::sqlite::{SqliteAutoVacuum, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use super::local::Local;
use super::schema;
use super::wal::{END_LOG, execute, truncate_now};
use crate::domain::Parse as _;
use crate::store::engine::Engine;
use crate::store::error::Doing as _;
use crate::store::write_op::WriteOp;
use crate::store::write_tx::WriteTx;
use crate::store::{DatabaseFile, Error, OpenError, Schema, ServerLock, Store, WriteError};

const FREE_PAGES: &str = "PRAGMA freelist_count";

/// Frees at most 256 pages (a megabyte) per step, so that a step holds the writer for milliseconds.
const VACUUM_STEP: &str = "PRAGMA incremental_vacuum(256)";

const AUTO_VACUUM: &str = "PRAGMA auto_vacuum";

/// Value of [`AUTO_VACUUM`] for `INCREMENTAL`.
const INCREMENTAL: i64 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vacuumed {
    /// More free pages may be left.
    Step,
    /// No free page is left, or the database does not give free pages back.
    NothingLeft,
}

struct Vacuum;

impl WriteOp for Vacuum {
    type Output = ();
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError<Infallible>> {
        let step = sqlx::query(VACUUM_STEP).execute(tx.connection().await?.sqlite()).await;
        step.doing("returning free pages to the file system")?;
        Ok(())
    }
}

impl Store {
    /// Returns one step of free pages to the file system.
    pub(crate) async fn vacuum(&self) -> Result<Vacuumed, Error> {
        let Engine::Sqlite(Local { gives_space_back: true, .. }) = self.engine else {
            return Ok(Vacuumed::NothingLeft);
        };
        let free = sqlx::query_scalar(FREE_PAGES).fetch_one(self.reader().await?.sqlite()).await;
        let free: i64 = free.doing("counting free pages")?;
        if free == 0 {
            return Ok(Vacuumed::NothingLeft);
        }
        self.write(Vacuum).await?;
        Ok(Vacuumed::Step)
    }

    /// Requests a truncation of the write-ahead log, so that no copy of deleted data is left in it.
    pub(crate) fn truncate_log(&self) {
        if let Some(local) = self.engine.local() {
            local.wal.truncate_soon();
        }
    }

    /// Whether the space of deleted rows is used again, or goes back to the file system. A file of an earlier version
    /// keeps it until [`compact`]. PostgreSQL does that by itself.
    pub(crate) fn gives_space_back(&self) -> bool {
        self.engine.local().is_none_or(|local| local.gives_space_back)
    }
}

/// Whether the database of this connection is in incremental auto-vacuum mode.
pub(crate) async fn gives_space_back(
    connection: &mut SqliteConnection,
) -> Result<bool, sqlx::Error> {
    let mode: i64 = sqlx::query_scalar(AUTO_VACUUM).fetch_one(connection).await?;
    Ok(mode == INCREMENTAL)
}

/// Returns the bytes of the free pages in the database file.
pub(crate) async fn free_bytes(connection: &mut SqliteConnection) -> Result<u64, Error> {
    const FREE_BYTES: &str =
        "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size";
    let bytes: Result<i64, _> = sqlx::query_scalar(FREE_BYTES).fetch_one(connection).await;
    Ok(bytes.doing("counting free pages")?.unsigned_abs())
}

/// Sizes of a database file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compacted {
    pub(crate) before: u64,
    pub(crate) after: u64,
}

/// Rewrites a database without free pages. From then on it gives free space back. No other process may have it open. On
/// failure the database is unchanged.
pub(crate) async fn compact(url: &str) -> Result<Compacted, OpenError> {
    let file = DatabaseFile::parse(url).ok_or_else(|| OpenError::Url { url: url.to_owned() })?;
    if file.look()?.is_none() {
        return Err(file.missing());
    }
    let _lock = ServerLock::acquire(url, "compact").await?;
    let before = size(&file)?;
    schema::prepare(&file, Schema::MustBeCurrent).await?;
    let failed = |source| file.failed_exclusive(source);
    let mut connection = connect_alone(&file).await.map_err(failed)?;
    let compacted = write_anew(&mut connection).await;
    compacted.map_err(|source| match file.failed_exclusive(source) {
        OpenError::Open { path, source } => OpenError::Compact { path, source },
        elsewhere => elsewhere,
    })?;
    connection.close().await.map_err(failed)?;
    Ok(Compacted { before, after: size(&file)? })
}

/// Opens the only connection to a database, and switches its write-ahead log off.
///
/// A log would be moved into the database when the connection closes, and closing reports no failure. What `VACUUM`
/// overwrites goes into a `-journal` instead. An error rolls it back. After a crash, the next process that opens the
/// database rolls it back.
async fn connect_alone(file: &DatabaseFile) -> Result<SqliteConnection, sqlx::Error> {
    let options = file
        .options_exclusive()
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Delete)
        .synchronous(SqliteSynchronous::Full);
    options.connect().await
}

/// Rewrites the file. No other process can read or write meanwhile.
async fn write_anew(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    execute(connection, "VACUUM").await?;
    // Another program may have begun a log just before.
    execute(connection, END_LOG).await
}

/// Rewrites the database and empties its write-ahead log: neither holds anything that was deleted or overwritten. Fails
/// while another program reads the database.
pub(crate) async fn sweep(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    // In memory, the temporary copy of a large database may not have room.
    execute(connection, "PRAGMA temp_store = file").await?;
    execute(connection, "VACUUM").await?;
    execute(connection, "PRAGMA temp_store = memory").await?;
    truncate_now(connection).await
}

fn size(file: &DatabaseFile) -> Result<u64, OpenError> {
    let metadata = std::fs::metadata(file.path());
    metadata.map(|metadata| metadata.len()).map_err(|source| file.failed(source.into()))
}
