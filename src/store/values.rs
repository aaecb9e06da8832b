//! Statements over many rows at once.

use std::sync::OnceLock;

use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, Encode, Sqlite, Type};

/// The most rows of one statement. SQLite binds at most 32,766 values, which is far above.
pub(super) const ROWS: usize = 256;

/// One text for each power of two up to [`ROWS`].
const SIZES: usize = ROWS.ilog2() as usize + 1;

/// A statement with a `VALUES` list, or another text for each row, in the place of `{rows}`, which is padded with rows
/// of `NULL` to a power of two, so that a handful of prepared statements serves every number of rows.
pub(super) struct ManyRows {
    statement: &'static str,
    /// What stands for one row, where that is no list of values.
    row: Option<&'static str>,
    columns: usize,
    texts: [OnceLock<String>; SIZES],
}

impl ManyRows {
    pub(super) const fn new(statement: &'static str, columns: usize) -> Self {
        Self { statement, row: None, columns, texts: [const { OnceLock::new() }; SIZES] }
    }

    /// A statement for one row, which has a column for each of the rows that are given: the value of a query with so
    /// many parameters, or NULL where it is padded.
    pub(super) const fn values_of(query: &'static str, parameters: usize) -> Self {
        let texts = [const { OnceLock::new() }; SIZES];
        Self { statement: "SELECT {rows}", row: Some(query), columns: parameters, texts }
    }

    /// The statement for these rows, at least one and at most [`ROWS`], whose values are added to the arguments.
    pub(super) fn bind<R>(
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
        // Without numbers: sqlx looks each name of a parameter up in SQLite, which looks through all of them.
        let row = match self.row {
            Some(query) => {
                // One too few or too many, and the next one of a row would be asked for somebody else.
                assert_eq!(query.matches('?').count(), self.columns, "parameters of {query}");
                format!("({query})")
            }
            None => format!("({})", vec!["?"; self.columns].join(", ")),
        };
        let text = self.statement.replace("{rows}", &vec![row.as_str(); rows].join(", "));
        // Each time it is used, sqlx looks for all of it among those that are prepared. So it has no indentation; no
        // literal may have a line that begins with spaces.
        text.lines().map(str::trim_start).collect::<Vec<_>>().join("\n")
    }
}

/// The values of one row, in the order of the columns.
pub(super) struct Values<'a>(&'a mut SqliteArguments);

impl Values<'_> {
    /// The value of the next column.
    pub(super) fn add<'v>(&mut self, value: impl Encode<'v, Sqlite> + Type<Sqlite>) -> &mut Self {
        self.0.add(value).expect("text and numbers have a form in SQLite");
        self
    }
}
