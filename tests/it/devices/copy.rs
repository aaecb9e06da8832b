//! The local state of a device.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use chatserver::domain::UserId;
use serde_json::{Value, json};

/// A device's copy of a conversation.
#[derive(Default)]
pub struct Conversation {
    object: Value,
    messages: Vec<Value>,
    reports: Vec<Value>,
    /// Messages sent from this device and not yet downloaded. Messages of others may precede them.
    sent: Vec<Value>,
}

fn id(entry: &Value) -> &str {
    entry["ID"].as_str().unwrap()
}

impl Conversation {
    pub fn of(object: Value) -> Self {
        Self { object, ..Self::default() }
    }

    /// Replaces the conversation object. A new instance discards all messages and reports.
    pub fn becomes(&mut self, object: Value) {
        assert!(object.is_object(), "{object}");
        if object["instance"] != self.object["instance"] {
            *self = Self::default();
        }
        self.object = object;
    }

    /// Returns the fields of a download that continues where this copy ends.
    pub fn cursor(&self) -> Value {
        let last = |entries: &[Value]| entries.last().map_or("", id).to_owned();
        json!({
            "conversationid": self.object["id"],
            "instance": self.object["instance"],
            "firstmessageid": last(&self.messages),
            "firstreportid": last(&self.reports),
        })
    }

    /// Appends a page and returns whether there is more.
    pub fn takes(&mut self, page: &Value) -> bool {
        extend(&mut self.messages, &page["messages"]);
        extend(&mut self.reports, &page["reports"]);
        self.sent.retain(|sent| self.messages.iter().all(|message| id(message) != id(sent)));
        page.get("more").is_some()
    }

    /// Records that a message sent from this device is stored.
    pub fn has_sent(&mut self, message: Value, second: i64) {
        self.object["lastmessageid"] = message["ID"].clone();
        self.object["lastaccess"] = json!(second);
        self.sent.push(message);
    }

    pub fn instance(&self) -> &Value {
        &self.object["instance"]
    }

    /// Returns the IDs of all messages.
    pub fn message_ids(&self) -> Vec<String> {
        self.messages.iter().chain(&self.sent).map(|message| id(message).to_owned()).collect()
    }

    /// Returns what the device shows, without what no notification tells the user. Only the sender is notified
    /// of the receipts that the server makes for a user's downloads (docs/protocol.md#viewed-and-delivered).
    /// The user's own `delivered` reports, and a `lastreportid` that may name one of them, arrive with the next
    /// download only.
    fn shows(&self, user: UserId) -> Value {
        let mut object = self.object.clone();
        object.as_object_mut().unwrap().shift_remove("lastreportid");
        let is_told =
            |report: &&Value| report["UserID"] != user.as_str() || report["Type"] != "delivered";
        let messages: Vec<_> = self.messages.iter().chain(&self.sent).collect();
        let reports: Vec<_> = self.reports.iter().filter(is_told).collect();
        json!({ "object": object, "messages": messages, "reports": reports })
    }
}

/// Appends a page. It must begin with the last known entry, if there is one.
fn extend(entries: &mut Vec<Value>, page: &Value) {
    let mut page = page.as_array().unwrap().as_slice();
    if let Some(last) = entries.last() {
        assert_eq!(page.first(), Some(last), "a page begins with its cursor");
        page = &page[1..];
    }
    entries.extend_from_slice(page);
}

/// Everything that a device remembers.
#[derive(Default)]
pub struct Copy {
    pub conversations: BTreeMap<String, Conversation>,
    /// Nick and availability entry by friend id.
    pub friends: BTreeMap<String, Value>,
    /// Incoming and outgoing friend requests.
    pub requests: Value,
    pub blocked: Value,
}

impl Copy {
    /// Returns the conversation ids in list order, the latest access first.
    pub fn order(&self) -> Vec<&String> {
        let mut ids: Vec<_> = self.conversations.keys().collect();
        ids.sort_by_key(|id| Reverse(self.conversations[*id].object["lastaccess"].as_i64()));
        ids
    }

    /// Returns what the device shows.
    pub fn shows(&self, user: UserId) -> Value {
        let conversations: Vec<_> =
            self.order().into_iter().map(|id| self.conversations[id].shows(user)).collect();
        json!({
            "conversations": conversations,
            "friends": self.friends,
            "requests": self.requests,
            "blocked": self.blocked,
        })
    }
}
