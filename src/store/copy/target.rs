//! The target of a copy. A table marks it until it is complete; opening a database looks for that table.

use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use super::rows::{Reading, Row, as_copy_text};
use super::server::CopySession;
use super::tables::{EPOCH, SEALING_KEYS, TABLES, Table};
use super::{CopyError, End};
use crate::domain::Parse as _;
use crate::store::migrations::SchemaState;
use crate::store::postgres;
use crate::store::sqlite::file::OpenedFile;
use crate::store::sqlite::schema::{self, Looked};
use crate::store::sqlite::wal::{END_LOG, execute};
use crate::store::{DatabaseFile, DatabaseUrl, OpenError, PgUrl, Schema, ServerLock};

/// Rows of one INSERT on SQLite, which takes at most 32,766 values.
const ROWS: usize = 64;

/// Begins the mark. Its only row is the epoch of the source, so that a copy of another database does not go on here.
const MARK: &str = "CREATE TABLE copying (source text NOT NULL)";

const NAME_SOURCE: &str = "INSERT INTO copying (source) VALUES ($1)";

const FIND_SOURCE: &str = "SELECT source FROM copying";

const UNMARK: &str = "DROP TABLE copying";

/// The epoch comes along like any other row, in the place of the one that a new database has. So do the sealing keys.
const FORGET: [&str; 2] = ["DELETE FROM epoch", "DELETE FROM sealing_keys"];

/// The log is moved into the file from 64 MiB on, in 4 KiB pages.
const CHECKPOINT: &str = "PRAGMA wal_autocheckpoint = 16384";

/// Lets the numbers that SQLite takes as max + 1 go on from the copied ones, and removes the mark.
const FINISH: &str = "
    BEGIN;
    SELECT setval('user_numbers', coalesce(max(number), 0) + 1, FALSE) FROM users;
    SELECT setval('conversation_numbers', coalesce(max(number), 0) + 1, FALSE) FROM conversations;
    SELECT setval('generations', coalesce(max(generation), 0) + 1, FALSE) FROM
        (SELECT generation FROM conversations UNION ALL SELECT generation FROM purges) AS taken;
    DROP TABLE copying;
    COMMIT";

pub(crate) enum Target {
    File(Box<TargetFile>),
    Server(Box<CopySession>),
}

pub(crate) struct TargetFile {
    connection: SqliteConnection,
    file: DatabaseFile,
    /// Closed after the connection.
    _opened: OpenedFile,
    _lock: ServerLock,
}

impl Target {
    /// Opens and marks an empty database, or one with a part of a copy of the database with this epoch.
    pub(crate) async fn open(url: &DatabaseUrl, epoch: &str) -> Result<Self, CopyError> {
        let (mut target, is_resumed) = match url {
            DatabaseUrl::Sqlite(url) => {
                let opened = TargetFile::open(url).await;
                let (target, is_resumed) = opened.map_err(|source| End::To.unusable(source))?;
                (Self::File(Box::new(target)), is_resumed)
            }
            DatabaseUrl::Postgres(url) => {
                let (session, is_resumed) = open_server(url).await?;
                (Self::Server(Box::new(session)), is_resumed)
            }
        };
        if is_resumed {
            target.refuse_another(epoch).await?;
        } else {
            target.refuse_rows().await?;
            let marked = target.mark(epoch).await;
            marked.map_err(|source| End::To.failed("marking it as a copy", source))?;
            target.refuse_servers().await?;
        }
        for forget in FORGET {
            let forgotten = target.run(forget).await;
            forgotten
                .map_err(|source| End::To.failed("removing its epoch and sealing keys", source))?;
        }
        Ok(target)
    }

    pub(crate) fn reading(&mut self) -> Reading<'_> {
        match self {
            Self::File(target) => Reading::Sqlite(&mut target.connection),
            Self::Server(session) => Reading::Postgres(&mut session.connection),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::File(target) => target.file.absolute(),
            Self::Server(session) => session.url.to_string(),
        }
    }

    /// Refuses a database that has any rows, but for the epoch and the sealing key of a new one.
    async fn refuse_rows(&mut self) -> Result<(), CopyError> {
        for table in TABLES.iter().filter(|table| ![EPOCH, SEALING_KEYS].contains(&table.name)) {
            let last = self.reading().last_key(table).await;
            let last = last.map_err(|source| End::To.failed("looking for rows in it", source))?;
            if last.is_some() {
                return Err(CopyError::NotEmpty { url: self.shown(), table: table.name });
            }
        }
        Ok(())
    }

    /// Refuses a part of a copy of another database.
    async fn refuse_another(&mut self, epoch: &str) -> Result<(), CopyError> {
        let found = match self {
            Self::File(target) => {
                sqlx::query_scalar(FIND_SOURCE).fetch_one(&mut target.connection).await
            }
            Self::Server(session) => {
                sqlx::query_scalar(FIND_SOURCE).fetch_one(&mut session.connection).await
            }
        };
        let found: String = found.map_err(|source| End::To.failed("reading its mark", source))?;
        if found == epoch {
            return Ok(());
        }
        Err(CopyError::OfAnother { url: self.shown() })
    }

    async fn mark(&mut self, epoch: &str) -> Result<(), sqlx::Error> {
        match self {
            Self::File(target) => {
                let mut tx = target.connection.begin_with("BEGIN IMMEDIATE").await?;
                sqlx::query(MARK).execute(&mut *tx).await?;
                sqlx::query(NAME_SOURCE).bind(epoch).execute(&mut *tx).await?;
                tx.commit().await
            }
            Self::Server(session) => {
                let mut tx = session.connection.begin().await?;
                sqlx::query(MARK).execute(&mut *tx).await?;
                sqlx::query(NAME_SOURCE).bind(epoch).execute(&mut *tx).await?;
                tx.commit().await
            }
        }
    }

    /// Takes the mark back where a server has opened the database just before it got the mark. A later one is refused.
    async fn refuse_servers(&mut self) -> Result<(), CopyError> {
        let Self::Server(session) = self else { return Ok(()) };
        let refused = session.refuse_servers().await;
        if refused.is_err() {
            session.run(UNMARK, "taking its mark back").await?;
        }
        refused
    }

    async fn run(&mut self, statement: &'static str) -> Result<(), sqlx::Error> {
        match self {
            Self::File(target) => execute(&mut target.connection, statement).await,
            Self::Server(session) => {
                sqlx::query(statement).execute(&mut session.connection).await.map(drop)
            }
        }
    }

    /// Adds rows in one transaction.
    pub(crate) async fn add(
        &mut self,
        table: &'static Table,
        rows: &[Row],
    ) -> Result<(), CopyError> {
        let added = match self {
            Self::File(target) => target.add(table, rows).await,
            Self::Server(session) => copy_in(session, table, rows).await,
        };
        added.map_err(|source| End::To.failed("adding rows to it", source))
    }

    /// Removes the mark. From then on the database is usable.
    pub(crate) async fn finish(self) -> Result<(), CopyError> {
        match self {
            Self::File(target) => target.finish().await.map_err(|source| End::To.unusable(source)),
            Self::Server(mut session) => {
                let tables = TABLES.iter().map(|table| table.name).collect::<Vec<_>>().join(", ");
                // A new table has no statistics until autovacuum comes by.
                let analyze = AssertSqlSafe(format!("ANALYZE {tables}"));
                let analyzed = sqlx::raw_sql(analyze).execute(&mut session.connection).await;
                analyzed.map_err(|source| End::To.failed("analyzing its tables", source))?;
                session.run(FINISH, "finishing it").await?;
                session.close().await
            }
        }
    }
}

impl TargetFile {
    /// Opens a database for a copy, or creates it. Returns whether it has the mark already.
    async fn open(url: &str) -> Result<(Self, bool), OpenError> {
        let refused = || OpenError::Url { url: url.to_owned() };
        let file = DatabaseFile::parse(url).ok_or_else(refused)?;
        let lock = ServerLock::acquire(url, "copy").await?;
        let opened = file.open(Schema::Migrate)?;
        let failed = |source| file.failed(source);
        let Looked { mut connection, mut found, .. } = schema::look_closely(&file).await?;
        let is_resumed = found == SchemaState::Unfinished;
        if is_resumed {
            found = schema::look_at_migrations(&mut connection).await.map_err(failed)?;
        }
        connection.close().await.map_err(failed)?;
        if found == SchemaState::Empty {
            schema::prepare(&file, Schema::Migrate).await?;
        } else {
            schema::refuse(&file, &found, Schema::MustBeCurrent)?;
        }
        let mut connection = file.connect_writer().await?;
        execute(&mut connection, CHECKPOINT).await.map_err(failed)?;
        Ok((Self { connection, file, _opened: opened, _lock: lock }, is_resumed))
    }

    async fn add(&mut self, table: &Table, rows: &[Row]) -> Result<(), sqlx::Error> {
        let mut tx = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        for rows in rows.chunks(ROWS) {
            let mut arguments = SqliteArguments::default();
            for cell in rows.iter().flatten() {
                cell.add_to_sqlite(&mut arguments);
            }
            let insert = AssertSqlSafe(table.insert(rows.len()));
            let insert = sqlx::query_with(insert, arguments).persistent(rows.len() == ROWS);
            insert.execute(&mut *tx).await?;
        }
        tx.commit().await
    }

    /// Moves the log into the file, so that a failure of the disk is noticed, and then removes the mark.
    async fn finish(mut self) -> Result<(), OpenError> {
        let finished = async {
            let _: String = sqlx::query_scalar(END_LOG).fetch_one(&mut self.connection).await?;
            let mut tx = self.connection.begin_with("BEGIN IMMEDIATE").await?;
            execute(&mut tx, UNMARK).await?;
            execute(&mut tx, "PRAGMA incremental_vacuum").await?;
            tx.commit().await
        };
        finished.await.map_err(|source| self.file.failed_exclusive(source))?;
        self.connection.close().await.map_err(|source| self.file.failed(source))
    }
}

/// Opens a database for a copy, and makes the tables of an empty one. Returns whether it has the mark already.
async fn open_server(url: &PgUrl) -> Result<(CopySession, bool), CopyError> {
    let mut session = CopySession::open(url, End::To).await?;
    let prepared = async {
        let mut found = postgres::schema::look(url, &mut session.connection).await?;
        let is_resumed = found == SchemaState::Unfinished;
        if is_resumed {
            found = postgres::schema::look_at_migrations(url, &mut session.connection).await?;
        }
        if found == SchemaState::Empty {
            postgres::schema::migrate(url).await?;
        } else {
            postgres::schema::refuse_unless_current(url, &found)?;
        }
        Ok(is_resumed)
    };
    let is_resumed = prepared.await.map_err(|source| End::To.unusable(source))?;
    Ok((session, is_resumed))
}

/// Adds rows with `COPY`, which is one transaction.
async fn copy_in(
    session: &mut CopySession,
    table: &Table,
    rows: &[Row],
) -> Result<(), sqlx::Error> {
    let mut copying = session.connection.copy_in_raw(&table.copy_in()).await?;
    copying.send(as_copy_text(rows)).await?;
    copying.finish().await.map(drop)
}
