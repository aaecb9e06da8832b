//! The fields of each action's answer, beyond `status` and `errormessage`, and the objects in them.
#![expect(dead_code, reason = "only the schemas of these types are used")]

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::texts::OrEmpty;
use crate::api::conversation::Accepted;
use crate::api::friends::Entry;
use crate::api::login::{Listeners, Urls};
use crate::domain::{ConversationId, Data, Instance, Kind, MessageId, Timestamp, UserId};

/// Has no fields.
#[derive(JsonSchema)]
pub(crate) struct Nothing {}

/// The private key, names and URLs that a client starts with.
#[derive(JsonSchema)]
pub(crate) struct Login<'a> {
    /// Version of the server.
    server: String,
    listeners: Listeners,
    /// Always `"false"`: the operator adds users.
    registration: String,
    /// The user's RSA-2048 private key as a traditional encrypted PEM.
    rsakey: String,
    userid: UserId,
    fullname: &'a str,
    nick: &'a str,
    urls: Urls,
}

/// The address and the proposed nick of an invitation.
#[derive(JsonSchema)]
pub(crate) struct Invitation<'a> {
    email: &'a str,
    /// The nick that the operator proposes; may be empty.
    nick: &'a str,
    expires: Timestamp,
}

/// The credentials of the new user, without the encryption password.
#[derive(JsonSchema)]
pub(crate) struct Registered<'a> {
    userid: UserId,
    email: &'a str,
    /// The API key, 64 lower-case hexadecimal characters.
    apikey: &'a str,
}

/// The friends of the caller.
#[derive(JsonSchema)]
pub(crate) struct Friends<'a> {
    /// Nicks by user id.
    friends: BTreeMap<&'a str, &'a str>,
    availabilities: Vec<Entry<'a>>,
}

/// The open friend requests of the caller.
#[derive(JsonSchema)]
pub(crate) struct FriendRequests {
    incoming: Vec<FriendRequest>,
    outgoing: Vec<FriendRequest>,
}

/// The other user of a friend request.
#[derive(JsonSchema)]
struct FriendRequest {
    userid: UserId,
    /// Empty in the caller's own requests.
    nick: String,
}

/// Blocked users, and conversations that are hidden for good.
#[derive(JsonSchema)]
pub(crate) struct BlockList {
    blockedusers: Vec<UserId>,
    blockedconversations: Vec<ConversationId>,
}

/// All conversations of the caller.
#[derive(JsonSchema)]
pub(crate) struct Conversations {
    conversations: Vec<Conversation>,
}

/// One conversation of the caller.
#[derive(JsonSchema)]
pub(crate) struct OneConversation {
    conversation: Conversation,
}

/// A conversation as the caller sees it.
#[derive(JsonSchema)]
pub(super) struct Conversation {
    id: ConversationId,
    /// Always false.
    isgroup: bool,
    /// The user ids of both participants, the smaller first.
    #[schemars(length(equal = 2))]
    participantids: Vec<UserId>,
    #[schemars(length(equal = 2))]
    participants: Vec<Participant>,
    /// The nick of the other participant, encrypted for the caller by RSA-OAEP.
    displayname: Data,
    /// ID of the newest message, or empty.
    lastmessageid: OrEmpty<MessageId>,
    /// ID of the newest report, or empty.
    lastreportid: OrEmpty<MessageId>,
    /// Unix seconds of the newest message; 0 before the first.
    lastaccess: i64,
    /// The key of the conversation, encrypted for the caller by RSA-OAEP.
    secret: Data,
    instance: Instance,
    /// The caller's id, or nothing.
    #[schemars(length(max = 1))]
    mutedby: Vec<UserId>,
    /// The caller's id, or nothing.
    #[schemars(length(max = 1))]
    favoriteby: Vec<UserId>,
    /// The caller's id, or nothing.
    #[schemars(length(max = 1))]
    hiddenby: Vec<UserId>,
    /// The caller's marks.
    #[schemars(length(equal = 1))]
    properties: Vec<Properties>,
    /// ID of the oldest message, or empty. Only extended answers have it.
    #[schemars(with = "OrEmpty<MessageId>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    firstmessageid: Option<OrEmpty<MessageId>>,
}

/// A participant of a conversation.
#[derive(JsonSchema)]
struct Participant {
    userid: UserId,
    /// The nick.
    username: String,
    /// `true` for a user who was deleted. Only extended answers have it.
    #[schemars(with = "bool")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deleted: Option<bool>,
}

/// The caller's marks on a conversation.
#[derive(JsonSchema)]
struct Properties {
    userid: UserId,
    ismuted: bool,
    isfavorite: bool,
    /// The marker of the last `hide`, or empty.
    hideid: String,
    #[schemars(regex(pattern = "^#[0-9a-f]{6}$"))]
    listitembackgroundcolor: String,
    /// Unread messages of the other participant; 100 means 100 or more. Only extended answers have it.
    #[schemars(with = "u8", range(max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unread: Option<u8>,
}

/// A page of a conversation.
#[derive(JsonSchema)]
pub(crate) struct Page {
    messages: Vec<Message>,
    reports: Vec<Report>,
    /// Cursors whose ID the instance does not have. Only extended answers have it, and only if there are any.
    #[schemars(with = "Vec<Cursor>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unknowncursor: Option<Vec<Cursor>>,
    /// Whether a limit of the server ended the page. Documented answers have it only if it is true.
    #[schemars(with = "bool")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    more: Option<bool>,
}

/// One of the two cursors of a download.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Cursor {
    Message,
    Report,
}

/// A message of a page.
#[derive(JsonSchema)]
#[schemars(rename_all = "PascalCase")]
struct Message {
    #[schemars(rename = "ID")]
    id: MessageId,
    r#type: Kind,
    created: Timestamp,
    /// A date or the empty string.
    valid_until: OrEmpty<Timestamp>,
    data: Data,
    /// The sender. Only extended answers have it.
    #[schemars(rename = "UserID", with = "OrEmpty<UserId>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_id: Option<UserId>,
}

/// A report of a page: a participant received or saw a message.
#[derive(JsonSchema)]
#[schemars(rename_all = "PascalCase")]
struct Report {
    #[schemars(rename = "ID")]
    id: MessageId,
    r#type: ReportKind,
    created: Timestamp,
    #[schemars(rename = "MessageID")]
    message_id: MessageId,
    /// The participant who received or saw the message.
    #[schemars(rename = "UserID")]
    user_id: UserId,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum ReportKind {
    Delivered,
    Viewed,
}

/// The message as it was stored, without its data.
#[derive(JsonSchema)]
pub(crate) struct Added<'a> {
    message: Accepted<'a>,
}

/// Changes since the position of the station.
#[derive(JsonSchema)]
pub(crate) struct Notification {
    /// Friends, by user id.
    friendavailabilitesof: Vec<UserId>,
    /// Conversations, by id.
    conversationchangedof: Vec<ConversationId>,
    /// The caller's id if the lists changed, or nothing.
    #[schemars(length(max = 1))]
    conversationlistchangedof: Vec<UserId>,
    /// The number to acknowledge. Only answers to requests with `ack` have it.
    #[schemars(with = "u64")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    /// Name of the database. Only answers to requests with `ack` have it.
    #[schemars(with = "String", regex(pattern = "^[0-9a-f]{16}$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
}
