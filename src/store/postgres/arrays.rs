//! The values of many rows as one array for each column, which `unnest` turns into rows again.

use std::slice;

use sqlx::Arguments as _;
use sqlx::postgres::PgArguments;

use crate::store::many_rows::Column;
use crate::store::sql::Value;

/// The arrays of all columns.
pub(crate) struct Arrays(Vec<Array>);

/// The values of a column.
pub(crate) enum Array {
    Text(Vec<Option<String>>),
    Integer(Vec<Option<i64>>),
    Flag(Vec<Option<bool>>),
}

impl Arrays {
    /// Makes empty arrays with room for this number of rows.
    pub(crate) fn of(columns: &[Column], rows: usize) -> Self {
        let array = |column: &Column| match column {
            Column::Text => Array::Text(Vec::with_capacity(rows)),
            Column::Integer => Array::Integer(Vec::with_capacity(rows)),
            Column::Flag => Array::Flag(Vec::with_capacity(rows)),
        };
        Self(columns.iter().map(array).collect())
    }

    /// Returns the arrays, each of which takes a value of the next row.
    pub(crate) fn row(&mut self) -> slice::IterMut<'_, Array> {
        self.0.iter_mut()
    }

    pub(crate) fn add_to(self, arguments: &mut PgArguments) {
        for array in self.0 {
            let added = match array {
                Array::Text(texts) => arguments.add(texts),
                Array::Integer(numbers) => arguments.add(numbers),
                Array::Flag(flags) => arguments.add(flags),
            };
            added.expect("arrays of texts, numbers and flags have a form in PostgreSQL");
        }
    }
}

impl Array {
    /// # Panics
    ///
    /// If the column has another type.
    pub(crate) fn push(&mut self, value: Value<'_>) {
        match (self, value) {
            (Self::Text(texts), Value::Text(text)) => texts.push(text.map(str::to_owned)),
            (Self::Integer(numbers), Value::Integer(number)) => numbers.push(number),
            (Self::Flag(flags), Value::Flag(flag)) => flags.push(flag),
            _ => unreachable!("a value has the type of its column"),
        }
    }
}
