//! The refusals of the protocol (docs/protocol.md#3-refusals): what a client is told when a request is not carried out.

use std::time::Duration;

use crate::domain::{Refusal, Timestamp};
use crate::keys;
use crate::store::{self, WireText, WriteError};

/// Why a request is not carried out. Its text is the one sentence that the client reads; no detail of an inner cause leaks into it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request breaks a rule that applies to all, such as a key that occurs twice in the body.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The body is not JSON, or not one object.
    #[error("{0}")]
    NotJson(String),
    /// The API has no such action.
    #[error("action must be one of: {known}")]
    UnknownAction {
        /// The API's actions, separated by commas.
        known: String,
    },
    /// A field or header is missing or malformed.
    #[error("{field} {problem}")]
    InvalidField {
        /// Name of the field or header.
        field: String,
        /// The problem and the expected form, worded to follow the name.
        problem: String,
    },
    /// No enabled user has this API key.
    #[error("no enabled user has this API key")]
    InvalidCredentials,
    /// The invitation is unknown, used, revoked or expired, or registration is closed. All of these look alike.
    #[error(
        "no one can register with this invitation: it is unknown, used, revoked or expired; ask for a new one"
    )]
    InvalidInvitation,
    /// The signature is wrong, or one of its headers is missing or malformed.
    #[error("{0}")]
    InvalidSignature(String),
    /// The timestamp is too far from the server's clock.
    #[error(
        "timestamp is {distance} s away from servertime; the limit is {limit}: send the current time in UTC, on the 24-hour clock"
    )]
    TimestampOutOfRange {
        /// Seconds between the timestamp and the server's clock.
        distance: u64,
        /// Maximum seconds (`auth.clock_skew_seconds`).
        limit: u64,
        /// The server's clock.
        server_time: Timestamp,
    },
    /// The timestamp is not later than the restore of the database from a backup.
    #[error(
        "the database was restored from a backup after timestamp; sign again with the current time, see servertime"
    )]
    SignedBeforeRestore {
        /// The server's clock.
        server_time: Timestamp,
    },
    /// The rules refuse the change.
    #[error("{refusal}")]
    Refused {
        /// Why the rules refuse it.
        refusal: Refusal,
        /// The conversation's current state, for a client with an outdated view.
        conversation: Option<WireText>,
    },
    /// No API has this path, or this combination of path, `srv` and `api`.
    #[error("unknown API: check the path, srv and api (workspace belongs to srv=chatowner)")]
    UnknownApi,
    /// The path takes another method.
    #[error("the method must be {allowed}")]
    MethodNotAllowed {
        /// The method that the path takes.
        allowed: &'static str,
    },
    /// The body exceeds its limit. Its size may be unknown: the rest is not read.
    #[error("the body exceeds the limit of {limit} bytes")]
    BodyTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// `message.Data` exceeds its limit.
    #[error("message.Data is {bytes} bytes; the limit is {limit}")]
    DataTooLarge {
        /// The size in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The `Content-Type` is not JSON.
    #[error("Content-Type must be application/json")]
    UnsupportedMediaType,
    /// A rate limit or connection limit is exceeded.
    #[error("too many requests; try again in {} s", whole_seconds(*retry_after))]
    RateLimited {
        /// When to try again.
        retry_after: Duration,
    },
    /// A defect of the server.
    #[error("internal error of the server; its log has the cause")]
    Internal,
    /// Stored key material can't be used.
    #[error("internal error of the server; its log has the cause")]
    Keys(#[from] keys::Error),
    /// The work exceeded its time limit. A change may still be made; sending it again is harmless.
    #[error("the server did not finish in time; try again")]
    TimedOut,
    /// Memory, the write queue or the listeners are at their bound. Nothing was changed, unless a change was made and
    /// only its answer found no room.
    #[error("the server is overloaded; try again")]
    Crowded,
    /// The server's disk is nearly full. Nothing was changed.
    #[error("the server's disk is nearly full; try again when the operator has freed space")]
    StorageFull,
    /// The store failed or is closed. The change may have been made; sending it again is harmless.
    #[error("the server can't do this now; try again")]
    Unavailable(#[source] store::Error),
}

/// Maps backpressure and a full disk to variants without a cause: a cause would be logged for each request.
impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::QueueFull => Self::Crowded,
            store::Error::StorageFull { .. } => Self::StorageFull,
            full if full.cause() == "full" => Self::StorageFull,
            failed => Self::Unavailable(failed),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused { refusal, conversation: None }
    }
}

impl<R: Into<Refusal>> From<WriteError<R>> for Error {
    fn from(error: WriteError<R>) -> Self {
        match error {
            WriteError::Refused(refusal) => refusal.into().into(),
            WriteError::Failed(error) => error.into(),
        }
    }
}

/// Rounds up to whole seconds: a client must not retry too early.
#[must_use]
pub fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl Error {
    /// Returns the `errorcode` of the envelope.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadRequest(_) | Self::NotJson(_) => "bad_request",
            Self::UnknownAction { .. } => "unknown_action",
            Self::InvalidField { .. } => "invalid_field",
            Self::InvalidCredentials => "invalid_credentials",
            Self::InvalidInvitation => "invalid_invitation",
            Self::InvalidSignature(_) => "invalid_signature",
            Self::TimestampOutOfRange { .. } | Self::SignedBeforeRestore { .. } => {
                "timestamp_out_of_range"
            }
            Self::Refused { refusal, .. } => refusal.code(),
            Self::UnknownApi => "unknown_api",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::BodyTooLarge { .. } | Self::DataTooLarge { .. } => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::RateLimited { .. } => "rate_limited",
            Self::StorageFull => "storage_full",
            Self::Internal | Self::Keys(_) => "internal",
            Self::TimedOut | Self::Crowded | Self::Unavailable(_) => "unavailable",
        }
    }

    pub(crate) fn malformed(field: impl Into<String>, expected: &str) -> Self {
        Self::InvalidField { field: field.into(), problem: format!("must be {expected}") }
    }

    pub(crate) fn missing(field: impl Into<String>, expected: &str) -> Self {
        Self::InvalidField {
            field: field.into(),
            problem: format!("is missing; it must be {expected}"),
        }
    }
}
