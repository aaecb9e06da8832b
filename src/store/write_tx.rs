//! The writing connection, within a transaction.

use std::collections::HashMap;
use std::sync::Arc;

use super::Error;
use super::affected::Affected;
use super::commit_event::News;
use super::deferred::Deferred;
use super::error::Doing as _;
use super::listing::listed;
use super::many_rows::{ManyRows, Values};
use super::sql::{Columns, Connection, Query, Sql};
use crate::audit::Actor;
use crate::domain::{Limits, UserId};
use crate::sealing::KeyRing;

listed!(BEGIN, TAKE_TURN, COMMIT, ROLLBACK);

/// Takes SQLite's write lock, or waits while another process holds it. PostgreSQL has no such lock: there, a transaction
/// that could not have been made alone fails, and is repeated ([`Error::is_repeatable`]).
const BEGIN: Sql = Sql::pair("BEGIN IMMEDIATE", "BEGIN ISOLATION LEVEL SERIALIZABLE");

/// Waits until no other transaction has its turn; this one has it until it ends. It precedes the snapshot, so the batch sees
/// what those before it committed. The mode excludes itself, and upkeep of a table that has one row.
const TAKE_TURN: Sql = Sql::of_postgres("LOCK TABLE epoch IN SHARE UPDATE EXCLUSIVE MODE");

const COMMIT: Sql = Sql::both("COMMIT");

pub(super) const ROLLBACK: Sql = Sql::both("ROLLBACK");

/// A transaction, and the users it affects.
pub struct WriteTx {
    connection: Connection,
    limits: Limits,
    keys: Arc<KeyRing>,
    /// Author of the change that is being applied.
    actor: Actor,
    /// Statements to be sent with the next one.
    deferred: Deferred,
    /// Whether a failed commit has ended the transaction.
    is_over: bool,
    pub(super) affected: Affected,
}

impl WriteTx {
    pub(crate) fn new(connection: Connection, limits: Limits, keys: Arc<KeyRing>) -> Self {
        let deferred = Deferred::on(&connection);
        let affected = Affected::default();
        Self { connection, limits, keys, actor: Actor::Server, deferred, is_over: false, affected }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the keys that seal API keys.
    pub(crate) fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// Returns the same keys, to be used beside the connection.
    pub(crate) fn shared_keys(&self) -> Arc<KeyRing> {
        Arc::clone(&self.keys)
    }

    /// Returns the author of the change that is being applied.
    pub(super) fn actor(&self) -> &Actor {
        &self.actor
    }

    /// Sets the author of the changes that follow.
    pub(super) fn set_actor(&mut self, actor: &Actor) {
        self.actor.clone_from(actor);
    }

    /// Begins a transaction, with the first statement.
    pub(crate) fn begin(&mut self) {
        self.deferred.push(BEGIN);
    }

    /// Begins a transaction that takes turns with those of other nodes that were begun so.
    pub(crate) fn begin_in_turn(&mut self) {
        self.begin();
        if self.is_on_server() {
            self.deferred.push(TAKE_TURN);
        }
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
        self.deferred.last(&mut self.connection).await?.value().await
    }

    /// Makes a statement that runs after the deferred ones.
    pub(crate) async fn query(&mut self, sql: Sql) -> Result<Query<'_>, Error> {
        Ok(self.connection().await?.query(sql))
    }

    /// Returns the connection for other statements, once all deferred statements are executed.
    pub(crate) async fn connection(&mut self) -> Result<&mut Connection, Error> {
        if !self.deferred.is_empty() {
            self.run_deferred().await.doing("executing statements")?;
        }
        Ok(&mut self.connection)
    }

    /// Commits the transaction: its changes are on disk. Returns what is new for the affected users.
    pub(crate) async fn commit(&mut self) -> Result<HashMap<UserId, News>, Error> {
        let affected = std::mem::take(&mut self.affected);
        affected.select_numbers(self);
        let mut selected = Vec::new();
        if self.is_on_server() {
            // Sent alone anyway, and nothing is made where one of them fails.
            selected = self.run_deferred().await.doing("executing statements")?;
        }
        self.deferred.push(COMMIT);
        match self.run_deferred().await.doing("committing a batch") {
            Ok(more) => selected.extend(more),
            Err(error) => {
                // PostgreSQL ends the transaction even where it refuses to commit.
                self.is_over = self.is_on_server();
                // The commit may have been made, so it can't be repeated.
                let is_lost = matches!(error, Error::SessionLost);
                return Err(if is_lost { Error::Disconnected } else { error });
            }
        }
        Ok(affected.news(&selected))
    }

    /// Rolls the transaction back. If this fails, the connection may be in any state.
    pub(crate) async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        self.deferred.clear();
        self.affected = Affected::default();
        if std::mem::take(&mut self.is_over) {
            return Ok(());
        }
        self.connection.query(ROLLBACK).execute().await.map(drop)
    }

    /// Whether the database is PostgreSQL: there, any statement may wait for other transactions, the deferred ones
    /// included. In SQLite only the first one does.
    pub(crate) fn is_on_server(&self) -> bool {
        matches!(self.connection, Connection::Postgres(_))
    }

    /// Whether the connection is of no more use.
    pub(crate) fn is_lost(&self) -> bool {
        self.connection.is_lost()
    }

    /// Returns the connection between two transactions.
    pub(crate) fn idle(&mut self) -> &mut Connection {
        &mut self.connection
    }

    pub(crate) fn into_connection(self) -> Connection {
        self.connection
    }

    async fn run_deferred(&mut self) -> Result<Vec<String>, sqlx::Error> {
        self.deferred.run(&mut self.connection).await
    }
}
