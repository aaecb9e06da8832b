//! Statements over many rows at once, so that a batch goes to SQLite's thread and back once.

use std::sync::OnceLock;

use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, Encode, Sqlite, Type};

/// Maximum rows per statement. SQLite's limit of 32,766 bound values is far above what they need.
pub(crate) const ROWS: usize = 256;

/// Number of statement texts: one for each power of two from 1 to [`ROWS`].
const SIZES: usize = ROWS.ilog2() as usize + 1;

/// A statement over many rows. `{rows}` stands for a query that yields them, with the columns `column1`, `column2` and
/// so on; or for another text per row.
///
/// The query is a `VALUES` list, padded with rows of `NULL` to a power of two, so that a handful of prepared statements
/// serves every number of rows.
pub(crate) struct ManyRows {
    statement: &'static str,
    /// Text of one row, where it is not a list of values.
    row: Option<&'static str>,
    columns: usize,
    texts: [OnceLock<String>; SIZES],
}

impl ManyRows {
    pub(crate) const fn new(statement: &'static str, columns: usize) -> Self {
        Self { statement, row: None, columns, texts: [const { OnceLock::new() }; SIZES] }
    }

    /// A statement that yields one row with a column for each given row. The column is the value of a query with this
    /// many parameters, or NULL where the row is padding.
    pub(crate) const fn values_of(query: &'static str, parameters: usize) -> Self {
        let texts = [const { OnceLock::new() }; SIZES];
        Self { statement: "SELECT {rows}", row: Some(query), columns: parameters, texts }
    }

    /// Binds at least one and at most [`ROWS`] rows, and returns the text of the statement for their number.
    pub(crate) fn bind<R>(
        &'static self,
        rows: &[R],
        arguments: &mut SqliteArguments,
        bind: impl Fn(&R, &mut Values<'_>),
    ) -> &'static str {
        let padded = rows.len().next_power_of_two();
        arguments.reserve(padded * self.columns, 0);
        for row in rows {
            bind(row, &mut Values(arguments));
        }
        for _ in 0..(padded - rows.len()) * self.columns {
            Values(arguments).add(None::<i64>);
        }
        self.texts[padded.ilog2() as usize].get_or_init(|| self.render(padded))
    }

    fn render(&self, rows: usize) -> String {
        // Parameters have no numbers: sqlx looks up each parameter name in SQLite, which searches all of them.
        let (values, row) = match self.row {
            Some(query) => {
                // A wrong count would shift the parameters, and the next row would be queried for another user.
                assert_eq!(query.matches('?').count(), self.columns, "parameters of {query}");
                ("", format!("({query})"))
            }
            None => ("VALUES ", format!("({})", vec!["?"; self.columns].join(", "))),
        };
        let rows = vec![row.as_str(); rows].join(", ");
        let text = self.statement.replace("{rows}", &format!("{values}{rows}"));
        // On each use, sqlx looks up the whole text among its prepared statements, so the text has no indentation. No
        // literal may have a line that begins with spaces.
        text.lines().map(str::trim_start).collect::<Vec<_>>().join("\n")
    }
}

/// Values of one row, in the order of the columns.
pub(crate) struct Values<'a>(&'a mut SqliteArguments);

impl Values<'_> {
    pub(crate) fn add<'v>(&mut self, value: impl Encode<'v, Sqlite> + Type<Sqlite>) -> &mut Self {
        self.0.add(value).expect("text and numbers have a form in SQLite");
        self
    }
}
