//! Statements, and running them: one text of SQL, bound values, and rows as tuples or structs.
//!
//! A statement and its values don't say which database they are for; [`Connection`] does. Both databases see the same
//! few types of values, because PostgreSQL prepares a text for the types of its first use.

use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArguments, PgRow, PgTypeInfo, PgValueRef};
use sqlx::sqlite::{SqliteArguments, SqliteRow, SqliteTypeInfo, SqliteValueRef};
use sqlx::{
    Arguments as _, Connection as _, Decode, FromRow, Postgres, SqlSafeStr as _, SqlStr, Sqlite,
    SqliteConnection, Type,
};

#[cfg(feature = "statements")]
use super::listing::Statement;
use super::many_rows::{Column, ManyRows, Values};
use super::postgres::session::Session;

/// A statement with the parameters `$1`, `$2` and so on.
#[derive(Clone, Copy)]
pub(crate) struct Sql {
    pub(crate) sqlite: &'static str,
    pub(crate) postgres: &'static str,
}

impl Sql {
    /// A text that SQLite and PostgreSQL read alike.
    pub(crate) const fn both(text: &'static str) -> Self {
        Self::pair(text, text)
    }

    /// A text for each database.
    pub(crate) const fn pair(sqlite: &'static str, postgres: &'static str) -> Self {
        Self { sqlite, postgres }
    }

    /// A text for what only PostgreSQL has.
    pub(crate) const fn of_postgres(text: &'static str) -> Self {
        Self::pair("", text)
    }

    #[cfg(feature = "statements")]
    pub(crate) fn listed(self, file: &'static str, name: &'static str) -> Statement {
        let sqlite = (!self.sqlite.is_empty()).then(|| self.sqlite.to_owned());
        Statement { file, name, sqlite, postgres: self.postgres.to_owned(), parameters: None }
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

    pub(crate) fn add_to_sqlite(self, arguments: &mut SqliteArguments) {
        let added = match self {
            Self::Text(text) => arguments.add(text),
            Self::Integer(number) => arguments.add(number),
            Self::Flag(flag) => arguments.add(flag),
        };
        added.expect("texts, numbers and flags have a form in SQLite");
    }

    pub(crate) fn add_to_postgres(self, arguments: &mut PgArguments) {
        let added = match self {
            Self::Text(text) => arguments.add(text),
            Self::Integer(number) => arguments.add(number),
            Self::Flag(flag) => arguments.add(flag),
        };
        added.expect("texts, numbers and flags have a form in PostgreSQL");
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
    Postgres(Box<Session>),
}

impl Connection {
    pub(crate) fn query(&mut self, sql: Sql) -> Query<'_> {
        match self {
            Self::Sqlite(connection) => {
                let on = On::Sqlite(connection, SqliteArguments::default());
                Query { on, text: sql.sqlite.into_sql_str() }
            }
            Self::Postgres(session) => {
                let on = On::Postgres(session, PgArguments::default());
                Query { on, text: sql.postgres.into_sql_str() }
            }
        }
    }

    /// Makes a statement over at least one and at most [`ROWS`](super::many_rows::ROWS) rows.
    pub(crate) fn query_rows<R>(
        &mut self,
        statement: &'static ManyRows,
        rows: &[R],
        bind: impl Fn(&R, &mut Values<'_>),
    ) -> Query<'_> {
        match self {
            Self::Sqlite(connection) => {
                let mut arguments = SqliteArguments::default();
                let text = statement.bind_sqlite(rows, &mut arguments, bind);
                Query { on: On::Sqlite(connection, arguments), text: text.into_sql_str() }
            }
            Self::Postgres(session) => {
                let (text, arguments) = statement.bind_postgres(rows, bind);
                Query { on: On::Postgres(session, arguments), text: text.into_sql_str() }
            }
        }
    }

    /// Returns the connection for what only SQLite has.
    ///
    /// # Panics
    ///
    /// On a connection to PostgreSQL.
    pub(crate) fn sqlite(&mut self) -> &mut SqliteConnection {
        match self {
            Self::Sqlite(connection) => connection,
            Self::Postgres(_) => unreachable!("only code of SQLite asks for its connection"),
        }
    }

    /// Whether the connection must be replaced. One to a file never is: its owner knows what an error means for it.
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Postgres(session) => session.is_lost(),
        }
    }

    /// Whether the connection must be replaced before it is used again. Asks a server that has not answered for a while.
    pub(crate) async fn is_found_lost(&mut self) -> bool {
        if let Self::Postgres(session) = self {
            session.look().await;
        }
        self.is_lost()
    }

    pub(crate) async fn close(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(connection) => connection.close().await,
            Self::Postgres(session) => (*session).close().await,
        }
    }
}

/// A connection, and the values for a statement on it.
enum On<'c> {
    Sqlite(&'c mut SqliteConnection, SqliteArguments),
    Postgres(&'c mut Session, PgArguments),
}

/// A statement on a connection, with the values of its parameters so far.
pub(crate) struct Query<'c> {
    on: On<'c>,
    text: SqlStr,
}

/// Runs a statement: `$make` makes a query of sqlx, and `$run` is its method.
macro_rules! run {
    ($query:expr, $make:path, $run:ident) => {
        match $query.on {
            On::Sqlite(connection, arguments) => {
                $make($query.text, arguments).$run(connection).await
            }
            On::Postgres(session, arguments) => {
                let (connection, health) = session.parts();
                health.watch($make($query.text, arguments).$run(connection)).await
            }
        }
    };
}

impl<'c> Query<'c> {
    /// A statement of SQLite whose values are bound already.
    pub(crate) fn of_sqlite(
        connection: &'c mut SqliteConnection,
        text: SqlStr,
        arguments: SqliteArguments,
    ) -> Self {
        Self { on: On::Sqlite(connection, arguments), text }
    }

    /// A statement of PostgreSQL whose values are bound already.
    pub(crate) fn of_postgres(
        session: &'c mut Session,
        text: &'static str,
        arguments: PgArguments,
    ) -> Self {
        Self { on: On::Postgres(session, arguments), text: text.into_sql_str() }
    }

    /// Adds the value of the next parameter.
    pub(crate) fn bind<'v>(mut self, value: impl Into<Value<'v>>) -> Self {
        match &mut self.on {
            On::Sqlite(_, arguments) => value.into().add_to_sqlite(arguments),
            On::Postgres(_, arguments) => value.into().add_to_postgres(arguments),
        }
        self
    }

    /// Returns the number of changed rows.
    pub(crate) async fn execute(self) -> Result<u64, sqlx::Error> {
        match self.on {
            On::Sqlite(connection, arguments) => {
                let query = sqlx::query_with(self.text, arguments);
                Ok(query.execute(connection).await?.rows_affected())
            }
            On::Postgres(session, arguments) => {
                let (connection, health) = session.parts();
                let query = sqlx::query_with(self.text, arguments);
                Ok(health.watch(query.execute(connection)).await?.rows_affected())
            }
        }
    }

    pub(crate) async fn one<R: Columns>(self) -> Result<R, sqlx::Error> {
        run!(self, sqlx::query_as_with, fetch_one)
    }

    pub(crate) async fn optional<R: Columns>(self) -> Result<Option<R>, sqlx::Error> {
        run!(self, sqlx::query_as_with, fetch_optional)
    }

    pub(crate) async fn all<R: Columns>(self) -> Result<Vec<R>, sqlx::Error> {
        run!(self, sqlx::query_as_with, fetch_all)
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
