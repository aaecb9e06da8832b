//! Statements, and running them: one text of SQL, bound values, and rows as tuples or structs.
//!
//! A statement and its values don't say which database they are for; [`Connection`] does. Both databases see the same
//! few types of values, because PostgreSQL prepares a text for the types of its first use.

use sqlx::error::BoxDynError;
use sqlx::postgres::{PgRow, PgTypeInfo, PgValueRef};
use sqlx::sqlite::{SqliteArguments, SqliteRow, SqliteTypeInfo, SqliteValueRef};
use sqlx::{
    Arguments as _, Connection as _, Decode, FromRow, Postgres, SqlSafeStr as _, SqlStr, Sqlite,
    SqliteConnection, Type,
};

#[cfg(feature = "statements")]
use super::listing::Statement;
use super::many_rows::{Column, ManyRows, Values};

/// A statement with the parameters `$1`, `$2` and so on.
#[derive(Clone, Copy)]
pub(crate) struct Sql(&'static str);

impl Sql {
    /// A text that SQLite and PostgreSQL read alike.
    pub(crate) const fn both(text: &'static str) -> Self {
        Self(text)
    }

    #[cfg(feature = "statements")]
    pub(crate) fn listed(self, file: &'static str, name: &'static str) -> Statement {
        let (sqlite, postgres) = (self.0.to_owned(), self.0.to_owned());
        Statement { file, name, sqlite, postgres, parameters: None }
    }
}

/// A value of a parameter.
#[derive(Clone, Copy)]
pub(crate) enum Value<'v> {
    Text(Option<&'v str>),
    Integer(Option<i64>),
    Flag(Option<bool>),
}

impl<'v> From<&'v str> for Value<'v> {
    fn from(text: &'v str) -> Self {
        Self::Text(Some(text))
    }
}

impl<'v> From<Option<&'v str>> for Value<'v> {
    fn from(text: Option<&'v str>) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Integer(Some(number))
    }
}

impl From<Option<i64>> for Value<'_> {
    fn from(number: Option<i64>) -> Self {
        Self::Integer(number)
    }
}

impl From<bool> for Value<'_> {
    fn from(flag: bool) -> Self {
        Self::Flag(Some(flag))
    }
}

impl From<Option<bool>> for Value<'_> {
    fn from(flag: Option<bool>) -> Self {
        Self::Flag(flag)
    }
}

impl Value<'_> {
    /// Returns the type of the columns that have such values.
    pub(crate) fn column(&self) -> Column {
        match self {
            Self::Text(_) => Column::Text,
            Self::Integer(_) => Column::Integer,
            Self::Flag(_) => Column::Flag,
        }
    }

    pub(crate) fn add_to(self, arguments: &mut SqliteArguments) {
        let added = match self {
            Self::Text(text) => arguments.add(text),
            Self::Integer(number) => arguments.add(number),
            Self::Flag(flag) => arguments.add(flag),
        };
        added.expect("texts, numbers and flags have a form in SQLite");
    }
}

/// Types that a row can be read as. The supertraits are of `Self`, so that a bound on this trait implies them.
pub(crate) trait Columns:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin
{
}

impl<T> Columns for T where
    T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin
{
}

/// A column of text, read as bytes.
pub(crate) struct Utf8(pub(crate) Vec<u8>);

impl Type<Sqlite> for Utf8 {
    fn type_info() -> SqliteTypeInfo {
        <Vec<u8> as Type<Sqlite>>::type_info()
    }

    fn compatible(column: &SqliteTypeInfo) -> bool {
        <Vec<u8> as Type<Sqlite>>::compatible(column)
    }
}

impl Decode<'_, Sqlite> for Utf8 {
    fn decode(value: SqliteValueRef<'_>) -> Result<Self, BoxDynError> {
        <Vec<u8> as Decode<Sqlite>>::decode(value).map(Self)
    }
}

impl Type<Postgres> for Utf8 {
    fn type_info() -> PgTypeInfo {
        <str as Type<Postgres>>::type_info()
    }
}

impl Decode<'_, Postgres> for Utf8 {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        Ok(Self(value.as_bytes()?.to_vec()))
    }
}

/// A connection to the database.
#[derive(Debug)]
pub(crate) enum Connection {
    Sqlite(SqliteConnection),
}

impl Connection {
    pub(crate) fn query(&mut self, sql: Sql) -> Query<'_> {
        self.query_with(sql.0.into_sql_str(), SqliteArguments::default())
    }

    /// Makes a statement over at least one and at most [`ROWS`](super::many_rows::ROWS) rows.
    pub(crate) fn query_rows<R>(
        &mut self,
        statement: &'static ManyRows,
        rows: &[R],
        bind: impl Fn(&R, &mut Values<'_>),
    ) -> Query<'_> {
        let mut arguments = SqliteArguments::default();
        let text = statement.bind(rows, &mut arguments, bind);
        self.query_with(text.into_sql_str(), arguments)
    }

    /// Makes a statement whose values are bound already.
    pub(crate) fn query_with(&mut self, text: SqlStr, arguments: SqliteArguments) -> Query<'_> {
        let Self::Sqlite(connection) = self;
        Query { connection, text, arguments }
    }

    /// Returns the connection for what only SQLite has.
    pub(crate) fn sqlite(&mut self) -> &mut SqliteConnection {
        let Self::Sqlite(connection) = self;
        connection
    }

    pub(crate) async fn close(self) -> Result<(), sqlx::Error> {
        let Self::Sqlite(connection) = self;
        connection.close().await
    }
}

/// A statement on a connection, with the values of its parameters so far.
pub(crate) struct Query<'c> {
    connection: &'c mut SqliteConnection,
    text: SqlStr,
    arguments: SqliteArguments,
}

impl Query<'_> {
    /// Adds the value of the next parameter.
    pub(crate) fn bind<'v>(mut self, value: impl Into<Value<'v>>) -> Self {
        value.into().add_to(&mut self.arguments);
        self
    }

    /// Returns the number of changed rows.
    pub(crate) async fn execute(self) -> Result<u64, sqlx::Error> {
        let query = sqlx::query_with(self.text, self.arguments);
        Ok(query.execute(self.connection).await?.rows_affected())
    }

    pub(crate) async fn one<R: Columns>(self) -> Result<R, sqlx::Error> {
        sqlx::query_as_with(self.text, self.arguments).fetch_one(self.connection).await
    }

    pub(crate) async fn optional<R: Columns>(self) -> Result<Option<R>, sqlx::Error> {
        sqlx::query_as_with(self.text, self.arguments).fetch_optional(self.connection).await
    }

    pub(crate) async fn all<R: Columns>(self) -> Result<Vec<R>, sqlx::Error> {
        sqlx::query_as_with(self.text, self.arguments).fetch_all(self.connection).await
    }

    /// Returns the only column of the only row.
    pub(crate) async fn value<T>(self) -> Result<T, sqlx::Error>
    where
        (T,): Columns,
    {
        let (value,) = self.one().await?;
        Ok(value)
    }

    /// Returns the only column of the row, if there is one.
    pub(crate) async fn optional_value<T>(self) -> Result<Option<T>, sqlx::Error>
    where
        (T,): Columns,
    {
        Ok(self.optional().await?.map(|(value,)| value))
    }

    /// Returns the only column of all rows.
    pub(crate) async fn values<T>(self) -> Result<Vec<T>, sqlx::Error>
    where
        (T,): Columns,
    {
        let rows: Vec<(T,)> = self.all().await?;
        Ok(rows.into_iter().map(|(value,)| value).collect())
    }
}
