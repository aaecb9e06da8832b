//! The message rows that ceilings insert, and the requests that wait for them.

use std::collections::HashMap;
use std::str::from_utf8;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use tokio::sync::{mpsc, oneshot};

/// Maximum rows per statement, as in the server.
pub const ROWS: usize = 256;

/// Maximum requests that wait for their rows.
const QUEUE: usize = 4096;

const USER: HeaderName = HeaderName::from_static("ozeki-user");

/// A message to store.
pub struct Row {
    pub user: String,
    pub body: Bytes,
    /// Signals that the message is durable.
    pub stored: oneshot::Sender<()>,
}

impl Row {
    /// Returns the Data of the message: any bytes of the request, so many as the message has.
    pub fn data(&self, data_bytes: usize) -> &str {
        data(&self.body, data_bytes)
    }
}

/// Returns so many bytes of a request. They stand for its Data.
pub fn data(body: &Bytes, data_bytes: usize) -> &str {
    from_utf8(&body[..data_bytes.min(body.len())]).unwrap_or_default()
}

/// Signals that the rows of a batch are durable.
pub fn store(batch: &mut Vec<Row>) {
    for row in batch.drain(..) {
        // Sending fails if the request was cancelled.
        row.stored.send(()).unwrap_or_default();
    }
}

/// Row keys in the order of arrival. Each user's are far from those of others, like the conversations in the server.
#[derive(Default)]
pub struct RowKeys(HashMap<String, i64>);

impl RowKeys {
    /// Returns the key of the user's next row.
    pub fn next(&mut self, user: &str) -> i64 {
        let ordinal = i64::try_from(self.0.len()).unwrap_or(i64::MAX);
        if let Some(row_key) = self.0.get_mut(user) {
            *row_key += 1;
            return *row_key;
        }
        let first = (ordinal << 32) + 1;
        self.0.insert(user.to_owned(), first);
        first
    }
}

/// Makes the queue of rows.
pub fn queue() -> (mpsc::Sender<Row>, mpsc::Receiver<Row>) {
    mpsc::channel(QUEUE)
}

/// Returns the user who signed a request.
pub fn user(headers: &HeaderMap) -> Result<&str, StatusCode> {
    let user = headers.get(USER).and_then(|user| user.to_str().ok());
    user.ok_or(StatusCode::BAD_REQUEST)
}
