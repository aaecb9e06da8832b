//! The writing connection, within a transaction.
//!
//! SQLite works on a thread of its own. Each awaited statement costs two thread switches, which on a busy machine take
//! longer than the statement. So a statement whose result no code needs is deferred: it is sent with the next statement
//! whose result is needed, or with the commit.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{AssertSqlSafe, FromRow, SqliteConnection};

use crate::domain::{Limits, StationId, UserId};
use crate::store::Error;
use crate::store::error::Doing as _;
use crate::store::many_rows::{ManyRows, Values};

/// Maximum joined statement texts that are cached: as many as sqlx keeps prepared.
const TEXTS: usize = 100;

/// A transaction, and the users it affects. A user is mapped to the station at which the change was made, if it was
/// only one.
pub struct WriteTx {
    connection: SqliteConnection,
    limits: Limits,
    /// Statements to be sent with the next one.
    deferred: Vec<&'static str>,
    arguments: SqliteArguments,
    /// Joined texts, keyed by the memory addresses of the single statements.
    texts: HashMap<Vec<usize>, Arc<str>>,
    affected: HashMap<UserId, Option<StationId>>,
}

impl WriteTx {
    pub(crate) fn new(connection: SqliteConnection, limits: Limits) -> Self {
        Self {
            connection,
            limits,
            deferred: Vec::new(),
            arguments: SqliteArguments::default(),
            texts: HashMap::new(),
            affected: HashMap::new(),
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Begins a transaction that holds SQLite's write lock. The first statement waits while another process holds it.
    pub(crate) fn begin(&mut self) {
        self.deferred.push("BEGIN IMMEDIATE");
    }

    /// Defers a statement over these rows until the next statement that is awaited.
    pub(crate) fn defer<R>(
        &mut self,
        statement: &'static ManyRows,
        rows: &[R],
        bind: impl Fn(&R, &mut Values<'_>),
    ) {
        self.deferred.push(statement.bind(rows, &mut self.arguments, bind));
    }

    /// Runs a statement over these rows, after the deferred ones, and returns its value.
    pub(crate) async fn query_scalar<R, T>(
        &mut self,
        statement: &'static ManyRows,
        rows: &[R],
        bind: impl Fn(&R, &mut Values<'_>),
    ) -> Result<T, sqlx::Error>
    where
        (T,): for<'r> FromRow<'r, SqliteRow>,
        T: Send + Unpin,
    {
        self.defer(statement, rows, bind);
        let (text, arguments) = self.take();
        sqlx::query_scalar_with(AssertSqlSafe(text), arguments)
            .fetch_one(&mut self.connection)
            .await
    }

    /// Returns the connection for other statements, once all deferred statements are executed.
    pub(crate) async fn connection(&mut self) -> Result<&mut SqliteConnection, Error> {
        if !self.deferred.is_empty() {
            self.execute_deferred().await.doing("executing statements")?;
        }
        Ok(&mut self.connection)
    }

    /// Commits the transaction: its changes are on disk. Returns the affected users.
    pub(crate) async fn commit(&mut self) -> Result<HashMap<UserId, Option<StationId>>, Error> {
        self.deferred.push("COMMIT");
        self.execute_deferred().await.doing("committing a batch")?;
        Ok(std::mem::take(&mut self.affected))
    }

    /// Rolls the transaction back. If this fails, the connection may be in any state.
    pub(crate) async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        self.take();
        self.affected.clear();
        sqlx::query("ROLLBACK").execute(&mut self.connection).await.map(drop)
    }

    /// Marks a user as affected, for wake-ups after the commit. `at` is the station that made the change and need not
    /// be woken; a second change from elsewhere clears it.
    pub(crate) fn notify(&mut self, user: UserId, at: Option<StationId>) {
        let known = self.affected.entry(user).or_insert(at);
        if *known != at {
            *known = None;
        }
    }

    /// Returns the connection between two transactions.
    pub(crate) fn idle(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    pub(crate) fn into_connection(self) -> SqliteConnection {
        self.connection
    }

    async fn execute_deferred(&mut self) -> Result<(), sqlx::Error> {
        let (text, arguments) = self.take();
        let executed = sqlx::query_with(AssertSqlSafe(text), arguments);
        executed.execute(&mut self.connection).await.map(drop)
    }

    /// Takes the deferred statements as one text, with their arguments.
    fn take(&mut self) -> (Arc<str>, SqliteArguments) {
        let statements = std::mem::take(&mut self.deferred);
        if self.texts.len() >= TEXTS {
            self.texts.clear();
        }
        let key = statements.iter().map(|statement| statement.as_ptr().addr()).collect();
        let text = self.texts.entry(key).or_insert_with(|| statements.join(";\n").into());
        (Arc::clone(text), std::mem::take(&mut self.arguments))
    }
}
