//! Receiving the body of a request, within its bounds of size and time.

use axum::body::{Body, Bytes};
use axum::http::header::{CONNECTION, CONTENT_LENGTH, EXPECT};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::time::timeout;

use super::server::Connection;
use crate::app::App;
use crate::error::Error;
use crate::limits::Reserved;

/// How much of a body that is refused is read and thrown away, so that a client which sends all of it
/// before it reads finds the answer, and not a connection that was reset.
const DISCARDED: usize = 64 * 1024 * 1024;

/// A request whose body was not received.
pub enum Unreceived {
    /// It is refused.
    Refused(Error),
    /// It did not arrive in time.
    Late,
}

/// Refuses a body that says beforehand that it is too large.
pub fn refuse_announced(app: &App, headers: &HeaderMap) -> Result<(), Error> {
    if announced(headers).is_some_and(|length| length > app.config.limits.body_bytes.size()) {
        return Err(too_large(app));
    }
    Ok(())
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(app: &App) -> Error {
    Error::TooLarge { what: "the body", limit: app.config.limits.body_bytes.size() }
}

/// A body that has arrived, and its room.
pub struct Received<T> {
    pub admitted: T,
    pub body: Bytes,
    _reserved: Reserved,
}

/// Reads the body, or throws it away where the request is refused already.
pub async fn receive<T>(
    app: &App,
    head: &Parts,
    mut body: Body,
    admitted: Result<T, Error>,
) -> Result<Received<T>, Unreceived> {
    let limit = app.config.limits.body_bytes.size();
    let receiving = async {
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                discard(head, &mut body).await;
                return Err(Unreceived::Refused(error));
            }
        };
        let Some(reserved) = app.room.reserve(announced(&head.headers).unwrap_or(limit)) else {
            discard(head, &mut body).await;
            return Err(Unreceived::Refused(Error::Crowded));
        };
        match Limited::new(&mut body, limit).collect().await {
            Ok(collected) => {
                Ok(Received { admitted, body: collected.to_bytes(), _reserved: reserved })
            }
            Err(error) if error.is::<LengthLimitError>() => {
                discard(head, &mut body).await;
                Err(Unreceived::Refused(too_large(app)))
            }
            Err(_) => Err(Unreceived::Refused(Error::BadRequest("the body did not arrive whole"))),
        }
    };
    let received = timeout(app.config.http.body_timeout_seconds.duration(), receiving).await;
    if let Some(connection) = head.extensions.get::<Connection>() {
        connection.received();
    }
    received.unwrap_or(Err(Unreceived::Late))
}

async fn discard(head: &Parts, body: &mut Body) {
    // A client that asks first has not sent its body, and is told not to by the answer.
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

/// The answer to a sender that is too slow: the connection can't be used again.
pub fn late() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::REQUEST_TIMEOUT;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
