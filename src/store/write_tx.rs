//! The writing connection, within a transaction.

use std::collections::HashMap;

use super::Error;
use super::error::Doing as _;
use super::listing::listed;
use super::many_rows::{ManyRows, Values};
use super::sql::{Columns, Connection, Query, Sql};
use super::sqlite::deferred::Deferred;
use crate::domain::{Limits, StationId, UserId};

listed!(ROLLBACK);

const ROLLBACK: Sql = Sql::both("ROLLBACK");

/// A transaction, and the users it affects. A user is mapped to the station at which the change was made, if it was
/// only one.
pub struct WriteTx {
    connection: Connection,
    limits: Limits,
    /// Statements to be sent with the next one.
    deferred: Deferred,
    affected: HashMap<UserId, Option<StationId>>,
}

impl WriteTx {
    pub(crate) fn new(connection: Connection, limits: Limits) -> Self {
        Self { connection, limits, deferred: Deferred::default(), affected: HashMap::new() }
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
        self.deferred.push_rows(statement, rows, bind);
    }

    /// Runs a statement over these rows, after the deferred ones, and returns its value.
    pub(crate) async fn query_scalar<R, T>(
        &mut self,
        statement: &'static ManyRows,
        rows: &[R],
        bind: impl Fn(&R, &mut Values<'_>),
    ) -> Result<T, sqlx::Error>
    where
        (T,): Columns,
    {
        self.defer(statement, rows, bind);
        let (text, arguments) = self.deferred.take();
        self.connection.query_with(text, arguments).value().await
    }

    /// Makes a statement that runs after the deferred ones.
    pub(crate) async fn query(&mut self, sql: Sql) -> Result<Query<'_>, Error> {
        Ok(self.connection().await?.query(sql))
    }

    /// Returns the connection for other statements, once all deferred statements are executed.
    pub(crate) async fn connection(&mut self) -> Result<&mut Connection, Error> {
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
        self.deferred.clear();
        self.affected.clear();
        self.connection.query(ROLLBACK).execute().await.map(drop)
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
    pub(crate) fn idle(&mut self) -> &mut Connection {
        &mut self.connection
    }

    pub(crate) fn into_connection(self) -> Connection {
        self.connection
    }

    async fn execute_deferred(&mut self) -> Result<(), sqlx::Error> {
        let (text, arguments) = self.deferred.take();
        self.connection.query_with(text, arguments).execute().await.map(drop)
    }
}
