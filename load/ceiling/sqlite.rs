//! Ceilings on a file of SQLite's.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, post};
use deadpool::unmanaged;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::sync::mpsc;
use tokio::time::interval;

use uuid::Uuid;

use super::super::BoxError;
use super::answer_with;
use super::rows::{ROWS, Row, RowKeys, queue, store, user};

/// As in the server, a task of its own checkpoints the write-ahead log and bounds its length.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(500);
const LONG_LOG: i64 = 64 * 1024 * 1024 / 4120;

const MESSAGES: &str = "
    CREATE TABLE messages (
        place INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        sender_number INTEGER NOT NULL,
        type TEXT,
        created INTEGER NOT NULL,
        valid_until TEXT NOT NULL,
        accepted_at INTEGER NOT NULL,
        data TEXT NOT NULL
    ) STRICT";

const ROW: &str = "(?, ?, 1000, NULL, 1709907168, '', 1709907168, ?)";

const REPLIES: &str = "
    CREATE TABLE replies (user_id TEXT NOT NULL PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID";

/// Makes the table of `insert`.
pub async fn prepare_insert(folder: &Path) -> Result<(), BoxError> {
    let mut database = connect(folder, true).connect().await?;
    sqlx::query(MESSAGES).execute(&mut database).await?;
    Ok(database.close().await?)
}

/// Makes the table of `row`, with the answer to each user.
pub async fn prepare_row(folder: &Path, answers: &[(String, String)]) -> Result<(), BoxError> {
    let mut database = connect(folder, true).connect().await?;
    sqlx::query(REPLIES).execute(&mut database).await?;
    for (user, body) in answers {
        let insert = sqlx::query("INSERT OR REPLACE INTO replies VALUES ($1, $2)");
        insert.bind(user).bind(body).execute(&mut database).await?;
    }
    Ok(database.close().await?)
}

fn connect(folder: &Path, is_new: bool) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(folder.join("ceiling.db"))
        .create_if_missing(is_new)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", "0")
        .pragma("journal_size_limit", "134217728")
        .statement_cache_capacity(2 * ROWS)
        .disable_statement_logging()
}

/// Starts the writer of `insert`, and returns its queue.
pub async fn start_writer(folder: &Path, data_bytes: usize) -> Result<mpsc::Sender<Row>, BoxError> {
    let writer = connect(folder, false).connect().await?;
    let checkpointer = connect(folder, false).connect().await?;
    let (rows, queue) = queue();
    let writing = write(writer, checkpointer, queue, data_bytes);
    tokio::spawn(async move {
        // The queue is closed then, so that each request gets status 500.
        if let Err(error) = writing.await {
            eprintln!("chatserver-load: the rows could not be inserted: {error}");
        }
    });
    Ok(rows)
}

/// Group commit: one statement inserts all queued rows, at most [`ROWS`].
async fn write(
    mut writer: SqliteConnection,
    checkpointer: SqliteConnection,
    mut queue: mpsc::Receiver<Row>,
    data_bytes: usize,
) -> Result<(), sqlx::Error> {
    let statements: Vec<_> = (0..=ROWS).map(values).collect();
    let mut row_keys = RowKeys::default();
    let mut batch = Vec::with_capacity(ROWS);
    let is_too_long = Arc::new(AtomicBool::new(false));
    tokio::spawn(watch_log(checkpointer, Arc::clone(&is_too_long)));
    while queue.recv_many(&mut batch, ROWS).await > 0 {
        let mut insert = sqlx::query(AssertSqlSafe(Arc::clone(&statements[batch.len()])));
        for row in &batch {
            insert = insert
                .bind(row_keys.next(&row.user))
                .bind(Uuid::new_v4().to_string())
                .bind(row.data(data_bytes));
        }
        insert.execute(&mut writer).await?;
        store(&mut batch);
        if is_too_long.swap(false, Ordering::Relaxed) {
            checkpoint(&mut writer, "PRAGMA wal_checkpoint(RESTART)").await?;
        }
    }
    Ok(())
}

/// The kind of pool that the server uses. sqlx's own pool pings each connection after each read.
type Readers = unmanaged::Pool<SqliteConnection>;

/// Connects the readers of `row`, as many as the server has, and returns its handler.
pub async fn row_handler(folder: &Path) -> Result<MethodRouter, BoxError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut readers = Vec::new();
    for _ in 0..(2 * cores).clamp(4, 64) {
        readers.push(connect(folder, false).connect().await?);
    }
    Ok(post(row).with_state(Readers::from(readers)))
}

async fn row(
    State(readers): State<Readers>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, StatusCode> {
    let mut reader = readers.get().await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let row = sqlx::query_scalar("SELECT body FROM replies WHERE user_id = $1");
    let row: Result<Vec<u8>, _> = row.bind(user(&headers)?).fetch_one(&mut *reader).await;
    row.map(answer_with).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

async fn watch_log(mut checkpointer: SqliteConnection, is_too_long: Arc<AtomicBool>) {
    let mut every = interval(CHECKPOINT_EVERY);
    loop {
        every.tick().await;
        match checkpoint(&mut checkpointer, "PRAGMA wal_checkpoint(PASSIVE)").await {
            Ok(log) => is_too_long.store(log > LONG_LOG, Ordering::Relaxed),
            Err(error) => eprintln!("chatserver-load: a checkpoint failed: {error}"),
        }
    }
}

fn values(rows: usize) -> Arc<str> {
    format!("INSERT INTO messages VALUES {}", vec![ROW; rows].join(", ")).into()
}

/// Runs a checkpoint and returns the length of the log in pages.
async fn checkpoint(
    connection: &mut SqliteConnection,
    statement: &'static str,
) -> Result<i64, sqlx::Error> {
    let (_, pages, _): (i64, i64, i64) = sqlx::query_as(statement).fetch_one(connection).await?;
    Ok(pages)
}
