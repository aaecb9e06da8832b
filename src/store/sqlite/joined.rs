//! Deferred statements of a transaction on SQLite, joined into one text.
//!
//! SQLite works on a thread of its own. Each awaited statement costs two thread switches, which on a busy machine take
//! longer than the statement. So a statement whose result no code needs is deferred: it is sent with the next statement
//! whose result is needed, or with the commit.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqliteConnection};

use crate::store::many_rows::{ManyRows, Values};
use crate::store::sql::Query;

/// Maximum joined statement texts that are cached: as many as sqlx keeps prepared.
const TEXTS: usize = 100;

#[derive(Default)]
pub(crate) struct Joined {
    statements: Vec<&'static str>,
    arguments: SqliteArguments,
    /// Joined texts, keyed by the memory addresses of the single statements.
    texts: HashMap<Vec<usize>, Arc<str>>,
}

impl Joined {
    pub(crate) fn push(&mut self, statement: &'static str) {
        self.statements.push(statement);
    }

    pub(crate) fn push_rows<R>(
        &mut self,
        statement: &'static ManyRows,
        rows: &[R],
        bind: impl Fn(&R, &mut Values<'_>),
    ) {
        self.statements.push(statement.bind_sqlite(rows, &mut self.arguments, bind));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// Takes the statements as one text, with their arguments.
    pub(crate) fn take<'c>(&mut self, connection: &'c mut SqliteConnection) -> Query<'c> {
        let statements = std::mem::take(&mut self.statements);
        if self.texts.len() >= TEXTS {
            self.texts.clear();
        }
        let key = statements.iter().map(|statement| statement.as_ptr().addr()).collect();
        let text = self.texts.entry(key).or_insert_with(|| statements.join(";\n").into());
        let text = AssertSqlSafe(Arc::clone(text)).into_sql_str();
        Query::of_sqlite(connection, text, std::mem::take(&mut self.arguments))
    }

    pub(crate) fn clear(&mut self) {
        self.statements.clear();
        self.arguments = SqliteArguments::default();
    }
}
