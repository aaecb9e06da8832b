//! Statements over many rows at once, so that a batch goes to SQLite's thread and back once.

use std::slice;
use std::sync::OnceLock;

use sqlx::Arguments as _;
use sqlx::sqlite::SqliteArguments;

#[cfg(feature = "statements")]
use super::listing::Statement;
use super::sql::Value;

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

#[cfg(feature = "statements")]
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
/// The rows are padded with rows of `NULL` to a power of two, so that a handful of prepared statements serves every
/// number of rows.
pub(crate) struct ManyRows {
    statement: &'static str,
    rows: Rows,
    texts: [OnceLock<String>; SIZES],
}

impl ManyRows {
    pub(crate) const fn new(statement: &'static str, columns: &'static [Column]) -> Self {
        Self { statement, rows: Rows::Values(columns), texts: [const { OnceLock::new() }; SIZES] }
    }

    /// A statement that yields one row with a column for each given row. The column is the value of a query with these
    /// parameters, or NULL where the row is padding.
    pub(crate) const fn values_of(query: &'static str, parameters: &'static [Column]) -> Self {
        let texts = [const { OnceLock::new() }; SIZES];
        Self { statement: "SELECT {rows}", rows: Rows::Queries(query, parameters), texts }
    }

    /// Binds at least one and at most [`ROWS`] rows, and returns the text of the statement for their number.
    pub(crate) fn bind<R>(
        &'static self,
        rows: &[R],
        arguments: &mut SqliteArguments,
        bind: impl Fn(&R, &mut Values<'_>),
    ) -> &'static str {
        let padded = rows.len().next_power_of_two();
        let (Rows::Values(columns) | Rows::Queries(_, columns)) = self.rows;
        arguments.reserve(padded * columns.len(), 0);
        for row in rows {
            bind(row, &mut Values { arguments: &mut *arguments, columns: columns.iter() });
        }
        for _ in 0..(padded - rows.len()) * columns.len() {
            Value::Integer(None).add_to(arguments);
        }
        self.texts[padded.ilog2() as usize].get_or_init(|| self.render(padded))
    }

    /// Describes the statement with one row. PostgreSQL takes an array for each column of many rows, and one request of
    /// those that SQLite coalesces.
    #[cfg(feature = "statements")]
    pub(crate) fn listed(&self, file: &'static str, name: &'static str) -> Statement {
        let (rows, parameters) = match self.rows {
            Rows::Values(columns) => {
                let parameters = (1..).zip(columns);
                let arrays = parameters.map(|(n, column)| format!("${n}::{}[]", column.name()));
                let arrays = arrays.collect::<Vec<_>>().join(", ");
                let names = (1..=columns.len()).map(|n| format!("column{n}"));
                let names = names.collect::<Vec<_>>().join(", ");
                (format!("SELECT * FROM unnest({arrays}) AS _ ({names})"), None)
            }
            Rows::Queries(query, parameters) => {
                let mut numbered = query.to_owned();
                for n in 1..=parameters.len() {
                    numbered = numbered.replacen('?', &format!("${n}"), 1);
                }
                let parameters = parameters.iter().map(|column| column.name()).collect();
                (format!("({numbered})"), Some(parameters))
            }
        };
        let (sqlite, postgres) = (self.render(1), self.statement.replace("{rows}", &rows));
        Statement { file, name, sqlite, postgres, parameters }
    }

    fn render(&self, rows: usize) -> String {
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
        let text = self.statement.replace("{rows}", &rows);
        // On each use, sqlx looks up the whole text among its prepared statements, so the text has no indentation. No
        // literal may have a line that begins with spaces.
        text.lines().map(str::trim_start).collect::<Vec<_>>().join("\n")
    }
}

/// Values of one row, in the order of the columns.
pub(crate) struct Values<'a> {
    arguments: &'a mut SqliteArguments,
    /// Types of the values that are still to come.
    columns: slice::Iter<'static, Column>,
}

impl Values<'_> {
    pub(crate) fn add<'v>(&mut self, value: impl Into<Value<'v>>) -> &mut Self {
        let value = value.into();
        let column = self.columns.next();
        debug_assert_eq!(Some(value.column()), column.copied(), "the type of a value");
        value.add_to(self.arguments);
        self
    }
}
