//! Refusals: why the rules of the protocol refuse a change, with the `errorcode` and the sentence that the client
//! receives.

use std::convert::Infallible;

use super::UserId;

/// The reason for a refusal. A refused change writes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such conversation, or the user is no participant of it.
    #[error("there is no such conversation")]
    ConversationNotFound,
    /// The conversation has been cleared since, so the request names an old instance.
    #[error("instance is outdated: the conversation was cleared; use conversation.instance")]
    InstanceChanged,
    /// The two are not friends, or the other participant has blocked the user.
    #[error("you and the other participant are not friends")]
    NotFriends,
    /// The user has blocked the other participant.
    #[error("you have blocked the other participant")]
    Blocked,
    /// Another message of the conversation has this ID.
    #[error("message.ID is taken: another message of this conversation has it")]
    MessageConflict,
    /// The conversation would exceed its maximum of data.
    #[error(
        "the conversation would hold {bytes} bytes of Data; the limit is {limit}: clear the conversation first"
    )]
    QuotaExceeded {
        /// Bytes of data that the conversation would hold.
        bytes: i64,
        /// Maximum bytes of data.
        limit: i64,
    },
    /// A change was made for the same signed bytes before.
    #[error(
        "this exact request was carried out before; to do it again, sign a request that differs"
    )]
    Replayed,
    /// Another user has registered this workspace.
    #[error("the workspace belongs to another user")]
    WorkspaceTaken,
    /// The user has reached the maximum of something.
    #[error("limit reached: at most {most} {what}")]
    TooMany {
        /// Name of the thing, in the plural.
        what: &'static str,
        /// The largest permitted number.
        most: usize,
    },
    /// One of two new friends has the maximum of friends.
    #[error("limit reached: at most {most} friends per user")]
    TooManyFriends {
        /// The user with the maximum.
        user: UserId,
        /// Maximum friends of one user.
        most: u32,
    },
    /// The data that the change was prepared from has changed meanwhile. The change must be prepared again.
    #[error("the server can't do this now; try again")]
    Outdated,
}

impl Refusal {
    /// Returns the `errorcode` (docs/protocol.md#table-c).
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::ConversationNotFound => "conversation_not_found",
            Self::InstanceChanged => "instance_changed",
            Self::NotFriends => "not_friends",
            Self::Blocked => "blocked",
            Self::MessageConflict => "message_conflict",
            Self::QuotaExceeded { .. } => "quota_exceeded",
            Self::Replayed => "replayed",
            Self::WorkspaceTaken => "workspace_taken",
            Self::TooMany { .. } | Self::TooManyFriends { .. } => "rate_limited",
            Self::Outdated => "unavailable",
        }
    }
}

impl From<Infallible> for Refusal {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
