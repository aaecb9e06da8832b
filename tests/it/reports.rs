//! Reports: what a reader lets the sender know.

use serde_json::{Value, json};

use crate::world::{Answer, Person, World, until};

/// All that two people can download, byte for byte, once all of it is reported as delivered. From then on nothing
/// changes by itself.
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
    /// All reports of the conversation that this person talks in.
    pub async fn reports(&self) -> Vec<Value> {
        let page =
            self.does("download", json!({ "firstmessagedate": "9999-01-01 00:00:00" })).await;
        page.ok()["reports"].as_array().unwrap().clone()
    }

    /// Types of the reports, and the messages that they are about.
    pub async fn told(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let reports = self.reports().await;
        reports.iter().map(|report| (text(&report["Type"]), text(&report["MessageID"]))).collect()
    }

    /// Reports messages of the current instance.
    pub async fn reports_as(&self, action: &str, messages: &[&str]) -> Answer {
        let fields = json!({ "conversationid": self.conversation, "messageids": messages });
        self.prepares("chatreports", action, &fields).sent().await
    }
}

fn delivered(id: &str) -> (String, String) {
    ("delivered".to_owned(), id.to_owned())
}

fn viewed(id: &str) -> (String, String) {
    ("viewed".to_owned(), id.to_owned())
}

#[tokio::test]
async fn a_reader_reports_each_message_once() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let one = alice.sends("one").await;
    let two = alice.sends("two").await;
    bob.reports_as("viewed", &[&two, "unknown"]).await.ok();
    assert_eq!(alice.told().await, [delivered(&two), viewed(&two)]);
    bob.reports_as("viewed", &[&one, &two]).await.ok();
    bob.reports_as("delivered", &[&one, &two]).await.ok();
    let all = [delivered(&two), viewed(&two), delivered(&one), viewed(&one)];
    assert_eq!(alice.told().await, all);
    assert_eq!(bob.told().await, all);
    alice.reports_as("viewed", &[&one, &two]).await.ok();
    assert_eq!(alice.told().await, all, "one's own messages are passed over");
    let last = alice.reports().await.pop().unwrap();
    let id = last["ID"].as_str().unwrap().replace('-', "");
    assert_eq!(alice.sees().await["lastreportid"], json!(id));
    assert_eq!(last["UserID"], json!(bob.user.as_str()));
}

#[tokio::test]
async fn the_server_reports_what_was_downloaded() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let sent = alice.sends("hello").await;
    let page = bob.does("download", json!({})).await.ok();
    assert_eq!(page["reports"], json!([]), "the page is answered first");
    until("it is delivered", async || alice.told().await == [delivered(&sent)]).await;
}
