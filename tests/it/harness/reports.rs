//! Reports of a person's messages.

use serde_json::{Value, json};

use super::person::{Answer, Person, Prepared};
use super::world::until;

/// A date cursor that no entry reaches.
pub const NEVER: &str = "9999-01-01 00:00:00";

/// Waits until all messages are reported as delivered and returns all that both people can download, byte for byte.
/// After that nothing changes in the background.
pub async fn settled(one: &Person, other: &Person) -> String {
    let mut pages = String::new();
    until("everything is delivered", async || {
        let (mine, theirs) =
            (one.does("download", json!({})).await, other.does("download", json!({})).await);
        pages = mine.text.clone() + &theirs.text;
        let page = mine.ok();
        let reports = page["reports"].as_array().unwrap().iter();
        let delivered = reports.filter(|report| report["Type"] == "delivered").count();
        page.get("more").is_none() && page["messages"].as_array().unwrap().len() == delivered
    })
    .await;
    pages
}

impl Person {
    /// Returns all reports of this person's conversation, in as many pages as it takes.
    pub async fn reports(&self) -> Vec<Value> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let first = all.pop().map_or(json!(""), |last| last["ID"].clone());
            let cursors = json!({ "firstmessagedate": NEVER, "firstreportid": first });
            let page = self.does("download", cursors).await.ok();
            all.extend_from_slice(page["reports"].as_array().unwrap());
            if page.get("more").is_none() {
                return all;
            }
        }
    }

    /// Returns the type and the message ID of each report.
    pub async fn told(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let reports = self.reports().await;
        reports.iter().map(|report| (text(&report["Type"]), text(&report["MessageID"]))).collect()
    }

    /// Prepares a report of messages of the current instance.
    pub fn prepares_report<T: AsRef<str>>(&self, action: &str, messages: &[T]) -> Prepared {
        let messages: Vec<_> = messages.iter().map(AsRef::as_ref).collect();
        let fields = json!({ "conversationid": self.conversation, "messageids": messages });
        self.prepares("chatreports", action, &fields)
    }

    /// Reports messages of the current instance.
    pub async fn reports_as<T: AsRef<str>>(&self, action: &str, messages: &[T]) -> Answer {
        self.prepares_report(action, messages).sent().await
    }

    /// Returns the ID of the newest report, as the conversation object names it.
    pub async fn newest_report(&self) -> String {
        self.sees().await["lastreportid"].as_str().unwrap().to_owned()
    }
}
