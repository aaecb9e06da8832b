//! Notifications, and the polls that ask for them.

use serde_json::{Value, json};

use super::person::{Answer, Person, Prepared};

/// A notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    pub sequence: u64,
    pub friends: Vec<String>,
    pub conversations: Vec<String>,
    pub lists: Vec<String>,
}

impl Notification {
    /// Reads a notification that came over HTTP or from a listener.
    pub fn read(notification: &Value) -> Self {
        let ids = |name: &str| -> Vec<String> {
            let ids = notification[name].as_array().unwrap().iter();
            ids.map(|id| id.as_str().unwrap().to_owned()).collect()
        };
        Self {
            sequence: notification["sequence"].as_u64().unwrap_or(0),
            friends: ids("friendavailabilitesof"),
            conversations: ids("conversationchangedof"),
            lists: ids("conversationlistchangedof"),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.friends.is_empty() && self.conversations.is_empty() && self.lists.is_empty()
    }
}

impl Person {
    /// Prepares a poll in the documented form, which takes what it is told.
    pub fn prepares_poll(&self) -> Prepared {
        self.prepares("chatnotification", "download", &json!({}))
    }

    /// Polls once in the documented form.
    pub async fn is_notified(&self) -> Notification {
        Notification::read(&self.prepares_poll().sent().await.ok())
    }

    /// Polls and acknowledges an earlier notification.
    pub async fn polls(&self, acknowledged: u64) -> Notification {
        let fields = json!({ "ack": acknowledged });
        let answer = self.prepares("chatnotification", "download", &fields).sent().await;
        Notification::read(&answer.ok())
    }

    /// Prepares a poll with the station alone, in the documented form.
    pub fn prepares_unsigned(&self) -> Prepared {
        self.prepares_poll().without_header("ozeki-user").without_header("ozeki-signature")
    }

    /// Polls with the station alone.
    pub async fn polls_unsigned(&self) -> Answer {
        self.prepares_unsigned().sent().await
    }
}
