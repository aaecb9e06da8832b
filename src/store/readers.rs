//! Reading connections, and batches of concurrent reads.
//!
//! SQLite runs on its own threads. Handing over a query and its result takes about as long as a short query itself. So
//! concurrent requests for the same statement are coalesced into the columns of one row. With one query a request,
//! `page` had 0.79 of the requests/s and `list` 0.97 (medians of seven pairs, docs/performance.md).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool::unmanaged::{Object, Pool};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row as _, SqliteConnection};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::store::engine::Engine;
use crate::store::error::Doing as _;
use crate::store::many_rows::{ManyRows, Values};
use crate::store::sql::{Connection, Utf8};
use crate::store::{Error, WireText};

/// Maximum requests coalesced into one query. Eight did not raise throughput, and the first waits longer for the last.
const TOGETHER: usize = 4;

/// Maximum wait for a free connection. Reads of a file take milliseconds; a slow server sheds load.
const FREE_WITHIN: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(crate) struct Readers {
    engine: Engine,
    pool: Pool<Connection>,
    /// Number of connections, until they are closed.
    count: usize,
}

impl Readers {
    pub(crate) fn new(engine: Engine, connections: Vec<Connection>) -> Self {
        Self { engine, count: connections.len(), pool: connections.into() }
    }

    /// Waits for a free connection, for at most [`FREE_WITHIN`] where a server answers. Replaces a lost one.
    pub(crate) async fn get(&self) -> Result<Object<Connection>, Error> {
        let free = self.pool.get();
        let free = match self.engine {
            Engine::Sqlite(_) => free.await,
            Engine::Postgres(_) => {
                timeout(FREE_WITHIN, free).await.map_err(|_| Error::Disconnected)?
            }
        };
        let mut connection = free.map_err(|_| Error::Closed)?;
        if connection.is_found_lost().await {
            *connection = self.engine.reconnect().await?;
        }
        Ok(connection)
    }

    /// Waits for running reads and closes the connections.
    pub(crate) async fn close(&self) {
        while self.pool.status().size > 0 {
            let Ok(connection) = self.pool.remove().await else { break };
            if let Err(error) = connection.close().await {
                tracing::warn!(%error, "closing a reading connection failed");
            }
        }
        self.pool.close();
    }
}

/// A query whose concurrent requests are coalesced.
pub(crate) trait BatchQuery: Send + Sync + 'static {
    /// The statement, whose columns are texts or NULLs ([`ManyRows::values_of`]).
    const STATEMENT: &'static ManyRows;

    /// The activity, as text after "while" in error messages.
    const DOING: &'static str;

    fn bind(&self, values: &mut Values<'_>);

    /// Returns a statement that PostgreSQL executes faster, with the same parameters. It returns an empty text where
    /// [`Self::STATEMENT`] is needed.
    fn light(&self) -> Option<&'static ManyRows> {
        None
    }
}

pub(crate) struct ReadBatcher<Q>(Arc<Shared<Q>>);

struct Shared<Q> {
    readers: Readers,
    asked: Mutex<Asked<Q>>,
}

struct Asked<Q> {
    waiting: VecDeque<Waiting<Q>>,
    /// Number of running workers.
    answering: usize,
}

struct Waiting<Q> {
    query: Q,
    responder: oneshot::Sender<Result<Option<WireText>, Error>>,
}

impl<Q: BatchQuery> ReadBatcher<Q> {
    pub(crate) fn new(readers: Readers) -> Self {
        let asked = Mutex::new(Asked { waiting: VecDeque::new(), answering: 0 });
        Self(Arc::new(Shared { readers, asked }))
    }

    /// Runs the query. Returns its text, or `None` for NULL.
    pub(crate) async fn ask(&self, query: Q) -> Result<Option<WireText>, Error> {
        let (responder, answer) = oneshot::channel();
        self.0.wait(Waiting { query, responder });
        answer.await.unwrap_or(Err(Error::Closed))
    }
}

impl<Q> Shared<Q> {
    fn asked(&self) -> MutexGuard<'_, Asked<Q>> {
        // A panic under this lock leaves nothing half done.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Q: BatchQuery> Shared<Q> {
    /// Enqueues a request and spawns a worker if fewer than one per connection are running.
    fn wait(self: &Arc<Self>, one: Waiting<Q>) {
        let mut asked = self.asked();
        asked.waiting.push_back(one);
        if asked.answering < self.readers.count {
            asked.answering += 1;
            drop(asked);
            let answering = Answering { shared: Arc::clone(self), is_counted: true };
            tokio::spawn(answering.answer());
        }
    }
}

/// A worker that answers queued requests.
struct Answering<Q> {
    shared: Arc<Shared<Q>>,
    /// Whether this worker is counted among the running ones.
    is_counted: bool,
}

impl<Q: BatchQuery> Answering<Q> {
    /// Answers requests until the queue is empty.
    async fn answer(mut self) {
        loop {
            let connection = self.shared.readers.get().await;
            let waiting = self.next();
            match connection {
                _ if waiting.is_empty() => return,
                Ok(mut connection) => answer(&mut connection, waiting).await,
                Err(error) => fail(waiting, &error),
            }
        }
    }

    /// Takes the oldest requests. If there are none, releases the worker's slot, so that the next request spawns a new
    /// worker.
    fn next(&mut self) -> Vec<Waiting<Q>> {
        let mut asked = self.shared.asked();
        let next = asked.next();
        if next.is_empty() {
            asked.answering -= 1;
            self.is_counted = false;
        }
        next
    }
}

impl<Q: BatchQuery> Asked<Q> {
    /// This worker's fair share of the queue, skipping cancelled requests. Other workers take the rest in a moment.
    fn next(&mut self) -> Vec<Waiting<Q>> {
        let share = self.waiting.len().div_ceil(self.answering.max(1)).min(TOGETHER);
        let mut next: Vec<Waiting<Q>> = Vec::with_capacity(share);
        while next.len() < share {
            let Some(one) = self.waiting.pop_front() else { break };
            if !one.responder.is_closed() {
                next.push(one);
            }
        }
        next
    }
}

impl<Q> Drop for Answering<Q> {
    /// Releases the slot on cancellation; the last worker fails what is still queued.
    fn drop(&mut self) {
        if self.is_counted {
            let mut asked = self.shared.asked();
            asked.answering -= 1;
            if asked.answering == 0 {
                asked.waiting.clear();
            }
        }
    }
}

impl<Q> Waiting<Q> {
    /// Sends the answer. A cancelled request has dropped its receiver.
    fn settle(self, answer: Result<Option<WireText>, Error>) {
        drop(self.responder.send(answer));
    }
}

/// Answers a batch. If the batch fails, retries each request alone, so that one does not fail for another. Does not
/// retry an error that all requests would get.
async fn answer<Q: BatchQuery>(connection: &mut Connection, waiting: Vec<Waiting<Q>>) {
    let queries: Vec<_> = waiting.iter().map(|one| &one.query).collect();
    match texts(connection, &queries).await {
        Ok(texts) => {
            for (one, text) in waiting.into_iter().zip(texts) {
                one.settle(Ok(text));
            }
        }
        Err(error) if waiting.len() > 1 && !error.is_for_all() => {
            tracing::warn!(%error, reads = waiting.len(), "batch of reads failed; retrying them one at a time");
            for one in waiting.into_iter().filter(|one| !one.responder.is_closed()) {
                Box::pin(answer(connection, vec![one])).await;
            }
        }
        Err(error) => fail(waiting, &error),
    }
}

fn fail<Q>(waiting: Vec<Waiting<Q>>, error: &Error) {
    for one in waiting {
        one.settle(Err(error.clone()));
    }
}

/// Runs the query for one request alone. Returns its text, or `None` for NULL.
pub(crate) async fn ask<Q: BatchQuery>(
    connection: &mut Connection,
    query: &Q,
) -> Result<Option<WireText>, Error> {
    let texts = texts(connection, &[query]).await?;
    Ok(texts.into_iter().next().flatten())
}

async fn texts<Q: BatchQuery>(
    connection: &mut Connection,
    queries: &[&Q],
) -> Result<Vec<Option<WireText>>, Error> {
    if let Connection::Sqlite(connection) = connection {
        return together(connection, queries).await;
    }
    let mut texts = Vec::with_capacity(queries.len());
    for query in queries {
        texts.push(on_server(connection, *query).await.doing(Q::DOING)?);
    }
    Ok(texts)
}

/// Runs the query on PostgreSQL, with its light statement if that does.
async fn on_server<Q: BatchQuery>(
    connection: &mut Connection,
    query: &Q,
) -> Result<Option<WireText>, sqlx::Error> {
    if let Some(light) = query.light() {
        let text = alone(connection, light, query).await?;
        if text.as_ref().is_none_or(|text| !text.is_empty()) {
            return Ok(text);
        }
    }
    alone(connection, Q::STATEMENT, query).await
}

async fn alone<Q: BatchQuery>(
    connection: &mut Connection,
    statement: &'static ManyRows,
    query: &Q,
) -> Result<Option<WireText>, sqlx::Error> {
    let text = connection.query_rows(statement, &[query], |one, values| one.bind(values));
    let text: Option<Utf8> = text.value().await?;
    Ok(text.map(|Utf8(text)| text))
}

/// Runs the queries as one.
async fn together<Q: BatchQuery>(
    connection: &mut SqliteConnection,
    queries: &[&Q],
) -> Result<Vec<Option<WireText>>, Error> {
    let mut arguments = SqliteArguments::default();
    let text = Q::STATEMENT.bind_sqlite(queries, &mut arguments, |one, values| one.bind(values));
    let row = sqlx::query_with(text, arguments).fetch_one(connection).await;
    let columns = |row: SqliteRow| (0..queries.len()).map(|column| row.try_get(column)).collect();
    row.and_then(columns).doing(Q::DOING)
}
