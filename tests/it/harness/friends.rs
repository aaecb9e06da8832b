//! Friend requests, friends and blocks of a person.

use std::fmt::Write as _;

use chatserver::domain::{ConversationId, Email, Parse as _, UserId};
use serde_json::{Value, json};

use super::changes::ChangeLog;
use super::person::{Answer, Person};
use super::world::World;

impl Person {
    /// Calls an action of `chatfriends`.
    pub async fn asks_chatfriends(&self, action: &str, fields: &Value) -> Answer {
        self.prepares("chatfriends", action, fields).sent().await
    }

    /// Asks a user for friendship, by address or id.
    pub async fn wants(&self, friend: &str) -> Answer {
        self.asks_chatfriends("add", &json!({ "friend": friend })).await
    }

    pub async fn accepts(&self, other: &Self) -> Answer {
        self.asks_chatfriends("accept", &json!({ "friendid": other.user.as_str() })).await
    }

    pub async fn declines(&self, other: &Self) -> Answer {
        self.asks_chatfriends("decline", &json!({ "friendid": other.user.as_str() })).await
    }

    pub async fn removes(&self, other: &str) -> Answer {
        self.asks_chatfriends("remove", &json!({ "friendid": other })).await
    }

    /// Returns this person's open requests, incoming and outgoing.
    pub async fn requests(&self) -> [Value; 2] {
        let requests = self.asks_chatfriends("requests", &json!({})).await.ok();
        ["incoming", "outgoing"].map(|name| requests[name].clone())
    }

    /// Returns the nicks of this person's friends by user id.
    pub async fn friends(&self) -> Value {
        self.asks_chatfriends("list", &json!({})).await.ok()["friends"].clone()
    }

    /// Returns this person with the conversation with `friend` selected.
    pub fn with(&self, friend: &Self) -> Self {
        let mut with = self.clone();
        with.conversation = ConversationId::one_to_one(self.user, friend.user).to_string();
        with
    }

    /// Asserts that the two are friends, have no open requests, and can talk in their conversation.
    pub async fn talks_with(&self, friend: &Self) {
        for (one, other) in [(self, friend), (friend, self)] {
            assert!(one.friends().await.get(other.user.as_str()).is_some());
            assert_eq!(one.requests().await, NONE);
            one.with(other).sends("hi").await;
        }
        assert_eq!(self.with(friend).reads().await, ["hi", "hi"]);
    }

    /// Returns everything that this person sees of friends and requests, byte for byte.
    pub async fn sees_friends_and_requests(&self) -> [String; 3] {
        [
            self.asks_chatfriends("list", &json!({})).await.text,
            self.asks_chatfriends("requests", &json!({})).await.text,
            self.asks("list", json!({})).await.text,
        ]
    }

    /// Calls an action of `chatblocklist`.
    pub async fn asks_blocklist(&self, action: &str, fields: &Value) -> Answer {
        self.prepares("chatblocklist", action, fields).sent().await
    }

    pub async fn blocks(&self, other: &str) -> Answer {
        self.asks_blocklist("block", &json!({ "userid": other })).await
    }

    pub async fn unblocks(&self, other: &str) -> Answer {
        self.asks_blocklist("unblock", &json!({ "userid": other })).await
    }

    /// Returns the blocked users and the blocked conversations.
    pub async fn blocklist(&self) -> [Value; 2] {
        let listed = self.asks_blocklist("blocklist", &json!({})).await.ok();
        ["blockedusers", "blockedconversations"].map(|name| listed[name].clone())
    }
}

/// No open requests.
pub const NONE: [Value; 2] = [Value::Array(Vec::new()), Value::Array(Vec::new())];

/// Returns the incoming requests of a user whom only `from` has asked.
pub fn incoming(from: &Person, nick: &str) -> Value {
    json!([{ "userid": from.user.as_str(), "nick": nick }])
}

pub fn outgoing(to: &str) -> Value {
    json!([{ "userid": to, "nick": "" }])
}

/// Returns the user id that belongs to this address, whether or not such a user exists.
pub fn id_of(email: &str) -> String {
    UserId::of(&Email::parse(email).unwrap()).to_string()
}

/// Takes the same steps towards an address and returns a transcript: all answers, and what the asker sees and
/// is notified of. Ids are replaced by fixed names, so that transcripts can be compared.
pub async fn request_transcript(
    world: &World,
    address: &str,
    mut meanwhile: impl AsyncFnMut(&Person),
) -> String {
    let asker = world.person_at(&format!("asker-of-{address}"), "Asker").await;
    let mut changes = ChangeLog::of(world).await;
    let mut told = String::new();
    for action in ["add", "add", "remove", "remove", "add", "accept", "decline"] {
        let field = if action == "add" { "friend" } else { "friendid" };
        let named = if action == "add" { address.to_owned() } else { id_of(address) };
        let answer = asker.asks_chatfriends(action, &json!({ field: named })).await;
        let headers: Vec<_> = answer.headers.keys().map(ToString::to_string).collect();
        meanwhile(&asker).await;
        let (seen, new) = (asker.sees_friends_and_requests().await, changes.new_for(&asker).await);
        let number = changes.number_of(&asker).await;
        writeln!(told, "{action} {} {headers:?} {}", answer.status, answer.text).unwrap();
        writeln!(told, "{seen:?} {new:?} {number}").unwrap();
    }
    told.replace(&id_of(address), "THE-OTHER").replace(asker.user.as_str(), "THE-ASKER")
}
