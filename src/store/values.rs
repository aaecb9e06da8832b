//! Statements over many rows at once.

use std::sync::OnceLock;

/// The most rows of one statement. SQLite binds at most 32,766 values, which is far above.
pub(super) const ROWS: usize = 256;

/// One text for each power of two up to [`ROWS`].
const SIZES: usize = ROWS.ilog2() as usize + 1;

/// A statement with a `VALUES` list in the place of `{rows}`, which is padded with rows of `NULL` to
/// a power of two, so that a handful of prepared statements serves every number of rows.
pub(super) struct ManyRows {
    statement: &'static str,
    columns: usize,
    texts: [OnceLock<String>; SIZES],
}

impl ManyRows {
    pub(super) const fn new(statement: &'static str, columns: usize) -> Self {
        Self { statement, columns, texts: [const { OnceLock::new() }; SIZES] }
    }

    /// The number of rows that must be bound for this many.
    pub(super) fn padded(rows: usize) -> usize {
        rows.next_power_of_two()
    }

    /// The statement for this many rows, at most [`ROWS`].
    pub(super) fn text(&'static self, rows: usize) -> &'static str {
        let padded = Self::padded(rows);
        self.texts[padded.ilog2() as usize].get_or_init(|| self.render(padded))
    }

    fn render(&self, rows: usize) -> String {
        let mut list = String::new();
        for row in 0..rows {
            list.push_str(if row == 0 { "(" } else { ", (" });
            for column in 0..self.columns {
                // Without a number: sqlx looks each name up in SQLite, which looks through all of them.
                list.push_str(if column == 0 { "?" } else { ", ?" });
            }
            list.push(')');
        }
        self.statement.replace("{rows}", &list)
    }
}
