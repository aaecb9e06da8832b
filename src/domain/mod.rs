//! Types and pure rules: no I/O, no SQL, no HTTP and no clock of its own.
//!
//! [`Parse::parse`] is the only way to make most of these values from text, so code that holds one need not check it
//! again.

mod access;
mod availability;
mod change_set;
mod conversation;
mod friendship;
mod id;
mod limits;
mod message;
mod page;
mod parse;
mod property;
mod refusal;
mod replay;
mod report;
mod retention;
mod timestamp;
mod user;
mod workspace;

pub(crate) use access::{Access, Relation};
pub(crate) use availability::Availability;
pub(crate) use change_set::{ChangeSet, Origin, Subject};
pub(crate) use conversation::{Head, Incoming, SameId, fence, refuse_clear};
pub(crate) use friendship::{Approach, Approached, Between, FriendRequest};
pub use id::{
    AdminToken, ApiKey, ConversationId, Email, Instance, InvitationToken, MessageId, Signature,
    StationId, UserId,
};
pub use limits::Limits;
pub(crate) use limits::{MOST_BLOCKS, MOST_WORKSPACES};
pub use message::{Data, Kind, Message};
pub use page::{Cursor, Direction, PageForm, PageQuery};
pub use parse::Parse;
pub use property::{Color, HideId, Property};
pub use refusal::Refusal;
pub use replay::Replay;
pub use report::ReportType;
pub(crate) use retention::{Age, Retention};
pub use timestamp::Timestamp;
pub use user::{FullName, Nick};
pub use workspace::WorkspaceName;
