//! Copies a database into an empty one: between SQLite and PostgreSQL, or within one of them.
//!
//! Rows are read in the order of their keys and written in chunks, each in a transaction. So whatever ends a copy leaves a
//! beginning of each table, and the next run goes on behind the greatest key. At the end, all rows of the target are read
//! again, and have to agree with all rows of the source in number and digest.

mod rows;
mod server;
mod source;
mod tables;
mod target;

use std::fmt;
use std::fs::Metadata;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio::try_join;

use super::{DatabaseFile, DatabaseUrl, OpenError, sealing};
use crate::domain::Parse as _;
use crate::key_file::{KeyFile, KeyFileError};
use rows::{Digest, Reading, Row};
use source::Source;
use tables::{TABLES, Table};
use target::Target;

/// Maximum rows of a chunk.
const CHUNK_ROWS: usize = 10_000;

/// Bytes from which a chunk is written. A message adds at most 8 MiB.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// Interval between two calls of the progress callback.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// One of the two databases, shown as the flag that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    From,
    To,
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::From => "--from",
            Self::To => "--to",
        })
    }
}

impl End {
    fn unusable(self, source: OpenError) -> CopyError {
        CopyError::Open { end: self, source }
    }

    fn failed(self, doing: &'static str, source: sqlx::Error) -> CopyError {
        CopyError::Database { end: self, doing, source }
    }
}

/// Why a copy was refused or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    #[error("{end}: {source}")]
    Open { end: End, source: OpenError },
    #[error("--from and --to are the same database, {url}")]
    Same { url: String },
    #[error("{end}: {url} is in use by servers or commands ({sessions} sessions): stop them first")]
    Serving { end: End, url: String, sessions: i64 },
    #[error("{end}: {url} is in use by another `chatserver copy`, or is both --from and --to")]
    Locked { end: End, url: String },
    #[error(
        "--from: another program has changed {path} meanwhile. End it, remove the database of --to, and run the command again"
    )]
    Changed { path: String },
    #[error(
        "--to: {url} has rows in {table}: a copy needs an empty database, or an unfinished one"
    )]
    NotEmpty { url: String, table: &'static str },
    #[error("--to: {url} is an unfinished copy of another database than --from: use an empty one")]
    OfAnother { url: String },
    /// The target does not agree with the source.
    #[error(
        "--to: {url} differs from --from in {tables}. It can't be opened: remove it, and copy into an empty database"
    )]
    Differs { url: String, tables: String },
    #[error("--to: {0}")]
    KeyFile(#[from] KeyFileError),
    #[error("{end}: the database failed while {doing}: {source}")]
    Database { end: End, doing: &'static str, source: sqlx::Error },
}

/// Progress of a copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyProgress {
    /// A participle: "copied", and "verified" once all rows are copied.
    pub(crate) done: &'static str,
    pub(crate) rows: u64,
    /// Number of rows of the source.
    pub(crate) total: u64,
}

/// A finished copy.
#[derive(Clone, Debug)]
pub(crate) struct Copied {
    /// Rows that this run added. An interrupted one has added the others.
    pub(crate) added: u64,
    /// Name, number of rows, and SHA-256 of the rows of each table.
    pub(crate) tables: Vec<(&'static str, u64, String)>,
}

/// Copies all rows of a database into an empty one, or goes on with that. API keys stay sealed as they are: `key_file`, the
/// one of the target, must have the keys of the source. It gets them where it does not exist.
///
/// # Errors
///
/// [`CopyError::Differs`] if the target does not have the rows of the source in the end. The target is unusable until
/// this function has succeeded.
pub(crate) async fn copy(
    from: &DatabaseUrl,
    to: &DatabaseUrl,
    key_file: &KeyFile,
    progress: impl FnMut(CopyProgress),
) -> Result<Copied, CopyError> {
    refuse_same(from, to)?;
    let mut source = Source::open(from).await?;
    let registered = source.sealing_keys().await?;
    sealing::adopt(key_file, from.key_file().as_ref(), owner(to).as_ref(), &registered)?;
    let mut target = Target::open(to, &source.epoch().await?).await?;
    let mut meter = Meter::new(source.count().await?, progress);
    let (mut added, mut digests) = (0, Vec::new());
    for table in &TABLES {
        let (digest, rows) = copy_table(&mut source, &mut target, table, &mut meter).await?;
        added += rows;
        digests.push(digest);
    }
    meter.begin("verified");
    let tables = verify(&mut target, to, &digests, &mut meter).await?;
    source.refuse_changes().await?;
    target.finish().await?;
    source.close().await?;
    Ok(Copied { added, tables })
}

/// Returns the metadata whose owner is to own the key file of this database.
fn owner(url: &DatabaseUrl) -> Option<Metadata> {
    match url {
        DatabaseUrl::Sqlite(url) => DatabaseFile::parse(url)?.owner(),
        DatabaseUrl::Postgres(_) => None,
    }
}

/// Refuses two URLs of one database. Two names of a host are noticed later: the second lock can't be taken.
fn refuse_same(from: &DatabaseUrl, to: &DatabaseUrl) -> Result<(), CopyError> {
    let is_same = match (from, to) {
        (DatabaseUrl::Sqlite(from), DatabaseUrl::Sqlite(to)) => {
            let path = |url| DatabaseFile::parse(url)?.path().canonicalize().ok();
            path(from).is_some_and(|from| Some(from) == path(to))
        }
        (DatabaseUrl::Postgres(from), DatabaseUrl::Postgres(to)) => {
            from.to_string() == to.to_string()
        }
        _ => false,
    };
    if is_same { Err(CopyError::Same { url: from.to_string() }) } else { Ok(()) }
}

/// Adds the rows of a table behind the target's greatest key. Returns the digest of all rows of the source, and the
/// number of those that were added.
async fn copy_table(
    source: &mut Source,
    target: &mut Target,
    table: &'static Table,
    meter: &mut Meter<impl FnMut(CopyProgress)>,
) -> Result<(Digest, u64), CopyError> {
    let last = target.reading().last_key(table).await;
    let last = last.map_err(|source| End::To.failed("looking for its last row", source))?;
    let (chunks, mut arriving) = mpsc::channel(1);
    let read = async {
        let read = read(source.reading(), table, last, chunks).await;
        read.map_err(|source| End::From.failed("reading its rows", source))
    };
    let write = async {
        let mut added = 0;
        while let Some(Chunk { rows, skipped }) = arriving.recv().await {
            if !rows.is_empty() {
                target.add(table, &rows).await?;
            }
            added += rows.len() as u64;
            meter.add(rows.len() as u64 + skipped);
        }
        Ok(added)
    };
    try_join!(read, write)
}

/// Rows to be written, and the number of rows before them that the target has already.
#[derive(Default)]
struct Chunk {
    rows: Vec<Row>,
    skipped: u64,
}

impl Chunk {
    fn is_full(&self, bytes: usize) -> bool {
        self.rows.len() >= CHUNK_ROWS || self.skipped >= CHUNK_ROWS as u64 || bytes >= CHUNK_BYTES
    }
}

/// Reads a table and sends what is behind `last`. Reads on while the target writes the chunk before.
async fn read(
    source: Reading<'_>,
    table: &'static Table,
    last: Option<Row>,
    chunks: mpsc::Sender<Chunk>,
) -> Result<Digest, sqlx::Error> {
    let (mut rows, mut digest) = (source.all(table), Digest::default());
    let (mut chunk, mut bytes) = (Chunk::default(), 0);
    while let Some(row) = rows.try_next().await? {
        let size = digest.add(&row);
        if last.as_deref().is_some_and(|last| row[..table.key] <= *last) {
            chunk.skipped += 1;
        } else {
            bytes += size;
            chunk.rows.push(row);
        }
        if chunk.is_full(bytes) {
            bytes = 0;
            // The receiver is gone only where the write has failed, and then this call is dropped.
            chunks.send(std::mem::take(&mut chunk)).await.ok();
        }
    }
    chunks.send(chunk).await.ok();
    Ok(digest)
}

/// Reads all rows of the target and compares them with those of the source. Returns what is there.
async fn verify(
    target: &mut Target,
    to: &DatabaseUrl,
    digests: &[Digest],
    meter: &mut Meter<impl FnMut(CopyProgress)>,
) -> Result<Vec<(&'static str, u64, String)>, CopyError> {
    let (mut tables, mut differing) = (Vec::new(), Vec::new());
    for (table, expected) in TABLES.iter().zip(digests) {
        let found = digest(target.reading(), table, meter).await;
        let found = found.map_err(|source| End::To.failed("reading its rows", source))?;
        if found.rows != expected.rows {
            differing.push(format!("{} ({} rows for {})", table.name, found.rows, expected.rows));
        } else if found.hex() != expected.hex() {
            differing.push(format!("{} (values)", table.name));
        }
        tables.push((table.name, found.rows, found.hex()));
    }
    if differing.is_empty() {
        return Ok(tables);
    }
    Err(CopyError::Differs { url: to.to_string(), tables: differing.join(", ") })
}

async fn digest(
    target: Reading<'_>,
    table: &'static Table,
    meter: &mut Meter<impl FnMut(CopyProgress)>,
) -> Result<Digest, sqlx::Error> {
    let (mut rows, mut digest) = (target.all(table), Digest::default());
    while let Some(row) = rows.try_next().await? {
        digest.add(&row);
        meter.add(1);
    }
    Ok(digest)
}

/// Counts rows and tells of them: of the first ones, once a second, and of the last ones.
struct Meter<F> {
    progress: CopyProgress,
    told: Option<Instant>,
    tell: F,
}

impl<F: FnMut(CopyProgress)> Meter<F> {
    fn new(total: u64, tell: F) -> Self {
        let progress = CopyProgress { done: "copied", rows: 0, total };
        Self { progress, told: None, tell }
    }

    fn begin(&mut self, done: &'static str) {
        self.progress = CopyProgress { done, rows: 0, ..self.progress };
        self.told = None;
    }

    fn add(&mut self, rows: u64) {
        self.progress.rows += rows;
        let is_last = self.progress.rows == self.progress.total;
        let is_due = self.told.is_none_or(|told| told.elapsed() >= PROGRESS_EVERY);
        if rows > 0 && (is_last || is_due) {
            self.told = Some(Instant::now());
            (self.tell)(self.progress);
        }
    }
}
