//! The envelope of every answer: the one place where refusals become HTTP.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::config::ErrorStatus;
use crate::error::Error;
use crate::limits::{Reserved, Room};
use crate::store::WireText;

/// A success: `{"status":"OK","errormessage":""` and what follows it, in the order of the calls.
pub struct Reply(Vec<u8>);

impl Reply {
    /// The bare envelope.
    pub fn ok() -> Self {
        Self(br#"{"status":"OK","errormessage":"""#.to_vec())
    }

    /// Goes on with a field.
    pub fn with(self, name: &str, value: &impl Serialize) -> Self {
        let value = serde_json::to_vec(value).expect("what is replied has a JSON form");
        self.with_bytes(name, b"", &value, b"")
    }

    /// Goes on with a field that the store has written as JSON.
    pub fn with_written(self, name: &str, value: &WireText) -> Self {
        self.with_bytes(name, b"", value.as_bytes(), b"")
    }

    /// Goes on with an array whose entries the store has written as JSON, separated by commas.
    pub fn with_entries(self, name: &str, entries: &WireText) -> Self {
        self.with_bytes(name, b"[", entries.as_bytes(), b"]")
    }

    fn with_bytes(mut self, name: &str, open: &[u8], value: &[u8], close: &[u8]) -> Self {
        self.0.reserve(name.len() + value.len() + 8);
        for part in [b",\"", name.as_bytes(), b"\":", open, value, close] {
            self.0.extend_from_slice(part);
        }
        self
    }

    /// The answer, which keeps its room until the client has taken it.
    pub fn into_response(mut self, room: &Room) -> Result<Response<Body>, Error> {
        self.0.push(b'}');
        let reserved = room.reserve(self.0.len()).ok_or(Error::Crowded)?;
        let answer = Answer { bytes: self.0, _reserved: reserved };
        Ok(json(StatusCode::OK, Bytes::from_owner(answer)))
    }
}

/// The bytes of an answer.
struct Answer {
    bytes: Vec<u8>,
    _reserved: Reserved,
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A refusal as the client reads it: the sentence, the code, and what helps the client to go on.
pub fn refusal(error: &Error, error_status: ErrorStatus) -> Response<Body> {
    let head = serde_json::to_string(&Head {
        status: "ERROR",
        errormessage: &error.to_string(),
        errorcode: error.code(),
    });
    let mut body = head.expect("a refusal has a JSON form").into_bytes();
    body.pop();
    let mut envelope = Reply(body);
    match error {
        Error::TimestampOutOfRange { server_time } => {
            envelope = envelope.with("servertime", &server_time.to_string());
        }
        Error::InstanceChanged { conversation }
        | Error::Replayed { conversation: Some(conversation) } => {
            envelope = envelope.with_written("conversation", conversation);
        }
        _ => {}
    }
    envelope.0.push(b'}');
    let status = match error_status {
        ErrorStatus::Real => status(error),
        ErrorStatus::Always200 => StatusCode::OK,
    };
    let mut response = json(status, envelope.0.into());
    if let Error::MethodNotAllowed { allowed } = error {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    }
    if let Some(after) = retry_after(error) {
        // A fraction of a second is rounded up, or the client would come too early.
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

#[derive(Serialize)]
struct Head<'a> {
    status: &'static str,
    errormessage: &'a str,
    errorcode: &'static str,
}

/// The HTTP status of a refusal (protocol, section 6).
pub fn status(error: &Error) -> StatusCode {
    match error {
        Error::BadRequest(_) | Error::UnknownAction { .. } | Error::InvalidField { .. } => {
            StatusCode::BAD_REQUEST
        }
        Error::InvalidCredentials
        | Error::InvalidSignature(_)
        | Error::TimestampOutOfRange { .. } => StatusCode::UNAUTHORIZED,
        Error::NotFriends | Error::Blocked => StatusCode::FORBIDDEN,
        Error::ConversationNotFound | Error::UnknownApi => StatusCode::NOT_FOUND,
        Error::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
        Error::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Error::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Error::InstanceChanged { .. } | Error::MessageConflict | Error::Replayed { .. } => {
            StatusCode::CONFLICT
        }
        Error::RateLimited { .. } | Error::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
        Error::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Error::TimedOut | Error::Crowded | Error::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn retry_after(error: &Error) -> Option<Duration> {
    match error {
        Error::RateLimited { retry_after } => Some(*retry_after),
        // Until something of it has gone, which is for the caller or other people to do.
        Error::TooMany { .. } => Some(Duration::from_hours(1)),
        Error::TimedOut | Error::Crowded | Error::Unavailable(_) => Some(Duration::from_secs(1)),
        _ => None,
    }
}

fn json(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
