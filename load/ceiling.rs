//! Ceilings: servers that do less, on the same libraries, for the same requests and answers. They show what the machine
//! would allow.
//!
//! (a) `echo` is a bare axum handler. (b) `insert` makes message rows durable before it answers. It commits in groups:
//! one statement inserts the rows of many callers. Its table is like the server's, but `insert` does nothing else:
//! nothing is verified, parsed, looked up, indexed or logged, and row keys are counted in memory. (c) `row` answers
//! with one row, read by one sqlx query.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::from_utf8;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use axum::serve::ListenerExt as _;
use clap::{Args, ValueEnum};
use deadpool::unmanaged;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, SqliteConnection};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};
use tokio::time::interval;
use uuid::Uuid;

use super::BoxError;
use super::server::{Server, Testbed};

/// A server that does less than the chatserver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ceiling {
    Echo,
    Insert,
    Row,
}

/// The header that every answer of the server carries, with a value of the same length.
const REQUEST_ID: (HeaderName, &str) =
    (HeaderName::from_static("x-request-id"), "00000000-0000-0000-0000-000000000000");

const USER: HeaderName = HeaderName::from_static("ozeki-user");

/// Maximum rows per statement, as in the server.
const ROWS: usize = 256;

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

impl Ceiling {
    /// Returns the name that tables show.
    pub fn title(self) -> &'static str {
        match self {
            Self::Echo => "(a) echo",
            Self::Insert => "(b) insert",
            Self::Row => "(c) row",
        }
    }

    fn folder(self, testbed: &Testbed) -> PathBuf {
        testbed.folder().join(format!("ceiling-{self:?}"))
    }

    /// Starts the ceiling with the server's answer to each user. Only `row` uses them all; the others repeat the first.
    pub async fn start(
        self,
        testbed: &Testbed,
        answers: &[(String, String)],
        data_bytes: usize,
    ) -> Result<Server, BoxError> {
        let folder = self.folder(testbed);
        fs::create_dir(&folder)?;
        let (_, first) = answers.first().ok_or("no answer")?;
        fs::write(folder.join("answer"), first)?;
        let mut database = connect(&folder, true).connect().await?;
        match self {
            Self::Echo => {}
            Self::Insert => {
                sqlx::query(MESSAGES).execute(&mut database).await?;
            }
            Self::Row => {
                sqlx::query(REPLIES).execute(&mut database).await?;
                for (user, body) in answers {
                    let insert = sqlx::query("INSERT OR REPLACE INTO replies VALUES ($1, $2)");
                    insert.bind(user).bind(body).execute(&mut database).await?;
                }
            }
        }
        sqlx::Connection::close(database).await?;
        let mut command = Command::new(std::env::current_exe()?);
        let kind = self.to_possible_value().ok_or("no name")?;
        command.args(["ceiling", kind.get_name()]).arg(folder).arg(data_bytes.to_string());
        Server::start(command).await
    }
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

/// Serves a ceiling until it is killed.
#[derive(Args)]
pub struct Serve {
    ceiling: Ceiling,
    folder: PathBuf,
    /// Bytes of Data of a message
    data_bytes: usize,
}

impl Serve {
    pub async fn run(self) -> Result<bool, BoxError> {
        let answer = Bytes::from(fs::read(self.folder.join("answer"))?);
        let router = match self.ceiling {
            Ceiling::Echo => Router::new().fallback_service(post(echo).with_state(answer)),
            Ceiling::Insert => {
                let state = InsertState { answer, rows: self.insert().await? };
                Router::new().fallback_service(post(insert).with_state(state))
            }
            Ceiling::Row => {
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                let mut readers = Vec::new();
                for _ in 0..(2 * cores).clamp(4, 64) {
                    readers.push(connect(&self.folder, false).connect().await?);
                }
                Router::new().fallback_service(post(row).with_state(Readers::from(readers)))
            }
        };
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        println!("{}", json!({ "listen": listener.local_addr()? }));
        // No Nagle delay, as in the server: answers are written whole.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        // The load generator polls this path until the server is ready.
        let router = router.route("/readyz", axum::routing::get(async || StatusCode::OK));
        axum::serve(listener, router).await?;
        Ok(true)
    }

    async fn insert(&self) -> Result<mpsc::Sender<Row>, BoxError> {
        let writer = connect(&self.folder, false).connect().await?;
        let checkpointer = connect(&self.folder, false).connect().await?;
        let (rows, queue) = mpsc::channel(4096);
        let writing = write(writer, checkpointer, queue, self.data_bytes);
        tokio::spawn(async move {
            // The queue is closed then, so that each request gets status 500.
            if let Err(error) = writing.await {
                eprintln!("chatserver-load: the rows could not be inserted: {error}");
            }
        });
        Ok(rows)
    }
}

fn answer_with(body: impl IntoResponse) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json"), REQUEST_ID], body)
}

async fn echo(State(answer): State<Bytes>, _body: Bytes) -> impl IntoResponse {
    answer_with(answer)
}

/// A message to store, and the signal that it is durable.
struct Row {
    user: String,
    body: Bytes,
    stored: oneshot::Sender<()>,
}

#[derive(Clone)]
struct InsertState {
    answer: Bytes,
    rows: mpsc::Sender<Row>,
}

async fn insert(
    State(state): State<InsertState>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<impl IntoResponse, StatusCode> {
    let (stored, durable) = oneshot::channel();
    let row = Row { user: user(&headers)?.to_owned(), body, stored };
    state.rows.send(row).await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    durable.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(answer_with(state.answer))
}

fn user(headers: &HeaderMap) -> Result<&str, StatusCode> {
    let user = headers.get(USER).and_then(|user| user.to_str().ok());
    user.ok_or(StatusCode::BAD_REQUEST)
}

/// The kind of pool that the server uses. sqlx's own pool pings each connection after each read.
type Readers = unmanaged::Pool<SqliteConnection>;

async fn row(
    State(readers): State<Readers>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, StatusCode> {
    let mut reader = readers.get().await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let row = sqlx::query_scalar("SELECT body FROM replies WHERE user_id = $1");
    let row: Result<Vec<u8>, _> = row.bind(user(&headers)?).fetch_one(&mut *reader).await;
    row.map(answer_with).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

/// Group commit: one statement inserts all queued rows, at most [`ROWS`].
async fn write(
    mut writer: SqliteConnection,
    checkpointer: SqliteConnection,
    mut queue: mpsc::Receiver<Row>,
    data_bytes: usize,
) -> Result<(), sqlx::Error> {
    let statements: Vec<_> = (0..=ROWS).map(values).collect();
    let mut conversations: HashMap<String, i64> = HashMap::new();
    let mut batch = Vec::with_capacity(ROWS);
    let is_too_long = Arc::new(AtomicBool::new(false));
    tokio::spawn(watch_log(checkpointer, Arc::clone(&is_too_long)));
    while queue.recv_many(&mut batch, ROWS).await > 0 {
        let mut insert = sqlx::query(AssertSqlSafe(Arc::clone(&statements[batch.len()])));
        for Row { user, body, .. } in &batch {
            // Each user's row keys are far from those of others, like the conversations in the server.
            let ordinal = i64::try_from(conversations.len()).unwrap_or(i64::MAX);
            let row_key = conversations.entry(user.clone()).or_insert(ordinal << 32);
            *row_key += 1;
            insert = insert
                .bind(*row_key)
                .bind(Uuid::new_v4().to_string())
                .bind(from_utf8(&body[..data_bytes.min(body.len())]).unwrap_or_default());
        }
        insert.execute(&mut writer).await?;
        for row in batch.drain(..) {
            // Sending fails if the request was cancelled.
            row.stored.send(()).unwrap_or_default();
        }
        if is_too_long.swap(false, Ordering::Relaxed) {
            checkpoint(&mut writer, "PRAGMA wal_checkpoint(RESTART)").await?;
        }
    }
    Ok(())
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
