//! The refusals of the protocol (docs/protocol.md#3-refusals): what a client is told when a request is not carried out.

use std::time::Duration;

use crate::domain::{Refusal, Timestamp};
use crate::keys;
use crate::store::{self, WireText, WriteError};

/// A refusal. Its text is the one sentence that the client reads; nothing of an inner cause leaks into it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The body is not what every request must be.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The body is not JSON, or not one object.
    #[error("{0}")]
    NotJson(String),
    /// The API has no such action.
    #[error("action must be one of this API's: {known}")]
    UnknownAction {
        /// The actions of the API, separated by commas.
        known: String,
    },
    /// A field or header is missing or malformed.
    #[error("{field} {problem}")]
    InvalidField {
        /// Its name.
        field: String,
        /// What is wrong with it and what was expected, to follow the name.
        problem: String,
    },
    /// No enabled user has this API key.
    #[error("the API key is not one of an enabled user")]
    InvalidCredentials,
    /// The signature is not the right one, or a header of it is missing or malformed.
    #[error("{0}")]
    InvalidSignature(String),
    /// The timestamp is too far from the server's clock.
    #[error(
        "timestamp is too far from the server's clock, see servertime: it must be the present time in UTC, with 24 hours"
    )]
    TimestampOutOfRange {
        /// The server's clock.
        server_time: Timestamp,
    },
    /// The timestamp is not later than the restore of the database from a backup.
    #[error(
        "the database was restored from a backup after timestamp, see servertime: sign the request anew"
    )]
    SignedBeforeRestore {
        /// The server's clock.
        server_time: Timestamp,
    },
    /// The rules refuse the change.
    #[error("{refusal}")]
    Refused {
        /// Why.
        refusal: Refusal,
        /// The conversation as it now stands, for a client with an old picture of it.
        conversation: Option<WireText>,
    },
    /// No service has this path, `srv` and `api`.
    #[error("there is no such API: srv, api or the path is wrong (workspace is of srv=chatowner)")]
    UnknownApi,
    /// The path takes another method.
    #[error("the method must be {allowed}")]
    MethodNotAllowed {
        /// The method that it takes.
        allowed: &'static str,
    },
    /// Something is larger than its limit.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The body is declared as something else than JSON.
    #[error("Content-Type must be application/json")]
    UnsupportedMediaType,
    /// Too much at once.
    #[error("too many requests, see Retry-After")]
    RateLimited {
        /// After which time it is worth trying again.
        retry_after: Duration,
    },
    /// A defect of the server.
    #[error("the server failed")]
    Internal,
    /// Key material that is stored can't be used.
    #[error("the server failed")]
    Keys(#[from] keys::Error),
    /// The work took longer than it may. A change may still be made; sending it again is harmless.
    #[error("the server did not finish in time, try again")]
    TimedOut,
    /// Too much is on its way at the moment; nothing was changed, unless by what the answer would have told.
    #[error("the server has too much on its way at the moment, try again")]
    Crowded,
    /// The disk of the server is nearly full; nothing was changed.
    #[error("the server's disk is nearly full: it stores nothing more until there is space again")]
    StorageFull,
    /// The store refused or failed; nothing was changed.
    #[error("the server can't do this at the moment, try again")]
    Unavailable(#[source] store::Error),
}

/// What is no failure of the store has no cause that would be logged for each request.
impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::QueueFull => Self::Crowded,
            store::Error::StorageFull { .. } => Self::StorageFull,
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

impl Error {
    /// The `errorcode` of the envelope.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadRequest(_) | Self::NotJson(_) => "bad_request",
            Self::UnknownAction { .. } => "unknown_action",
            Self::InvalidField { .. } => "invalid_field",
            Self::InvalidCredentials => "invalid_credentials",
            Self::InvalidSignature(_) => "invalid_signature",
            Self::TimestampOutOfRange { .. } | Self::SignedBeforeRestore { .. } => {
                "timestamp_out_of_range"
            }
            Self::Refused { refusal, .. } => refusal.code(),
            Self::UnknownApi => "unknown_api",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::TooLarge { .. } => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::RateLimited { .. } => "rate_limited",
            Self::StorageFull => "storage_full",
            Self::Internal | Self::Keys(_) => "internal",
            Self::TimedOut | Self::Crowded | Self::Unavailable(_) => "unavailable",
        }
    }

    /// A field that is there but malformed.
    #[must_use]
    pub fn malformed(field: impl Into<String>, expected: &str) -> Self {
        Self::InvalidField { field: field.into(), problem: format!("must be {expected}") }
    }

    /// A field that is not there.
    #[must_use]
    pub fn missing(field: impl Into<String>, expected: &str) -> Self {
        Self::InvalidField {
            field: field.into(),
            problem: format!("is missing, it must be {expected}"),
        }
    }
}
