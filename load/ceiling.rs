//! Ceilings: servers that do less, on the same libraries, for the same requests and answers. They show what the machine
//! would allow.
//!
//! (a) `echo` is a bare axum handler. (b) `insert` makes message rows durable before it answers. It commits in groups:
//! one statement inserts the rows of many callers. Its table is like the server's, but `insert` does nothing else:
//! nothing is verified, parsed, looked up, indexed or logged, and row keys are counted in memory. (c) `row` answers
//! with one row, read by one sqlx query. (d) `single`, on `PostgreSQL` only, is (b) with a transaction for each row, on a
//! pool of connections.
//!
//! They use the kind of database that the server has: a file of their own, or a table of their own in the `PostgreSQL`
//! database of the run.

mod postgres;
mod rows;
mod sqlite;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get, post};
use axum::serve::ListenerExt as _;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};

use super::BoxError;
use super::server::{Server, Testbed};
use postgres::Table;
use rows::{Row, user};

/// A server that does less than the chatserver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ceiling {
    Echo,
    Insert,
    Row,
    Single,
}

/// The header that every answer of the server carries, with a value of the same length.
const REQUEST_ID: (HeaderName, &str) =
    (HeaderName::from_static("x-request-id"), "00000000-0000-0000-0000-000000000000");

/// The file that names the table of a ceiling on `PostgreSQL`.
const TABLE: &str = "table.json";

/// A ceiling that serves.
pub struct Running {
    pub server: Server,
    table: Option<Table>,
}

impl Running {
    /// Ends the ceiling and drops its table.
    pub async fn end(self) -> Result<(), BoxError> {
        self.server.kill().await?;
        match self.table {
            Some(table) => table.remove().await,
            None => Ok(()),
        }
    }
}

impl Ceiling {
    /// Returns the name that tables show.
    pub fn title(self) -> &'static str {
        match self {
            Self::Echo => "(a) echo",
            Self::Insert => "(b) insert",
            Self::Row => "(c) row",
            Self::Single => "(d) single",
        }
    }

    /// Starts the ceiling with the server's answer to each user. Only `row` uses them all; the others repeat the first.
    pub async fn start(
        self,
        testbed: &Testbed,
        answers: &[(String, String)],
        data_bytes: usize,
    ) -> Result<Running, BoxError> {
        let folder = testbed.folder().join(format!("ceiling-{self:?}"));
        fs::create_dir(&folder)?;
        let (_, first) = answers.first().ok_or("no answer")?;
        fs::write(folder.join("answer"), first)?;
        let table = testbed.postgres().map(Table::new);
        match (self, &table) {
            (Self::Echo, _) => {}
            (Self::Insert, None) => sqlite::prepare_insert(&folder).await?,
            (Self::Row, None) => sqlite::prepare_row(&folder, answers).await?,
            (Self::Single, None) => return Err("single is a ceiling on PostgreSQL only".into()),
            (Self::Insert | Self::Single, Some(table)) => table.prepare_insert().await?,
            (Self::Row, Some(table)) => table.prepare_row(answers).await?,
        }
        if let Some(table) = &table {
            // Not as an argument: other users of the machine may read those, and the URL may hold a password.
            fs::write(folder.join(TABLE), serde_json::to_string(table)?)?;
        }
        let mut command = Command::new(std::env::current_exe()?);
        let kind = self.to_possible_value().ok_or("no name")?;
        command.args(["ceiling", kind.get_name()]).arg(folder).arg(data_bytes.to_string());
        Ok(Running { server: Server::start(command).await?, table })
    }
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
        let router = Router::new().fallback_service(self.handler().await?.with_state(()));
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        println!("{}", json!({ "listen": listener.local_addr()? }));
        // No Nagle delay, as in the server: answers are written whole.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        // The load generator polls this path until the server is ready.
        let router = router.route("/readyz", get(async || StatusCode::OK));
        axum::serve(listener, router).await?;
        Ok(true)
    }

    async fn handler(&self) -> Result<MethodRouter, BoxError> {
        let answer = Bytes::from(fs::read(self.folder.join("answer"))?);
        let (folder, data_bytes) = (&self.folder, self.data_bytes);
        let inserting = |answer, rows| post(insert).with_state(InsertState { answer, rows });
        Ok(match (self.ceiling, self.table()?) {
            (Ceiling::Echo, _) => post(echo).with_state(answer),
            (Ceiling::Insert, None) => {
                inserting(answer, sqlite::start_writer(folder, data_bytes).await?)
            }
            (Ceiling::Insert, Some(table)) => {
                inserting(answer, table.start_writer(data_bytes).await?)
            }
            (Ceiling::Row, None) => sqlite::row_handler(folder).await?,
            (Ceiling::Row, Some(table)) => table.row_handler().await?,
            (Ceiling::Single, Some(table)) => table.single_handler(answer, data_bytes).await?,
            (Ceiling::Single, None) => return Err("single is a ceiling on PostgreSQL only".into()),
        })
    }

    /// Returns the table of the ceiling, or `None` on SQLite.
    fn table(&self) -> Result<Option<Table>, BoxError> {
        let file = self.folder.join(TABLE);
        if !file.exists() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&fs::read_to_string(file)?)?))
    }
}

fn answer_with(body: impl IntoResponse) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json"), REQUEST_ID], body)
}

async fn echo(State(answer): State<Bytes>, _body: Bytes) -> impl IntoResponse {
    answer_with(answer)
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
