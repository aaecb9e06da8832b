//! Receives the body of a request, within its bounds of size and time.

use std::net::IpAddr;

use axum::body::{Body, Bytes};
use axum::http::header::{CONNECTION, CONTENT_LENGTH, EXPECT};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use super::client::Connection;
use crate::app::App;
use crate::error::Error;
use crate::limits::{MemoryPermit, MemoryUse, Owner};

/// Maximum bytes of a refused body that are read and discarded. A client that sends its whole body before it reads then
/// finds the answer, not a connection that was reset.
const DISCARDED: usize = 64 * 1024 * 1024;

pub(crate) enum Unreceived {
    Refused(Error),
    /// The body did not arrive within `http.body_timeout_seconds`.
    Late,
}

/// Refuses a body whose `Content-Length` is above `max` bytes.
pub(crate) fn refuse_announced(headers: &HeaderMap, max: usize) -> Result<(), Error> {
    if announced(headers).is_some_and(|length| length > max) {
        return Err(too_large(max));
    }
    Ok(())
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(max: usize) -> Error {
    Error::BodyTooLarge { limit: max }
}

pub(crate) struct Received {
    bytes: Vec<u8>,
    permit: MemoryPermit,
}

impl Received {
    pub(crate) fn parts(&mut self) -> (&[u8], &mut MemoryPermit) {
        (&self.bytes, &mut self.permit)
    }

    /// Appends a piece of the body. Copies it, because each piece keeps its whole read buffer alive.
    fn push(&mut self, app: &App, piece: &[u8], max: usize) -> Result<(), Error> {
        let needed = self.bytes.len() + piece.len();
        if needed > max {
            return Err(too_large(max));
        }
        if needed > self.bytes.capacity() {
            let capacity = needed.max(2 * self.bytes.capacity()).min(max);
            app.resize(&mut self.permit, capacity)?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

/// Receives a body of at most `max` bytes. Takes memory for the bytes that arrived, not for the announced length.
pub(crate) async fn receive(
    app: &App,
    head: &Parts,
    mut body: Body,
    max: usize,
    client: Option<IpAddr>,
) -> Result<Received, Unreceived> {
    let permit = app.memory.permit(Owner { user: None, client }, MemoryUse::Arriving);
    let mut received = Received { bytes: Vec::new(), permit };
    let receiving = async {
        while let Some(frame) = body.frame().await {
            let incomplete = |_| Error::BadRequest("the body did not arrive whole");
            let Ok(piece) = frame.map_err(incomplete)?.into_data() else { continue };
            if let Err(error) = received.push(app, &piece, max) {
                drop(received);
                discard(head, &mut body).await;
                return Err(error);
            }
        }
        Ok(received)
    };
    in_time(app, head, receiving).await
}

/// Discards the body of a refused request. Returns the refusal, or [`Unreceived::Late`] if the body takes too long.
pub(crate) async fn refuse(app: &App, head: &Parts, mut body: Body, error: Error) -> Unreceived {
    let discarding = async {
        discard(head, &mut body).await;
        Err::<(), _>(error)
    };
    in_time(app, head, discarding).await.err().unwrap_or(Unreceived::Late)
}

async fn in_time<T>(
    app: &App,
    head: &Parts,
    receiving: impl Future<Output = Result<T, Error>>,
) -> Result<T, Unreceived> {
    let received = timeout(app.config.http.body_timeout_seconds.duration(), receiving).await;
    if let Some(connection) = head.extensions.get::<Connection>() {
        connection.received();
    }
    match received {
        Ok(received) => received.map_err(Unreceived::Refused),
        Err(_) => Err(Unreceived::Late),
    }
}

async fn discard(head: &Parts, body: &mut Body) {
    // A client that sends `Expect` holds its body back, and the answer tells it not to send the body.
    if head.headers.contains_key(EXPECT) {
        return;
    }
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > DISCARDED {
            return;
        }
    }
}

/// Returns the answer to a slow sender. It closes the connection, which can't be used again.
pub(crate) fn late() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::REQUEST_TIMEOUT;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
