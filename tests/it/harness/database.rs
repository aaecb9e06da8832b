//! The database file, opened as another process opens it.

use std::path::Path;

use chatserver::store::WireText;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, SqliteConnection};

/// A connection to a database file.
pub struct Database(SqliteConnection);

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
        Self(options.connect().await.unwrap())
    }

    /// Runs statements and discards their rows.
    pub async fn runs(&mut self, statements: &str) {
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut self.0).await.unwrap();
    }

    /// Takes the write lock, until [`Database::unlocks`] or the end of the connection.
    pub async fn locks(&mut self) {
        self.runs("BEGIN IMMEDIATE").await;
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
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut self.0).await.unwrap()
    }

    /// Returns the text in the only row of a query.
    pub async fn text(&mut self, query: &str) -> String {
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut self.0).await.unwrap()
    }

    /// Returns the only column of all rows.
    pub async fn texts(&mut self, query: &str) -> Vec<String> {
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&mut self.0).await.unwrap()
    }

    /// Returns the number of rows in a table.
    pub async fn counts(&mut self, table: &str) -> i64 {
        self.number(&format!("SELECT count(*) FROM {table}")).await
    }

    /// Returns the connection, for statements with parameters or with rows of their own.
    pub fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.0
    }

    pub async fn closes(self) {
        self.0.close().await.unwrap();
    }

    /// Asserts that the table of message IDs has each message of the current generations.
    pub async fn indexes_all_messages(&mut self) {
        let conversations = "SELECT generation, next_seq FROM conversations";
        let conversations: Vec<(i64, i64)> =
            sqlx::query_as(conversations).fetch_all(&mut self.0).await.unwrap();
        for (generation, next_seq) in conversations {
            let ids = "SELECT id FROM messages WHERE place >> 32 = $1 ORDER BY place";
            let ids: Vec<String> =
                sqlx::query_scalar(ids).bind(generation).fetch_all(&mut self.0).await.unwrap();
            assert_eq!(i64::try_from(ids.len()).unwrap(), next_seq - 1);
            let listed = "SELECT hash, seq FROM message_ids WHERE generation = $1 ORDER BY seq";
            let listed: Vec<(i64, i64)> =
                sqlx::query_as(listed).bind(generation).fetch_all(&mut self.0).await.unwrap();
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
