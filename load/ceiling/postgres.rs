//! Ceilings on a PostgreSQL database, in a table of their own beside the server's.

use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, post};
use deadpool::unmanaged;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Row as _};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::super::BoxError;
use super::answer_with;
use super::rows::{ROWS, Row, RowKeys, data, queue, store, user};

/// Connections of `single`, each with a transaction of its own.
const WRITERS: usize = 16;

/// Connections of `row`: as many as the server reads with.
const READERS: usize = 4;

/// Settings of the server's sessions that choose a plan.
const PLANNING: [(&str, &str); 2] =
    [("plan_cache_mode", "force_generic_plan"), ("enable_seqscan", "off")];

/// The database of a run, and a table in it whose name no other has.
#[derive(Clone, Serialize, Deserialize)]
pub struct Table {
    url: String,
    name: String,
}

impl Table {
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), name: format!("load_{}", Uuid::new_v4().simple()) }
    }

    /// Makes the table of `insert` or `single`, like that of the server's messages.
    pub async fn prepare_insert(&self) -> Result<(), BoxError> {
        let Self { name, .. } = self;
        self.execute(format!("CREATE TABLE {name} (LIKE messages INCLUDING ALL)")).await
    }

    /// Makes the table of `row`, with the answer to each user.
    pub async fn prepare_row(&self, answers: &[(String, String)]) -> Result<(), BoxError> {
        let Self { name, .. } = self;
        let columns = r#"user_id text COLLATE "C" PRIMARY KEY, body text"#;
        self.execute(format!("CREATE TABLE {name} ({columns})")).await?;
        // Not compressed: decompression would cost more than the read.
        let storage = format!("ALTER TABLE {name} ALTER COLUMN body SET STORAGE EXTERNAL");
        self.execute(storage).await?;
        let mut database = self.connect().await?;
        let insert: Arc<str> = format!(
            "INSERT INTO {name} VALUES ($1, $2) ON CONFLICT (user_id) DO UPDATE SET body = $2"
        )
        .into();
        for (user, body) in answers {
            let insert = sqlx::query(AssertSqlSafe(Arc::clone(&insert)));
            insert.bind(user).bind(body).execute(&mut database).await?;
        }
        Ok(database.close().await?)
    }

    /// Drops the table, where it was made.
    pub async fn remove(&self) -> Result<(), BoxError> {
        self.execute(format!("DROP TABLE IF EXISTS {}", self.name)).await
    }

    async fn execute(&self, statement: String) -> Result<(), BoxError> {
        let mut database = self.connect().await?;
        sqlx::query(AssertSqlSafe(statement)).execute(&mut database).await?;
        Ok(database.close().await?)
    }

    async fn connect(&self) -> Result<PgConnection, BoxError> {
        let options = PgConnectOptions::from_str(&self.url)?.options(PLANNING);
        Ok(options.disable_statement_logging().connect().await?)
    }

    async fn pool(&self, connections: usize) -> Result<Connections, BoxError> {
        let mut all = Vec::new();
        for _ in 0..connections {
            all.push(self.connect().await?);
        }
        Ok(Connections::from(all))
    }

    fn insert_statement(&self) -> Arc<str> {
        format!(
            "INSERT INTO {} (place, id, sender_number, type, created, valid_until, accepted_at, data, nth)
             SELECT place, id, 1000, NULL, 1709907168, '', 1709907168, data, 1
               FROM unnest($1::bigint[], $2::text[], $3::text[]) AS _ (place, id, data)",
            self.name
        )
        .into()
    }

    /// Starts the writer of `insert`, and returns its queue.
    pub async fn start_writer(&self, data_bytes: usize) -> Result<mpsc::Sender<Row>, BoxError> {
        let (rows, queue) = queue();
        let writing = write(self.connect().await?, self.insert_statement(), queue, data_bytes);
        tokio::spawn(async move {
            // The queue is closed then, so that each request gets status 500.
            if let Err(error) = writing.await {
                eprintln!("chatserver-load: the rows could not be inserted: {error}");
            }
        });
        Ok(rows)
    }

    /// Connects the writers of `single`, and returns its handler.
    pub async fn single_handler(
        &self,
        answer: Bytes,
        data_bytes: usize,
    ) -> Result<MethodRouter, BoxError> {
        let statement = format!(
            "INSERT INTO {} (place, id, sender_number, type, created, valid_until, accepted_at, data, nth)
             VALUES ($1, $2, 1000, NULL, 1709907168, '', 1709907168, $3, 1)",
            self.name
        );
        let writers = self.pool(WRITERS).await?;
        let row_keys = Arc::default();
        let state = Single { writers, statement: statement.into(), row_keys, answer, data_bytes };
        Ok(post(single).with_state(state))
    }

    /// Connects the readers of `row`, and returns its handler.
    pub async fn row_handler(&self) -> Result<MethodRouter, BoxError> {
        let statement = format!("SELECT body FROM {} WHERE user_id = $1", self.name).into();
        Ok(post(row).with_state(Reading { readers: self.pool(READERS).await?, statement }))
    }
}

type Connections = unmanaged::Pool<PgConnection>;

/// Group commit: one statement inserts all queued rows, at most [`ROWS`].
async fn write(
    mut writer: PgConnection,
    statement: Arc<str>,
    mut queue: mpsc::Receiver<Row>,
    data_bytes: usize,
) -> Result<(), sqlx::Error> {
    let mut row_keys = RowKeys::default();
    let mut batch = Vec::with_capacity(ROWS);
    while queue.recv_many(&mut batch, ROWS).await > 0 {
        let places: Vec<_> = batch.iter().map(|row| row_keys.next(&row.user)).collect();
        let ids: Vec<_> = batch.iter().map(|_| Uuid::new_v4().to_string()).collect();
        let data: Vec<_> = batch.iter().map(|row| row.data(data_bytes)).collect();
        let insert = sqlx::query(AssertSqlSafe(Arc::clone(&statement)));
        insert.bind(places).bind(ids).bind(data).execute(&mut writer).await?;
        store(&mut batch);
    }
    Ok(())
}

#[derive(Clone)]
struct Single {
    writers: Connections,
    statement: Arc<str>,
    row_keys: Arc<Mutex<RowKeys>>,
    answer: Bytes,
    data_bytes: usize,
}

/// Inserts the row of one message in a transaction of its own.
async fn single(
    State(state): State<Single>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<impl IntoResponse, StatusCode> {
    let failed = |_| StatusCode::INTERNAL_SERVER_ERROR;
    let row_key = {
        let mut row_keys = state.row_keys.lock().unwrap_or_else(PoisonError::into_inner);
        row_keys.next(user(&headers)?)
    };
    let mut writer = state.writers.get().await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let insert = sqlx::query(AssertSqlSafe(Arc::clone(&state.statement)));
    let insert = insert.bind(row_key).bind(Uuid::new_v4().to_string());
    insert.bind(data(&body, state.data_bytes)).execute(&mut *writer).await.map_err(failed)?;
    Ok(answer_with(state.answer))
}

#[derive(Clone)]
struct Reading {
    readers: Connections,
    statement: Arc<str>,
}

async fn row(
    State(reading): State<Reading>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, StatusCode> {
    let mut reader = reading.readers.get().await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let row = sqlx::query(AssertSqlSafe(Arc::clone(&reading.statement)));
    let row = row.bind(user(&headers)?).fetch_one(&mut *reader).await;
    // The bytes as they are: the server does not look whether they are UTF-8, either.
    let body = row.and_then(|row| row.try_get_unchecked::<Vec<u8>, _>(0));
    body.map(answer_with).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}
