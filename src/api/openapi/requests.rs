//! The fields of each action's body, beyond those that all bodies share. For an optional text, absent, `null` and
//! the empty string mean the same.
#![expect(dead_code, reason = "only the schemas of these types are used")]

use schemars::JsonSchema;

use super::texts::OrEmpty;
use crate::domain::{
    Color, ConversationId, Data, HideId, Instance, InvitationToken, Kind, MessageId, Timestamp,
    UserId, WorkspaceName,
};

/// Takes no fields.
#[derive(JsonSchema)]
pub(crate) struct Nothing {}

/// Identifies the user by the API key alone. The request is not signed.
#[derive(JsonSchema)]
pub(crate) struct Login {
    /// The API key, 64 lower-case hexadecimal characters.
    apikey: String,
}

/// Shows what an invitation is for. The request is not signed.
#[derive(JsonSchema)]
pub(crate) struct Invitation {
    /// The token of the invitation.
    invitation: InvitationToken,
}

/// Registers the user of an invitation. The request is not signed.
#[derive(JsonSchema)]
pub(crate) struct Register {
    /// The token of the invitation.
    invitation: InvitationToken,
    /// 1 to 64 characters, at most 190 bytes.
    nick: String,
    /// At most 256 bytes.
    fullname: Option<String>,
    /// Base64 of the DER `SubjectPublicKeyInfo` of an RSA-2048 key with the exponent 65537.
    publickey: String,
    /// The private key as a traditional PEM, encrypted with AES-256-CFB, with CR LF line ends.
    rsakey: String,
}

/// Names a future friend.
#[derive(JsonSchema)]
pub(crate) struct Addressee {
    /// The e-mail address or the user id of another user.
    friend: String,
}

/// Names a friend, or the other user of a friend request.
#[derive(JsonSchema)]
pub(crate) struct FriendId {
    friendid: UserId,
}

/// Names another user.
#[derive(JsonSchema)]
pub(crate) struct OtherUser {
    userid: UserId,
}

/// Lists the conversations of the caller.
#[derive(JsonSchema)]
pub(crate) struct List {
    /// Whether each conversation has `unread`.
    extended: Option<bool>,
}

/// Shows one conversation of the caller.
#[derive(JsonSchema)]
pub(crate) struct Show {
    conversationid: ConversationId,
    /// Whether the conversation has `unread`.
    extended: Option<bool>,
}

/// Names a conversation of the caller.
#[derive(JsonSchema)]
pub(crate) struct OneConversation {
    conversationid: ConversationId,
}

/// Reads a conversation from a cursor on, oldest first.
#[derive(JsonSchema)]
pub(crate) struct Download {
    conversationid: ConversationId,
    /// Refuses the request with `instance_changed` if the conversation was cleared.
    instance: Option<OrEmpty<Instance>>,
    /// First message of the page.
    firstmessageid: Option<OrEmpty<MessageId>>,
    /// Decides where the page begins if the ID is absent or unknown.
    firstmessagedate: Option<OrEmpty<Timestamp>>,
    /// First report of the page.
    firstreportid: Option<OrEmpty<MessageId>>,
    /// Decides where the reports begin if the ID is absent or unknown.
    firstreportdate: Option<OrEmpty<Timestamp>>,
    /// Whether messages name their senders, and the answer has `more` and `unknowncursor`.
    extended: Option<bool>,
}

/// Reads a conversation before a cursor: its newest entries without one.
#[derive(JsonSchema)]
pub(crate) struct DownloadPartial {
    conversationid: ConversationId,
    /// Refuses the request with `instance_changed` if the conversation was cleared.
    instance: Option<OrEmpty<Instance>>,
    /// The page ends before this message.
    lastmessageid: Option<OrEmpty<MessageId>>,
    /// Decides where the page ends if the ID is absent or unknown.
    lastmessagedate: Option<OrEmpty<Timestamp>>,
    /// The reports end before this one. Extended answers ignore it.
    lastreportid: Option<OrEmpty<MessageId>>,
    /// Decides where the reports end if the ID is absent or unknown.
    lastreportdate: Option<OrEmpty<Timestamp>>,
    /// Maximum messages and reports; 50 by default, and 500 at most.
    #[schemars(range(min = 1))]
    limit: Option<u64>,
    /// Whether messages name their senders, the reports are theirs, and the answer has `more` and `unknowncursor`.
    extended: Option<bool>,
}

/// Adds a message to an instance of a conversation. Sent again with the same five fields, it is stored once.
#[derive(JsonSchema)]
pub(crate) struct Add {
    conversationid: ConversationId,
    /// The instance that the client knows, from the conversation object.
    instance: Instance,
    message: NewMessage,
}

/// A message. All five fields are required. The server also takes a string that contains this object.
#[derive(JsonSchema)]
#[schemars(rename_all = "PascalCase")]
struct NewMessage {
    #[schemars(rename = "ID")]
    id: MessageId,
    r#type: Kind,
    /// The sender's date. It orders nothing.
    created: Timestamp,
    /// A date or the empty string.
    valid_until: OrEmpty<Timestamp>,
    /// The encrypted content, which the server never reads.
    data: Data,
}

/// Clears a conversation: deletes its messages and reports, and begins a new instance.
#[derive(JsonSchema)]
pub(crate) struct Clear {
    conversationid: ConversationId,
    /// The instance that the client knows, from the conversation object.
    instance: Instance,
}

/// Sets the background colour of the conversation's entry in the caller's list.
#[derive(JsonSchema)]
pub(crate) struct SetColor {
    conversationid: ConversationId,
    color: Color,
}

/// Hides a conversation from the caller's list: until the marker changes, or for good without one.
#[derive(JsonSchema)]
pub(crate) struct Hide {
    conversationid: ConversationId,
    hideid: Option<OrEmpty<HideId>>,
}

/// Reports messages of the other participant as delivered or viewed.
#[derive(JsonSchema)]
pub(crate) struct Report {
    conversationid: ConversationId,
    /// Refuses the request with `instance_changed` if the conversation was cleared.
    instance: Option<OrEmpty<Instance>>,
    #[schemars(length(max = 1000))]
    messageids: Vec<MessageId>,
}

/// Polls for changes.
#[derive(JsonSchema)]
pub(crate) struct Poll {
    /// Acknowledges all answers up to this `sequence`; 0 acknowledges nothing. Without it, this answer counts as received.
    ack: Option<u64>,
}

/// Registers a workspace.
#[derive(JsonSchema)]
pub(crate) struct Workspace {
    workspacename: WorkspaceName,
}
