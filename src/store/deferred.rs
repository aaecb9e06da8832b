//! Statements of a transaction that are sent later, because no code needs their results before the commit.

use sqlx::postgres::PgArguments;

use super::many_rows::{ManyRows, Values};
use super::sql::{Connection, Query, Sql};
use super::sqlite::joined::Joined;

/// Deferred statements, in their order.
pub(crate) enum Deferred {
    /// Statements that SQLite takes as one text.
    Joined(Joined),
    /// Statements that PostgreSQL takes one by one.
    Single(Vec<(&'static str, PgArguments)>),
}

impl Deferred {
    /// Defers nothing yet, for statements on this connection.
    pub(crate) fn on(connection: &Connection) -> Self {
        match connection {
            Connection::Sqlite(_) => Self::Joined(Joined::default()),
            Connection::Postgres(_) => Self::Single(Vec::new()),
        }
    }

    pub(crate) fn push(&mut self, statement: Sql) {
        match self {
            Self::Joined(joined) => joined.push(statement.sqlite),
            Self::Single(single) => single.push((statement.postgres, PgArguments::default())),
        }
    }

    pub(crate) fn push_rows<R>(
        &mut self,
        statement: &'static ManyRows,
        rows: &[R],
        bind: impl Fn(&R, &mut Values<'_>),
    ) {
        match self {
            Self::Joined(joined) => joined.push_rows(statement, rows, bind),
            Self::Single(single) => single.push(statement.bind_postgres(rows, bind)),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Joined(joined) => joined.is_empty(),
            Self::Single(single) => single.is_empty(),
        }
    }

    pub(crate) fn clear(&mut self) {
        match self {
            Self::Joined(joined) => joined.clear(),
            Self::Single(single) => single.clear(),
        }
    }

    /// Runs the statements, and returns the texts that they select.
    ///
    /// # Panics
    ///
    /// If the connection is to the other database.
    pub(crate) async fn run(
        &mut self,
        connection: &mut Connection,
    ) -> Result<Vec<String>, sqlx::Error> {
        let mut selected: Vec<Option<String>> = Vec::new();
        match (self, connection) {
            (Self::Joined(joined), Connection::Sqlite(connection)) => {
                selected = joined.take(connection).values().await?;
            }
            (Self::Single(single), Connection::Postgres(session)) => {
                for (text, arguments) in single.drain(..) {
                    let query = Query::of_postgres(session, text, arguments);
                    selected.extend(query.values::<Option<String>>().await?);
                }
            }
            _ => unreachable!("a transaction stays on its connection"),
        }
        Ok(selected.into_iter().flatten().collect())
    }

    /// Returns the last of at least one statement, to be run with its result. The others run before it.
    ///
    /// # Panics
    ///
    /// If no statement is deferred, or the connection is to the other database.
    pub(crate) async fn last<'c>(
        &mut self,
        connection: &'c mut Connection,
    ) -> Result<Query<'c>, sqlx::Error> {
        match (self, connection) {
            (Self::Joined(joined), Connection::Sqlite(connection)) => Ok(joined.take(connection)),
            (Self::Single(single), Connection::Postgres(session)) => {
                let last = single.pop().expect("a statement is deferred");
                for (text, arguments) in single.drain(..) {
                    Query::of_postgres(session, text, arguments).execute().await?;
                }
                Ok(Query::of_postgres(session, last.0, last.1))
            }
            _ => unreachable!("a transaction stays on its connection"),
        }
    }
}
