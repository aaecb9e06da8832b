//! Space that is free in the file of the database, and how the file system gets it back.
//!
//! Deleted rows leave free pages behind, which still hold the ciphertext. In a database that is made for it
//! (`auto_vacuum=INCREMENTAL`) these pages are cut off the end of the file in small steps: a page in use that stands at the
//! end moves into a free one. Their last copies are in the write-ahead log, which is truncated afterwards.

use std::convert::Infallible;

use sqlx::sqlite::{SqliteAutoVacuum, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use super::error::Doing as _;
use super::wal::{END_LOG, execute};
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{DatabaseFile, Error, OpenError, Schema, ServerLock, Store, schema};
use crate::domain::Parse as _;
use crate::store::WriteError;

const FREE_PAGES: &str = "PRAGMA freelist_count";

/// One step frees at most a megabyte of pages: it is to hold the writer for milliseconds.
const VACUUM_STEP: &str = "PRAGMA incremental_vacuum(256)";

const AUTO_VACUUM: &str = "PRAGMA auto_vacuum";

/// What [`AUTO_VACUUM`] yields for `INCREMENTAL`.
const INCREMENTAL: i64 = 2;

/// What a step of giving space back has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vacuumed {
    /// There may be more free pages.
    Step,
    /// No free page is left, or the database is not made for giving them back.
    NothingLeft,
}

/// Cuts free pages off the file.
struct Vacuum;

impl WriteOp for Vacuum {
    type Output = ();
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError<Infallible>> {
        let step = sqlx::query(VACUUM_STEP).execute(tx.connection().await?).await;
        step.doing("giving free pages back")?;
        Ok(())
    }
}

impl Store {
    /// Gives one step of the free pages back to the file system.
    ///
    /// # Errors
    ///
    /// [`Error`] where they could not be given back.
    pub async fn vacuum(&self) -> Result<Vacuumed, Error> {
        if !self.gives_space_back {
            return Ok(Vacuumed::NothingLeft);
        }
        let free = sqlx::query_scalar(FREE_PAGES).fetch_one(&mut *self.reader().await?).await;
        let free: i64 = free.doing("counting free pages")?;
        if free == 0 {
            return Ok(Vacuumed::NothingLeft);
        }
        self.write(Vacuum).await?;
        Ok(Vacuumed::Step)
    }

    /// Has the write-ahead log truncated soon, so that no copy of what was removed is left in it.
    pub fn truncate_log(&self) {
        self.writer.truncate_log();
    }

    /// Whether free pages go back to the file system. A database of an earlier version keeps them until [`compact`].
    #[must_use]
    pub fn gives_space_back(&self) -> bool {
        self.gives_space_back
    }
}

/// Whether the database of this connection is made for giving space back.
pub(super) async fn gives_space_back(
    connection: &mut SqliteConnection,
) -> Result<bool, sqlx::Error> {
    let mode: i64 = sqlx::query_scalar(AUTO_VACUUM).fetch_one(connection).await?;
    Ok(mode == INCREMENTAL)
}

/// Sizes of a database file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Before it was written anew.
    pub before: u64,
    /// Now.
    pub after: u64,
}

/// Writes a database anew, without free pages, and so that it gives space back from then on. No other process may have it
/// open.
///
/// # Errors
///
/// [`OpenError`]; then the database is as it was.
pub async fn compact(url: &str) -> Result<Compacted, OpenError> {
    let file = DatabaseFile::parse(url).ok_or_else(|| OpenError::Url { url: url.to_owned() })?;
    if file.look()?.is_none() {
        return Err(file.missing());
    }
    let _lock = ServerLock::acquire(url, "compact").await?;
    let before = size(&file)?;
    schema::prepare(&file, Schema::MustBeCurrent).await?;
    let failed = |source| file.failed_alone(source);
    let mut connection = connect_alone(&file).await.map_err(failed)?;
    let compacted = write_anew(&mut connection).await;
    compacted.map_err(|source| match file.failed_alone(source) {
        OpenError::Open { path, source } => OpenError::Compact { path, source },
        elsewhere => elsewhere,
    })?;
    connection.close().await.map_err(failed)?;
    Ok(Compacted { before, after: size(&file)? })
}

/// A connection to a database that no other process has open, and that has no log from then on. A log would be moved when the
/// connection is closed, which tells of no failure. What `VACUUM` overwrites goes into a `-journal` instead: an error rolls it
/// back, and after a crash whoever opens the database next does.
async fn connect_alone(file: &DatabaseFile) -> Result<SqliteConnection, sqlx::Error> {
    let options = file
        .options_alone()
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Delete)
        .synchronous(SqliteSynchronous::Full);
    options.connect().await
}

/// While it runs no other process can read or write.
async fn write_anew(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    execute(connection, "VACUUM").await?;
    // Another program may have begun a log just before.
    execute(connection, END_LOG).await
}

fn size(file: &DatabaseFile) -> Result<u64, OpenError> {
    let metadata = std::fs::metadata(file.path());
    metadata.map(|metadata| metadata.len()).map_err(|source| file.failed(source.into()))
}
