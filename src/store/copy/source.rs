//! The source of a copy, in which nothing changes meanwhile.

use sqlx::SqliteConnection;

use super::rows::Reading;
use super::server::CopySession;
use super::tables::TABLES;
use super::{CopyError, End};
use crate::domain::Parse as _;
use crate::store::postgres;
use crate::store::sealing::Registered;
use crate::store::sqlite::schema::{self, Guarded, Looked};
use crate::store::sqlite::wal::execute;
use crate::store::{DatabaseFile, DatabaseUrl, OpenError, PgUrl, Schema, ServerLock};

const FIND_EPOCH: &str = "SELECT id FROM epoch";

const FIND_KEYS: &str = "SELECT number, fingerprint, is_active FROM sealing_keys ORDER BY number";

/// Changes with each commit of another connection.
const VERSION: &str = "PRAGMA data_version";

pub(crate) enum Source {
    File(Box<SourceFile>),
    Server(Box<CopySession>),
}

pub(crate) struct SourceFile {
    connection: Guarded,
    file: DatabaseFile,
    version: i64,
    /// Keeps servers and commands away.
    _lock: ServerLock,
}

impl Source {
    /// Opens a database with the newest schema that no server has open, and begins a snapshot of it.
    pub(crate) async fn open(url: &DatabaseUrl) -> Result<Self, CopyError> {
        match url {
            DatabaseUrl::Sqlite(url) => SourceFile::open(url).await.map(Box::new).map(Self::File),
            DatabaseUrl::Postgres(url) => open_server(url).await.map(Box::new).map(Self::Server),
        }
    }

    pub(crate) fn reading(&mut self) -> Reading<'_> {
        match self {
            Self::File(source) => Reading::Sqlite(&mut source.connection),
            Self::Server(session) => Reading::Postgres(&mut session.connection),
        }
    }

    /// Returns the name of the database's epoch, which no other database has.
    pub(crate) async fn epoch(&mut self) -> Result<String, CopyError> {
        let found = match self {
            Self::File(source) => {
                sqlx::query_scalar(FIND_EPOCH).fetch_one(&mut *source.connection).await
            }
            Self::Server(session) => {
                sqlx::query_scalar(FIND_EPOCH).fetch_one(&mut session.connection).await
            }
        };
        found.map_err(|source| End::From.failed("reading its epoch", source))
    }

    /// Returns the keys of the key file that the database records.
    pub(crate) async fn sealing_keys(&mut self) -> Result<Vec<Registered>, CopyError> {
        let found = match self {
            Self::File(source) => {
                sqlx::query_as(FIND_KEYS).fetch_all(&mut *source.connection).await
            }
            Self::Server(session) => {
                sqlx::query_as(FIND_KEYS).fetch_all(&mut session.connection).await
            }
        };
        found.map_err(|source| End::From.failed("reading its sealing keys", source))
    }

    /// Returns the number of all rows.
    pub(crate) async fn count(&mut self) -> Result<u64, CopyError> {
        let mut rows = 0;
        for table in &TABLES {
            let count = self.reading().count(table).await;
            rows += count.map_err(|source| End::From.failed("counting its rows", source))?;
        }
        Ok(rows)
    }

    /// Refuses a source that is not the only truth any more, at the end of a copy.
    ///
    /// A file can have been changed by a program that had it open before. A PostgreSQL database can't be changed while it
    /// is read, but a server may have been started, which would go on with it.
    pub(crate) async fn refuse_changes(&mut self) -> Result<(), CopyError> {
        let source = match self {
            Self::File(source) => source,
            Self::Server(session) => return session.refuse_servers().await,
        };
        let version = async {
            execute(&mut source.connection, "COMMIT").await?;
            version(&mut source.connection).await
        };
        let found = version.await;
        let found = found.map_err(|source| End::From.failed("ending the snapshot", source))?;
        if found == source.version {
            return Ok(());
        }
        Err(CopyError::Changed { path: source.file.absolute() })
    }

    pub(crate) async fn close(self) -> Result<(), CopyError> {
        match self {
            Self::File(source) => {
                let closed = source.connection.close().await;
                closed.map_err(|source| End::From.failed("closing it", source))
            }
            Self::Server(session) => session.close().await,
        }
    }
}

impl SourceFile {
    async fn open(url: &str) -> Result<Self, CopyError> {
        let (file, lock, connection) =
            Self::look(url).await.map_err(|source| End::From.unusable(source))?;
        let mut source = Self { connection, file, version: 0, _lock: lock };
        let begun = async {
            source.version = version(&mut source.connection).await?;
            execute(&mut source.connection, "BEGIN").await
        };
        begun.await.map_err(|source| End::From.failed("beginning a snapshot", source))?;
        Ok(source)
    }

    async fn look(url: &str) -> Result<(DatabaseFile, ServerLock, Guarded), OpenError> {
        let refused = || OpenError::Url { url: url.to_owned() };
        let file = DatabaseFile::parse(url).ok_or_else(refused)?;
        if file.look()?.is_none() {
            return Err(file.missing());
        }
        let lock = ServerLock::acquire(url, "copy").await?;
        let Looked { connection, found, .. } = schema::look_closely(&file).await?;
        schema::refuse(&file, &found, Schema::MustBeCurrent)?;
        Ok((file, lock, connection))
    }
}

async fn version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(VERSION).fetch_one(connection).await
}

async fn open_server(url: &PgUrl) -> Result<CopySession, CopyError> {
    let mut session = CopySession::open(url, End::From).await?;
    let looked = async {
        let found = postgres::schema::look(url, &mut session.connection).await?;
        postgres::schema::refuse_unless_current(url, &found)
    };
    looked.await.map_err(|source| End::From.unusable(source))?;
    session.freeze().await?;
    Ok(session)
}
