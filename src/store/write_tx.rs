//! The connection that writes, within a transaction.
//!
//! SQLite works on a thread of its own, and each statement that is waited for costs two changes of threads, which on a
//! busy machine take longer than the statement. So what nobody waits for is carried out later, with the next
//! statement whose result somebody needs, or with the commit.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{AssertSqlSafe, FromRow, SqliteConnection};

use super::Error;
use super::error::Doing as _;
use super::values::{ManyRows, Values};
use crate::domain::{Limits, StationId, UserId};

/// The most texts of several statements that are remembered: as many as sqlx keeps prepared.
const TEXTS: usize = 100;

/// A transaction, and of whom it has changed something: at which station, where it was one alone.
pub struct WriteTx {
    connection: SqliteConnection,
    limits: Limits,
    /// What is to be carried out with the next statement.
    deferred: Vec<&'static str>,
    arguments: SqliteArguments,
    /// Texts of several statements, by the places in memory of the single ones.
    texts: HashMap<Vec<usize>, Arc<str>>,
    affected: HashMap<UserId, Option<StationId>>,
}

impl WriteTx {
    pub(super) fn new(connection: SqliteConnection, limits: Limits) -> Self {
        Self {
            connection,
            limits,
            deferred: Vec::new(),
            arguments: SqliteArguments::default(),
            texts: HashMap::new(),
            affected: HashMap::new(),
        }
    }

    /// Bounds that changes are judged by.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Begins a transaction that holds the right to write. The first statement waits where another process has it.
    pub(super) fn begin(&mut self) {
        self.deferred.push("BEGIN IMMEDIATE");
    }

    /// Has a statement over these rows carried out, by and by.
    pub(super) fn defer<R>(
        &mut self,
        statement: &'static ManyRows,
        rows: &[R],
        bind: impl Fn(&R, &mut Values<'_>),
    ) {
        self.deferred.push(statement.bind(rows, &mut self.arguments, bind));
    }

    /// The value that a statement makes of these rows.
    pub(super) async fn query_scalar<R, T>(
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

    /// The connection, for other statements, once everything before them is carried out.
    pub(super) async fn connection(&mut self) -> Result<&mut SqliteConnection, Error> {
        if !self.deferred.is_empty() {
            self.execute_deferred().await.doing("carrying statements out")?;
        }
        Ok(&mut self.connection)
    }

    /// Ends the transaction: what was changed is on disk, and told of are those whom it concerns.
    pub(super) async fn commit(&mut self) -> Result<HashMap<UserId, Option<StationId>>, Error> {
        self.deferred.push("COMMIT");
        self.execute_deferred().await.doing("committing a batch")?;
        Ok(std::mem::take(&mut self.affected))
    }

    /// Ends the transaction and changes nothing. After a failure of this the connection may be in any state.
    pub(super) async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        self.take();
        self.affected.clear();
        sqlx::query("ROLLBACK").execute(&mut self.connection).await.map(drop)
    }

    /// Once the transaction is committed, something has changed for this user, at this station of the user's if at any,
    /// which need not be told.
    pub(super) fn notify(&mut self, user: UserId, at: Option<StationId>) {
        let known = self.affected.entry(user).or_insert(at);
        if *known != at {
            *known = None;
        }
    }

    /// The connection between two transactions.
    pub(super) fn idle(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    pub(super) fn into_connection(self) -> SqliteConnection {
        self.connection
    }

    async fn execute_deferred(&mut self) -> Result<(), sqlx::Error> {
        let (text, arguments) = self.take();
        let executed = sqlx::query_with(AssertSqlSafe(text), arguments);
        executed.execute(&mut self.connection).await.map(drop)
    }

    /// What is to be carried out, as one text.
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
