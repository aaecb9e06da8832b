//! Rows of any table: reading them from both databases, their digest, and their text form for PostgreSQL.

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use sha2::{Digest as _, Sha256};
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, ColumnIndex, Decode, PgConnection, SqliteConnection, Type};

use super::tables::Table;
use crate::store::many_rows::Column;
use crate::store::sql::Value;

/// A value of a row. The order is that of both databases: texts by their bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cell {
    Text(Option<String>),
    Integer(Option<i64>),
    Flag(Option<bool>),
}

pub(crate) type Row = Vec<Cell>;

/// A connection to read from.
pub(crate) enum Reading<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
}

impl<'c> Reading<'c> {
    /// Streams all rows of a table in the order of its key.
    pub(crate) fn all(self, table: &'static Table) -> BoxStream<'c, Result<Row, sqlx::Error>> {
        self.stream(table.all(), table.columns)
    }

    /// Returns the greatest key of a table, if it has rows.
    pub(crate) async fn last_key(self, table: &'static Table) -> Result<Option<Row>, sqlx::Error> {
        self.stream(table.last_key(), &table.columns[..table.key]).next().await.transpose()
    }

    pub(crate) async fn count(self, table: &'static Table) -> Result<u64, sqlx::Error> {
        let row = self.stream(table.count(), &[("count", Column::Integer)]).next().await;
        match row.transpose()?.as_deref() {
            Some([Cell::Integer(Some(count))]) => Ok(u64::try_from(*count).unwrap_or(0)),
            _ => Err(sqlx::Error::RowNotFound),
        }
    }

    fn stream(
        self,
        text: String,
        columns: &'static [(&'static str, Column)],
    ) -> BoxStream<'c, Result<Row, sqlx::Error>> {
        let query = AssertSqlSafe(text);
        match self {
            Self::Sqlite(connection) => {
                let rows = sqlx::query(query).fetch(connection);
                rows.map(|row| decode(&row?, columns)).boxed()
            }
            Self::Postgres(connection) => {
                let rows = sqlx::query(query).fetch(connection);
                rows.map(|row| decode(&row?, columns)).boxed()
            }
        }
    }
}

fn decode<R: sqlx::Row>(row: &R, columns: &[(&str, Column)]) -> Result<Row, sqlx::Error>
where
    usize: ColumnIndex<R>,
    for<'r> String: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> bool: Decode<'r, R::Database> + Type<R::Database>,
{
    let cells = columns.iter().enumerate().map(|(n, (_, column))| {
        Ok(match column {
            Column::Text => Cell::Text(row.try_get(n)?),
            Column::Integer => Cell::Integer(row.try_get(n)?),
            Column::Flag => Cell::Flag(row.try_get(n)?),
        })
    });
    cells.collect()
}

impl Cell {
    pub(crate) fn add_to_sqlite(&self, arguments: &mut SqliteArguments) {
        let value = match self {
            Self::Text(text) => Value::Text(text.as_deref()),
            Self::Integer(number) => Value::Integer(*number),
            Self::Flag(flag) => Value::Flag(*flag),
        };
        value.add_to_sqlite(arguments);
    }

    /// Writes the cell in the text form of `COPY`.
    fn write_to(&self, text: &mut Vec<u8>) {
        match self {
            Self::Text(Some(value)) => {
                for byte in value.bytes() {
                    match byte {
                        b'\\' => text.extend(b"\\\\"),
                        b'\n' => text.extend(b"\\n"),
                        b'\r' => text.extend(b"\\r"),
                        b'\t' => text.extend(b"\\t"),
                        byte => text.push(byte),
                    }
                }
            }
            Self::Integer(Some(number)) => text.extend(number.to_string().bytes()),
            Self::Flag(Some(flag)) => text.push(if *flag { b't' } else { b'f' }),
            Self::Text(None) | Self::Integer(None) | Self::Flag(None) => text.extend(b"\\N"),
        }
    }

    /// Writes the cell as a digest takes it. No two rows have the same bytes: a text begins with its length.
    fn write_canonical(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Text(Some(text)) => {
                bytes.push(1);
                bytes.extend((text.len() as u64).to_be_bytes());
                bytes.extend(text.as_bytes());
            }
            Self::Integer(Some(number)) => {
                bytes.push(2);
                bytes.extend(number.to_be_bytes());
            }
            Self::Flag(Some(flag)) => bytes.extend([3, u8::from(*flag)]),
            Self::Text(None) | Self::Integer(None) | Self::Flag(None) => bytes.push(0),
        }
    }
}

/// Returns rows in the text form of `COPY`.
pub(crate) fn as_copy_text(rows: &[Row]) -> Vec<u8> {
    let mut text = Vec::new();
    for row in rows {
        for (n, cell) in row.iter().enumerate() {
            if n > 0 {
                text.push(b'\t');
            }
            cell.write_to(&mut text);
        }
        text.push(b'\n');
    }
    text
}

/// Number and SHA-256 of the rows of a table, in the order of its key.
#[derive(Clone, Default)]
pub(crate) struct Digest {
    pub(crate) rows: u64,
    hash: Sha256,
    /// Kept for its memory.
    row: Vec<u8>,
}

impl Digest {
    /// Adds a row. Returns its bytes.
    pub(crate) fn add(&mut self, row: &Row) -> usize {
        self.row.clear();
        for cell in row {
            cell.write_canonical(&mut self.row);
        }
        self.hash.update(&self.row);
        self.rows += 1;
        self.row.len()
    }

    pub(crate) fn hex(&self) -> String {
        hex::encode(self.hash.clone().finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_the_same_text_together_have_other_digests() {
        let digest = |row: &[&str]| {
            let mut digest = Digest::default();
            digest.add(&row.iter().map(|text| Cell::Text(Some((*text).to_owned()))).collect());
            digest.hex()
        };
        assert_eq!(digest(&["a", "b"]), digest(&["a", "b"]));
        assert_ne!(digest(&["a", "b"]), digest(&["ab", ""]));
        assert_ne!(digest(&["a", "b"]), digest(&["b", "a"]));
    }

    #[test]
    fn the_text_for_copy_escapes_what_ends_a_value_or_a_row() {
        let row = vec![
            Cell::Text(Some("a\\b\tc\nd\re".to_owned())),
            Cell::Text(None),
            Cell::Integer(Some(-1)),
            Cell::Flag(Some(true)),
        ];
        assert_eq!(as_copy_text(&[row]), b"a\\\\b\\tc\\nd\\re\t\\N\t-1\tt\n");
    }
}
