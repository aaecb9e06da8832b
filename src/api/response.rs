//! Turns answers into HTTP. Every error gets its status here; only a late body (408, `body.rs`) has none.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Response, StatusCode};

use crate::app::App;
use crate::config::ErrorStatus;
use crate::domain::Refusal;
use crate::envelope::{self, Reply};
use crate::error::{Error, whole_seconds};
use crate::limits::{MemoryPermit, Owner};

/// Returns a success as an HTTP answer, which holds its memory permit until the client has taken it.
pub(crate) fn success(app: &App, reply: Reply, owner: Owner) -> Result<Response<Body>, Error> {
    let (bytes, permit) = reply.into_parts();
    let permit = match permit {
        Some(mut permit) => {
            app.resize(&mut permit, bytes.len())?;
            permit
        }
        None => app.admit_finished_answer(owner, bytes.len())?,
    };
    let answer = Answer { bytes, _permit: permit };
    Ok(json(StatusCode::OK, Bytes::from_owner(answer)))
}

struct Answer {
    bytes: Vec<u8>,
    _permit: MemoryPermit,
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

pub(crate) fn refusal(error: &Error, error_status: ErrorStatus) -> Response<Body> {
    let status = match error_status {
        ErrorStatus::Real => status(error),
        ErrorStatus::Always200 => StatusCode::OK,
    };
    let mut response = json(status, envelope::refusal(error).into_bytes().into());
    if let Error::MethodNotAllowed { allowed } = error {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    }
    if let Some(after) = retry_after(error) {
        response.headers_mut().insert(RETRY_AFTER, whole_seconds(after).into());
    }
    response
}

/// Returns the HTTP status of a refusal (docs/protocol.md#table-c).
pub(crate) fn status(error: &Error) -> StatusCode {
    match error {
        Error::BadRequest(_)
        | Error::NotJson(_)
        | Error::UnknownAction { .. }
        | Error::InvalidField { .. } => StatusCode::BAD_REQUEST,
        Error::InvalidCredentials
        | Error::InvalidInvitation
        | Error::InvalidSignature(_)
        | Error::TimestampOutOfRange { .. }
        | Error::SignedBeforeRestore { .. } => StatusCode::UNAUTHORIZED,
        Error::Refused { refusal, .. } => status_of_refusal(refusal),
        Error::UnknownApi => StatusCode::NOT_FOUND,
        Error::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
        Error::BodyTooLarge { .. } | Error::DataTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Error::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Error::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
        Error::Internal | Error::Keys(_) => StatusCode::INTERNAL_SERVER_ERROR,
        Error::TimedOut | Error::Crowded | Error::StorageFull | Error::Unavailable(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

fn status_of_refusal(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::NotFriends | Refusal::Blocked | Refusal::QuotaExceeded { .. } => {
            StatusCode::FORBIDDEN
        }
        Refusal::ConversationNotFound => StatusCode::NOT_FOUND,
        Refusal::InstanceChanged
        | Refusal::MessageConflict
        | Refusal::Replayed
        | Refusal::WorkspaceTaken => StatusCode::CONFLICT,
        Refusal::TooMany { .. } | Refusal::TooManyFriends { .. } => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Outdated => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn retry_after(error: &Error) -> Option<Duration> {
    match error {
        Error::RateLimited { retry_after } => Some(*retry_after),
        // The limit stays reached until the caller or another user removes something.
        Error::Refused {
            refusal: Refusal::TooMany { .. } | Refusal::TooManyFriends { .. },
            ..
        } => Some(Duration::from_hours(1)),
        Error::TimedOut | Error::Crowded | Error::Unavailable(_) => Some(Duration::from_secs(1)),
        // An operator or a purge may need this long to free space.
        Error::StorageFull => Some(Duration::from_mins(1)),
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
