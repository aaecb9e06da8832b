//! Objects of the protocol, as a client reads them. Unknown fields are ignored.

use serde::Deserialize;

/// The answer to a login (docs/protocol.md#chatlogin--login-d).
#[derive(Clone, Debug, Deserialize)]
pub struct Login {
    /// The user.
    pub userid: String,
    /// The user's nick.
    pub nick: String,
    /// The private key, encrypted.
    pub rsakey: String,
}

/// A conversation as the caller sees it (docs/protocol.md#the-conversation-object-d).
#[derive(Clone, Debug, Deserialize)]
pub struct Conversation {
    /// The conversation id.
    pub id: String,
    /// Both participants.
    pub participants: Vec<Participant>,
    /// ID of the newest message; empty if there is none.
    pub lastmessageid: String,
    /// Unix seconds of the newest message; 0 before the first.
    pub lastaccess: i64,
    /// The key, wrapped for the caller.
    pub secret: String,
    /// The current instance.
    pub instance: String,
    /// The caller's marks.
    pub properties: Vec<Properties>,
}

/// A participant of a conversation.
#[derive(Clone, Debug, Deserialize)]
pub struct Participant {
    /// The user id.
    pub userid: String,
    /// The nick.
    pub username: String,
}

/// The caller's marks on a conversation.
#[derive(Clone, Debug, Deserialize)]
pub struct Properties {
    /// Whether the caller muted the conversation.
    pub ismuted: bool,
    /// Whether it is a favourite of the caller.
    pub isfavorite: bool,
    /// Unread messages, exact up to 100. Only extended lists have it.
    pub unread: Option<u64>,
}

impl Conversation {
    /// Returns the participant who is not `user`.
    #[must_use]
    pub fn other_than(&self, user: &str) -> Option<&Participant> {
        self.participants.iter().find(|participant| participant.userid != user)
    }

    /// Returns the nick of a participant, or the user id if the user does not take part.
    #[must_use]
    pub fn nick_of<'a>(&'a self, user: &'a str) -> &'a str {
        let participant = self.participants.iter().find(|participant| participant.userid == user);
        participant.map_or(user, |participant| &participant.username)
    }
}

/// A friend and the availability that the caller sees (docs/protocol.md#chatfriends--list-d).
#[derive(Clone, Debug, Deserialize)]
pub struct Friend {
    /// The user id.
    pub friendid: String,
    /// The nick.
    pub friendname: String,
    /// `available`, `away`, `busy` or `offline`.
    pub availability: String,
}

/// Open friend requests (docs/protocol.md#requests-1).
#[derive(Clone, Debug, Deserialize)]
pub struct Requests {
    /// Requests to the caller.
    pub incoming: Vec<Requester>,
    /// Requests of the caller.
    pub outgoing: Vec<Requester>,
}

/// A user of a friend request.
#[derive(Clone, Debug, Deserialize)]
pub struct Requester {
    /// The user id.
    pub userid: String,
    /// The nick; empty in the caller's own requests.
    pub nick: String,
}

/// The answer to `list` of chatconversation.
#[derive(Deserialize)]
pub(super) struct Conversations {
    pub(super) conversations: Vec<Conversation>,
}

/// The answer to `show`.
#[derive(Deserialize)]
pub(super) struct Shown {
    pub(super) conversation: Conversation,
}

/// The answer to `list` of chatfriends.
#[derive(Deserialize)]
pub(super) struct Friends {
    pub(super) availabilities: Vec<Friend>,
}

/// A page of messages.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    pub(super) messages: Vec<Message>,
    #[serde(default)]
    pub(super) more: bool,
}

/// A message (docs/protocol.md#messages-d).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Message {
    #[serde(rename = "ID")]
    pub(super) id: String,
    pub(super) created: String,
    #[serde(default)]
    pub(super) valid_until: String,
    pub(super) data: String,
    /// The sender, which only extended downloads name.
    #[serde(rename = "UserID")]
    pub(super) user_id: Option<String>,
}
