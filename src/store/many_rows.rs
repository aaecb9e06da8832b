//! Statements over many rows at once, so that a batch goes to SQLite's thread, or to PostgreSQL's server, and back once.

use std::slice;
use std::sync::OnceLock;

use sqlx::Arguments as _;
use sqlx::postgres::PgArguments;
use sqlx::sqlite::SqliteArguments;

#[cfg(feature = "statements")]
use super::listing::Statement;
use super::postgres::arrays::{Array, Arrays};
use super::sql::{Sql, Value};

/// Maximum rows per statement. SQLite's limit of 32,766 bound values is far above what they need.
pub(crate) const ROWS: usize = 256;

/// Number of statement texts: one for each power of two from 1 to [`ROWS`].
const SIZES: usize = ROWS.ilog2() as usize + 1;

/// The type of a column of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    Text,
    Integer,
    Flag,
}

impl Column {
    /// Returns the name of the type in PostgreSQL.
    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "bigint",
            Self::Flag => "boolean",
        }
    }
}

/// SQL in place of `{rows}`.
enum Rows {
    /// A query that yields the rows, with the columns `column1`, `column2` and so on.
    Values(&'static [Column]),
    /// The value of a query for each row, which has these parameters.
    Queries(&'static str, &'static [Column]),
}

/// A statement over many rows, which it names `{rows}`.
///
/// For SQLite, the rows are padded with rows of `NULL` to a power of two, so that a handful of prepared statements
/// serves every number of rows. PostgreSQL takes an array for each column.
pub(crate) struct ManyRows {
    statement: Sql,
    rows: Rows,
    sqlite: [OnceLock<String>; SIZES],
    postgres: OnceLock<String>,
}

impl ManyRows {
    /// A statement that SQLite and PostgreSQL read alike.
    pub(crate) const fn new(statement: &'static str, columns: &'static [Column]) -> Self {
        Self::of(Sql::both(statement), Rows::Values(columns))
    }

    /// A statement for each database.
    pub(crate) const fn pair(
        sqlite: &'static str,
        postgres: &'static str,
        columns: &'static [Column],
    ) -> Self {
        Self::of(Sql::pair(sqlite, postgres), Rows::Values(columns))
    }

    /// A statement that yields one row with a column for each given row. The column is the value of a query with these
    /// parameters, or NULL where the row is padding. PostgreSQL takes a single row.
    pub(crate) const fn values_of(query: &'static str, parameters: &'static [Column]) -> Self {
        Self::of(Sql::both("SELECT {rows}"), Rows::Queries(query, parameters))
    }

    const fn of(statement: Sql, rows: Rows) -> Self {
        let sqlite = [const { OnceLock::new() }; SIZES];
        Self { statement, rows, sqlite, postgres: OnceLock::new() }
    }

    /// Binds at least one and at most [`ROWS`] rows, and returns the text of the statement for their number.
    pub(crate) fn bind_sqlite<R>(
        &'static self,
        rows: &[R],
        arguments: &mut SqliteArguments,
        bind: impl Fn(&R, &mut Values<'_>),
    ) -> &'static str {
        let padded = rows.len().next_power_of_two();
        let columns = self.columns();
        arguments.reserve(padded * columns.len(), 0);
        for row in rows {
            bind(row, &mut Values { row: Row::Sqlite(&mut *arguments), columns: columns.iter() });
        }
        for _ in 0..(padded - rows.len()) * columns.len() {
            Value::Integer(None).add_to_sqlite(arguments);
        }
        self.sqlite[padded.ilog2() as usize].get_or_init(|| self.text_for_sqlite(padded))
    }

    /// Binds at least one and at most [`ROWS`] rows, and returns the text of the statement.
    pub(crate) fn bind_postgres<R>(
        &'static self,
        rows: &[R],
        bind: impl Fn(&R, &mut Values<'_>),
    ) -> (&'static str, PgArguments) {
        let columns = self.columns();
        let mut arguments = PgArguments::default();
        if matches!(self.rows, Rows::Queries(..)) {
            debug_assert_eq!(rows.len(), 1, "PostgreSQL answers one query at a time");
            let row = Row::Postgres(&mut arguments);
            bind(&rows[0], &mut Values { row, columns: columns.iter() });
        } else {
            let mut arrays = Arrays::of(columns, rows.len());
            for row in rows {
                let columns = columns.iter();
                bind(row, &mut Values { row: Row::Arrays(arrays.row()), columns });
            }
            arrays.add_to(&mut arguments);
        }
        (self.postgres.get_or_init(|| self.text_for_postgres()), arguments)
    }

    fn columns(&self) -> &'static [Column] {
        let (Rows::Values(columns) | Rows::Queries(_, columns)) = self.rows;
        columns
    }

    /// Describes the statement, for SQLite with one row.
    #[cfg(feature = "statements")]
    pub(crate) fn listed(&self, file: &'static str, name: &'static str) -> Statement {
        let parameters = match self.rows {
            Rows::Values(_) => None,
            Rows::Queries(_, columns) => Some(columns.iter().map(|column| column.name()).collect()),
        };
        let (sqlite, postgres) = (Some(self.text_for_sqlite(1)), self.text_for_postgres());
        Statement { file, name, sqlite, postgres, parameters }
    }

    fn text_for_sqlite(&self, rows: usize) -> String {
        // Parameters have no numbers: sqlx looks up each parameter name in SQLite, which searches all of them.
        let rows = match self.rows {
            Rows::Values(columns) => {
                let row = format!("({})", vec!["?"; columns.len()].join(", "));
                format!("VALUES {}", vec![row.as_str(); rows].join(", "))
            }
            Rows::Queries(query, parameters) => {
                // A wrong count would shift the parameters, and the next row would be queried for another user.
                assert_eq!(query.matches('?').count(), parameters.len(), "parameters of {query}");
                vec![format!("({query})"); rows].join(", ")
            }
        };
        without_indentation(&self.statement.sqlite.replace("{rows}", &rows))
    }

    fn text_for_postgres(&self) -> String {
        let rows = match self.rows {
            Rows::Values(columns) => {
                let numbered = (1..).zip(columns);
                let arrays = numbered.map(|(n, column)| format!("${n}::{}[]", column.name()));
                let arrays = arrays.collect::<Vec<_>>().join(", ");
                let names = (1..=columns.len()).map(|n| format!("column{n}"));
                let names = names.collect::<Vec<_>>().join(", ");
                format!("SELECT * FROM unnest({arrays}) AS _ ({names})")
            }
            Rows::Queries(query, parameters) => {
                let mut numbered = query.to_owned();
                for n in 1..=parameters.len() {
                    numbered = numbered.replacen('?', &format!("${n}"), 1);
                }
                format!("({numbered})")
            }
        };
        without_indentation(&self.statement.postgres.replace("{rows}", &rows))
    }
}

/// On each use, sqlx looks up the whole text among its prepared statements, so a text has no indentation. No literal may
/// have a line that begins with spaces.
fn without_indentation(text: &str) -> String {
    text.lines().map(str::trim_start).collect::<Vec<_>>().join("\n")
}

/// Values of one row, in the order of the columns.
pub(crate) struct Values<'a> {
    row: Row<'a>,
    /// Types of the values that are still to come.
    columns: slice::Iter<'static, Column>,
}

/// Destination of the values of a row.
enum Row<'a> {
    Sqlite(&'a mut SqliteArguments),
    Postgres(&'a mut PgArguments),
    /// The arrays of the columns that are still to come.
    Arrays(slice::IterMut<'a, Array>),
}

impl Values<'_> {
    pub(crate) fn add<'v>(&mut self, value: impl Into<Value<'v>>) -> &mut Self {
        let value = value.into();
        let column = self.columns.next();
        debug_assert_eq!(Some(value.column()), column.copied(), "the type of a value");
        match &mut self.row {
            Row::Sqlite(arguments) => value.add_to_sqlite(arguments),
            Row::Postgres(arguments) => value.add_to_postgres(arguments),
            Row::Arrays(arrays) => arrays.next().expect("a value for each column").push(value),
        }
        self
    }
}
