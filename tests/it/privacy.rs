//! Privacy: actions among others, and private actions of a friend, change nothing that a user can see, not even the
//! numbers of notifications.

use chatserver::domain::{Parse as _, StationId};
use serde_json::{Value, json};

use crate::harness::person::{Person, message_with_id};
use crate::harness::reports::settled;
use crate::harness::world::World;

impl Person {
    /// Returns all that this person can see without changing anything, byte for byte.
    async fn observes(&self, conversations: &[&str]) -> Vec<String> {
        let mut seen = Vec::new();
        for (api, action) in [
            ("chatconversation", "list"),
            ("chatfriends", "list"),
            ("chatfriends", "requests"),
            ("chatblocklist", "blocklist"),
        ] {
            seen.push(self.prepares(api, action, &json!({})).sent().await.text);
        }
        for acknowledged in [0, 1] {
            let poll = json!({ "ack": acknowledged });
            seen.push(self.prepares("chatnotification", "download", &poll).sent().await.text);
        }
        for conversation in conversations {
            for action in ["download", "downloadpartial"] {
                let fields = json!({ "conversationid": conversation });
                seen.push(self.asks(action, fields).await.text);
            }
        }
        seen
    }

    /// Returns the person at the device with this number.
    fn at_device(mut self, number: u8) -> Self {
        self.station = StationId::parse(&format!("{number:032x}")).unwrap();
        self
    }
}

/// Alice, who is a friend of Bob and of Carol, and Eve, who has no friends.
struct Neighbours {
    world: World,
    alice: Person,
    bob: Person,
    carol: Person,
    /// Alice, with her conversation with Carol selected.
    alice_with_carol: Person,
    eve: Person,
}

impl Neighbours {
    async fn meet() -> Self {
        let world = World::start().await;
        let (mut alice, mut bob) = world.alice_and_bob().await;
        let mut carol = world.person("Carol").await;
        let mut alice_with_carol = alice.clone();
        world.befriends(&mut alice_with_carol, &mut carol).await;
        let eve = world.person("Eve").await.at_device(4);
        alice = alice.at_device(1);
        alice_with_carol = alice_with_carol.at_device(1);
        bob = bob.at_device(2);
        carol = carol.at_device(3);
        Self { world, alice, bob, carol, alice_with_carol, eve }
    }

    /// Does the private action with this number, which Bob must not notice. Returns whether there is such an action.
    async fn does_in_private(&self, number: usize) -> bool {
        let Self { world, alice, carol, alice_with_carol, eve, .. } = self;
        let block = |action: &'static str, whom: &Person| {
            let fields = json!({ "userid": whom.user.as_str() });
            alice.prepares("chatblocklist", action, &fields)
        };
        match number {
            0 => drop(alice.does("mute", json!({})).await.ok()),
            1 => drop(alice.does("unmute", json!({})).await.ok()),
            2 => drop(alice.does("favorite", json!({})).await.ok()),
            3 => {
                let color = json!({ "color": "#bae1ff" });
                alice.does("setlistitembackgroundcolor", color).await.ok();
            }
            4 => drop(alice.does("hide", json!({ "hideid": "a;b" })).await.ok()),
            5 => drop(alice.does("hide", json!({})).await.ok()),
            6 => drop(alice.does("unhide", json!({})).await.ok()),
            7 => drop(alice_with_carol.sends("between us").await),
            8 => drop(carol.sends("yes").await),
            9 => drop(settled(alice_with_carol, carol).await),
            10 => drop(alice_with_carol.clears().await.ok()),
            11 => drop(alice.elsewhere().logs_in().await.ok()),
            12 => drop(alice.elsewhere().is_notified().await),
            13 => drop(alice.listens_from_now_on().await),
            14 => drop(alice.chooses("useroffline").await.ok()),
            15 => drop(alice.wants(&eve.email).await.ok()),
            16 => drop(eve.declines(alice).await.ok()),
            17 => drop(alice.wants("nobody@example.com").await.ok()),
            18 => drop(block("block", carol).sent().await.ok()),
            19 => drop(block("unblock", carol).sent().await.ok()),
            20 => drop(block("block", eve).sent().await.ok()),
            21 => world.parts(alice, carol).await,
            22 => world.befriends(&mut alice.clone(), &mut carol.clone()).await,
            23 => drop(carol.chooses("useravailable").await.ok()),
            24 => drop(alice.downloads().await.ok()),
            _ => return false,
        }
        true
    }
}

#[tokio::test]
async fn private_actions_of_a_user_are_invisible_to_a_friend() {
    let neighbours = Neighbours::meet().await;
    let Neighbours { alice, bob, .. } = &neighbours;
    alice.sends("hello").await;
    bob.sends("hi").await;
    settled(alice, bob).await;
    let mut listener = bob.elsewhere().listens_from_now_on().await;
    let conversations = [bob.conversation.as_str()];
    // Everything is new to Bob the first time, and nothing after that.
    bob.observes(&conversations).await;
    let before = bob.observes(&conversations).await;
    let mut number = 0;
    while neighbours.does_in_private(number).await {
        assert_eq!(bob.observes(&conversations).await, before, "number {number}");
        number += 1;
    }
    // Receipts are queued behind their downloads, and availability is told with a delay.
    neighbours.world.has_told_friends().await;
    assert_eq!(bob.observes(&conversations).await, before);
    for person in [alice, &neighbours.carol, &neighbours.eve] {
        assert!(before.iter().all(|text| !text.contains(person.station.as_str())));
    }
    listener.hears_nothing().await;
}

#[tokio::test]
async fn actions_of_others_are_invisible_to_a_stranger() {
    let neighbours = Neighbours::meet().await;
    let Neighbours { world, alice, bob, eve, .. } = &neighbours;
    let conversations = [alice.conversation.as_str(), &neighbours.carol.conversation];
    eve.observes(&conversations).await;
    let before = eve.observes(&conversations).await;
    let sent = alice.sends("hello").await;
    assert_eq!(eve.observes(&conversations).await, before, "a message");
    bob.reports_as("viewed", &[&sent]).await.ok();
    assert_eq!(eve.observes(&conversations).await, before, "a receipt");
    for action in ["useravailable", "useraway", "useroffline"] {
        alice.chooses(action).await.ok();
        assert_eq!(eve.observes(&conversations).await, before, "{action}");
    }
    bob.clears().await.ok();
    assert_eq!(eve.observes(&conversations).await, before, "a clear");
    world.parts(alice, bob).await;
    world.befriends(&mut alice.clone(), &mut bob.clone()).await;
    assert_eq!(eve.observes(&conversations).await, before, "friends");
    let mut number = 0;
    // Skips the actions that concern Eve herself.
    while number == 15 || number == 16 || neighbours.does_in_private(number).await {
        assert_eq!(eve.observes(&conversations).await, before, "number {number}");
        number += 1;
    }
    let mut listener = eve.elsewhere().listens_from_now_on().await;
    world.has_told_friends().await;
    assert_eq!(eve.observes(&conversations).await, before);
    listener.hears_nothing().await;
}

/// Blanks what is random in every world.
fn without_chance(mut value: Value) -> Value {
    match &mut value {
        Value::Array(values) => {
            for value in values {
                *value = without_chance(value.take());
            }
        }
        Value::Object(values) => {
            let is_report = values.contains_key("MessageID");
            for (name, value) in values {
                let is_random = ["secret", "displayname", "instance", "lastreportid", "epoch"];
                if is_random.contains(&name.as_str()) || (is_report && name == "ID") {
                    *value = json!("");
                } else if name == "sequence" {
                    // The check digits of a sequence number depend on the epoch, which is random.
                    *value = json!(value.as_u64().unwrap() / 1_000_000);
                } else {
                    *value = without_chance(value.take());
                }
            }
        }
        _ => {}
    }
    value
}

/// Returns all that Bob sees on a day on which others do a lot in private, or nothing.
async fn a_day(is_busy: bool) -> Vec<String> {
    let neighbours = Neighbours::meet().await;
    let Neighbours { world, alice, bob, carol, .. } = &neighbours;
    let mut seen = Vec::new();
    for hour in 0..5_usize {
        if is_busy {
            for number in 5 * hour..5 * (hour + 1) {
                assert!(neighbours.does_in_private(number).await);
            }
        }
        world.clock.shows(&format!("2024-03-08 1{hour}:00:00"));
        for (person, name) in [(alice, "alice"), (bob, "bob")] {
            let message = message_with_id(&format!("{name}-{hour}"), "hi", &person.date());
            person.adds(&message).await.ok();
        }
        settled(alice, bob).await;
        if hour == 3 {
            alice.clears().await.ok();
        }
        let polled = bob.prepares_poll().sent().await;
        seen.push(polled.text);
        for text in bob.observes(&[&bob.conversation]).await {
            seen.push(without_chance(serde_json::from_str(&text).unwrap()).to_string());
        }
        let refused = bob.asks("download", json!({ "conversationid": carol.conversation })).await;
        refused.refused(404, "conversation_not_found");
        seen.push(refused.text);
    }
    seen
}

#[tokio::test]
async fn private_actions_of_others_change_no_byte_of_any_answer() {
    let (quiet, busy) = tokio::join!(a_day(false), a_day(true));
    for (place, (quiet, busy)) in quiet.iter().zip(&busy).enumerate() {
        assert_eq!(quiet, busy, "number {place}");
    }
    assert_eq!(quiet.len(), busy.len());
}
