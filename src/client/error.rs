//! Why a client's request failed.

use std::error::Error as StdError;
use std::time::Duration;

use super::{KeyError, ProfileError};

/// A failed request, or an answer that the client can't use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server's envelope says no. The code is one of docs/protocol.md#table-c.
    #[error("{sentence}")]
    Refused {
        /// `errorcode`.
        code: String,
        /// `errormessage`.
        sentence: String,
    },
    /// No answer, or not in time. A change may have been made.
    #[error("the server at {address} does not answer")]
    Unreachable {
        /// Host and port.
        address: String,
        /// The failure of the network.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The answer is not one of a chatserver.
    #[error("the answer is not that of a chatserver: {0}")]
    Answer(String),
    /// A newer listener took the station over.
    #[error("another process listens with this profile")]
    Replaced,
    /// The URL is not that of a server. Its text may hold a secret, such as the fragment of a demo's link.
    #[error(
        "the URL must be that of a server, such as https://chat.example.com/, without a user, a query and a fragment"
    )]
    Url,
    /// Nothing, or more than one thing, has the given name.
    #[error("{0}")]
    NotFound(String),
    /// A key can't be opened.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A file of the client can't be used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The caller's own failure, while it handled a message.
    #[error("{0}")]
    Output(Box<dyn StdError + Send + Sync>),
}

impl Error {
    /// Whether the server refused with this code.
    #[must_use]
    pub fn is(&self, refused_with: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == refused_with)
    }

    /// Whether the same request may succeed later without any change.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
            || ["unavailable", "rate_limited", "storage_full", "internal"]
                .iter()
                .any(|code| self.is(code))
    }
}

/// A failed attempt at a request.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) error: Error,
    /// `servertime` of the envelope.
    pub(super) server_time: Option<String>,
    /// `Retry-After` of the answer.
    pub(super) retry_after: Option<Duration>,
    /// The whole envelope.
    pub(super) envelope: serde_json::Value,
}

impl From<Error> for Box<Attempt> {
    fn from(error: Error) -> Self {
        let envelope = serde_json::Value::Null;
        Self::new(Attempt { error, server_time: None, retry_after: None, envelope })
    }
}
