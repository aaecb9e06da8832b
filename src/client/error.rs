//! Why a client's request failed.

use std::error::Error as StdError;
use std::time::Duration;

use hyper::body::Bytes;

use super::{KeyError, ProfileError};

/// Refusals of `add` that concern one message or one conversation.
const REFUSED_MESSAGE: [&str; 6] = [
    "not_friends",
    "blocked",
    "quota_exceeded",
    "too_large",
    "instance_changed",
    "conversation_not_found",
];

/// A failed request, or an answer that the client can't use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refuses the request. The code is one of docs/protocol.md#table-c.
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
    /// The answer does not follow the protocol.
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
    /// No conversation, user or message has the given name, or several have it.
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
    /// Makes a refusal. A server that gives no reason still leaves a sentence.
    pub(super) fn refused(code: String, sentence: String) -> Self {
        let sentence = if sentence.is_empty() {
            "the server refuses the request and gives no reason".to_owned()
        } else {
            sentence
        };
        Self::Refused { code, sentence }
    }

    /// Whether the server refused with this code.
    #[must_use]
    pub fn is(&self, refused_with: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == refused_with)
    }

    /// Whether a refused `add` concerns this message alone: others may be sent. After any other refusal, such as
    /// `invalid_signature`, none would get through.
    #[must_use]
    pub fn refuses_message(&self) -> bool {
        REFUSED_MESSAGE.iter().any(|code| self.is(code))
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
pub(super) struct Failure {
    pub(super) error: Error,
    /// `Retry-After` of the answer.
    pub(super) retry_after: Option<Duration>,
    /// The whole envelope; empty if there is none.
    pub(super) envelope: Bytes,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let envelope = Bytes::new();
        Self { error, retry_after: None, envelope }
    }
}
