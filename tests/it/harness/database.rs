//! The database, opened as another process opens it.

use std::path::Path;

use chatserver::store::WireText;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgRow;
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, FromRow, PgConnection, SqliteConnection,
};

use crate::harness::world::until;

/// A connection to a database.
pub enum Database {
    File(SqliteConnection),
    Server(PgConnection),
}

/// Evaluates an expression with the connection, which has the type of its database.
macro_rules! on {
    ($database:expr, $connection:ident => $result:expr) => {
        match $database {
            Database::File($connection) => $result,
            Database::Server($connection) => $result,
        }
    };
}

impl Database {
    /// Opens an existing database file.
    pub async fn opens(file: &Path) -> Self {
        Self::connects(SqliteConnectOptions::new().filename(file)).await
    }

    /// Opens a database file, and creates it where there is none.
    pub async fn creates(file: &Path) -> Self {
        Self::connects(SqliteConnectOptions::new().filename(file).create_if_missing(true)).await
    }

    /// Opens an existing database file for reading. Such a connection does not checkpoint when it closes.
    pub async fn opens_read_only(file: &Path) -> Self {
        Self::connects(SqliteConnectOptions::new().filename(file).read_only(true)).await
    }

    /// Opens a database file with a connection that checkpoints only when it closes.
    pub async fn opens_without_checkpoints(file: &Path) -> Self {
        let options = SqliteConnectOptions::new().filename(file);
        Self::connects(options.pragma("wal_autocheckpoint", "0")).await
    }

    async fn connects(options: SqliteConnectOptions) -> Self {
        Self::File(options.connect().await.unwrap())
    }

    /// Runs statements and discards their rows.
    pub async fn runs(&mut self, statements: &str) {
        self.tries(statements).await.unwrap();
    }

    async fn tries(&mut self, statements: &str) -> Result<(), sqlx::Error> {
        let statements = sqlx::raw_sql(AssertSqlSafe(statements));
        on!(self, connection => statements.execute(connection).await.map(drop))
    }

    /// Stores a user's API key in clear, as earlier versions did.
    pub async fn holds_in_clear(&mut self, user: &str, api_key: &str) {
        let digest = hex::encode(Sha256::digest(api_key));
        self.runs(&format!(
            "UPDATE users SET api_key = '{api_key}', api_key_digest = '{digest}', sealing_key = 0, sealed_api_key = NULL
             WHERE id = '{user}'"
        ))
        .await;
    }

    /// Makes all changes wait, until [`Database::unlocks`] or the end of the connection.
    pub async fn locks(&mut self) {
        let lock = match self {
            Self::File(_) => return self.runs("BEGIN IMMEDIATE").await,
            // Without waiting: a change has some of the tables and would want others, which is a deadlock.
            Self::Server(_) => {
                "BEGIN; LOCK TABLE users, friends, conversations, participants, messages, changes, change_numbers, replays,
                                   reports, stations IN EXCLUSIVE MODE NOWAIT"
            }
        };
        until("no change has a table locked", async || {
            let locked = self.tries(lock).await.is_ok();
            if !locked {
                self.unlocks().await;
            }
            locked
        })
        .await;
    }

    /// Makes inserts into a table fail, until [`Self::takes`].
    pub async fn refuses(&mut self, table: &str) {
        let refuse = match self {
            Self::File(_) => format!(
                "CREATE TRIGGER refused BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'refused'); END"
            ),
            Self::Server(_) => {
                format!("ALTER TABLE {table} ADD CONSTRAINT refused CHECK (FALSE) NOT VALID")
            }
        };
        self.runs(&refuse).await;
    }

    /// Lets inserts into a table succeed again.
    pub async fn takes(&mut self, table: &str) {
        let take = match self {
            Self::File(_) => "DROP TRIGGER refused".to_owned(),
            Self::Server(_) => format!("ALTER TABLE {table} DROP CONSTRAINT refused"),
        };
        self.runs(&take).await;
    }

    pub async fn unlocks(&mut self) {
        self.runs("ROLLBACK").await;
    }

    /// Begins a read of the messages that keeps its snapshot until the connection ends.
    pub async fn holds_a_snapshot(&mut self) {
        self.runs("BEGIN; SELECT count(*) FROM messages").await;
    }

    /// Returns the number in the only row of a query.
    pub async fn number(&mut self, query: &str) -> i64 {
        on!(self, connection => sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(connection).await).unwrap()
    }

    /// Returns the text in the only row of a query.
    pub async fn text(&mut self, query: &str) -> String {
        on!(self, connection => sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(connection).await).unwrap()
    }

    /// Returns all rows.
    pub async fn rows<R>(&mut self, query: &str) -> Vec<R>
    where
        R: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        on!(self, connection => sqlx::query_as(AssertSqlSafe(query)).fetch_all(connection).await)
            .unwrap()
    }

    /// Returns the only column of all rows.
    pub async fn texts(&mut self, query: &str) -> Vec<String> {
        on!(self, connection => sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(connection).await).unwrap()
    }

    /// Returns the number of rows in a table.
    pub async fn counts(&mut self, table: &str) -> i64 {
        self.number(&format!("SELECT count(*) FROM {table}")).await
    }

    /// Returns the connection to a file, for statements with parameters or with rows of their own.
    pub fn connection(&mut self) -> &mut SqliteConnection {
        let Self::File(connection) = self else { panic!("this test needs a file") };
        connection
    }

    pub async fn closes(self) {
        on!(self, connection => connection.close().await).unwrap();
    }

    /// Asserts that the table of message IDs has each message of the current generations.
    pub async fn indexes_all_messages(&mut self) {
        let conversations = "SELECT generation, next_seq FROM conversations";
        for (generation, next_seq) in self.rows::<(i64, i64)>(conversations).await {
            let ids =
                format!("SELECT id FROM messages WHERE place >> 32 = {generation} ORDER BY place");
            let ids = self.texts(&ids).await;
            assert_eq!(i64::try_from(ids.len()).unwrap(), next_seq - 1);
            let listed = format!(
                "SELECT hash, seq FROM message_ids WHERE generation = {generation} ORDER BY seq"
            );
            let listed: Vec<(i64, i64)> = self.rows(&listed).await;
            let all: Vec<_> = ids.iter().map(|id| hash(id)).zip(1..).collect();
            assert_eq!(listed, all, "of {} messages", ids.len());
        }
    }
}

/// Returns the hash that the database stores for a message ID.
pub fn hash(id: &str) -> i64 {
    let hash: [u8; 32] = Sha256::digest(id).into();
    i64::from_be_bytes(*hash.first_chunk().unwrap())
}

/// Parses objects that the store has written with commas between them.
pub fn objects(written: &WireText) -> Vec<Value> {
    serde_json::from_slice(&[b"[", written.as_slice(), b"]"].concat()).unwrap()
}
