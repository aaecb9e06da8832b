//! The whole server, tested over HTTP.

use chatserver::domain::Property;
use serde_json::{Value, json};

use super::history::{date, message, message_id, written};
use super::{Ask, Look, NICKS, Resolved, START, Said, Server, Shown, TALKS};
use crate::harness::person::{Answer, Person, Prepared};
use crate::harness::world::World;

/// Bounds of a page, which are settings: `MESSAGES` entries and `BYTES` bytes.
const MESSAGES: u32 = 3;
const BYTES: u32 = 1024;

pub struct Served {
    world: World,
    people: Vec<Person>,
    conversations: [String; 2],
}

impl Served {
    /// Prepares a property change with a fixed timestamp and nonce. Sent again, it is a replay.
    fn set(&self, by: usize, of: usize, property: &Property, number: usize) -> Prepared {
        let mut fields = json!({
            "conversationid": self.conversations[of], "timestamp": START, "nonce": number,
        });
        let action = match property {
            Property::Muted(true) => "mute",
            Property::Muted(false) => "unmute",
            Property::Favorite(true) => "favorite",
            Property::Favorite(false) => "unfavorite",
            Property::Shown => "unhide",
            Property::Hidden => "hide",
            Property::HideId(id) => {
                fields["hideid"] = json!(id);
                "hide"
            }
            Property::BackgroundColor(color) => {
                fields["color"] = json!(color.to_uppercase());
                "setlistitembackgroundcolor"
            }
        };
        self.people[by].prepares("chatconversation", action, &fields)
    }

    async fn asked_one(&self, asked: &Resolved) -> Said {
        let said = match &asked.ask {
            Ask::Add { by, to, id, version, .. } => {
                let written = written(&message(*id, *version));
                let fields = json!({
                    "conversationid": self.conversations[*to],
                    "instance": asked.instance,
                    // Alternates between the documented form, a string, and an object, which is accepted too.
                    "message": if id % 2 == 0 { json!(written.to_string()) } else { written.clone() },
                });
                let answer = self.people[*by].asks("add", fields).await;
                if answer.status.is_success() {
                    let mut accepted = written;
                    accepted.as_object_mut().unwrap().shift_remove("Data");
                    assert_eq!(answer.ok()["message"], accepted);
                    return Said::Stored;
                }
                answer
            }
            Ask::Clear { by, of, .. } => {
                let fields = json!({
                    "conversationid": self.conversations[*of], "instance": asked.instance,
                });
                self.people[*by].asks("clear", fields).await
            }
            Ask::Set { by, of, property, number } => {
                self.set(*by, *of, property, *number).sent().await
            }
        };
        understood(&said)
    }
}

fn understood(answer: &Answer) -> Said {
    if answer.status.is_success() {
        return Said::Changed(without_report(answer.ok()["conversation"].clone()));
    }
    let status = answer.status.as_u16();
    let refused = answer.json();
    let code = refused["errorcode"].as_str().unwrap();
    answer.refused(status, code);
    let conversation = refused.get("conversation").cloned().map(without_report);
    match (status, code) {
        (404, "conversation_not_found") => Said::NotFound,
        (409, "instance_changed") => {
            assert!(conversation.is_some(), "{answer:?}");
            Said::InstanceChanged(conversation)
        }
        (409, "message_conflict") => Said::Conflict,
        (403, "not_friends") => Said::NotFriends,
        (409, "replayed") => Said::Replayed(conversation),
        _ => panic!("{answer:?}"),
    }
}

/// Blanks the newest report, which changes in the background.
fn without_report(mut conversation: Value) -> Value {
    conversation["lastreportid"] = json!("");
    conversation
}

impl Server for Served {
    const AT_ONCE: bool = false;

    async fn start() -> Self {
        let (messages, bytes) = (MESSAGES.to_string(), BYTES.to_string());
        let settings =
            [("limits.download_messages", &*messages), ("limits.download_bytes", &*bytes)];
        let world = World::with(&settings).await;
        world.clock.shows(START);
        let mut people = Vec::new();
        for nick in NICKS {
            people.push(world.person(nick).await);
        }
        let mut served = Self { world, people, conversations: Default::default() };
        for talk in 0..TALKS.len() {
            served.befriends(talk).await;
        }
        served
    }

    fn conversation(&self, of: usize) -> String {
        self.conversations[of].clone()
    }

    fn signature(&self, by: usize, of: usize, property: &Property, number: usize) -> String {
        let prepared = self.set(by, of, property, number);
        prepared.headers["ozeki-signature"].to_str().unwrap().to_owned()
    }

    fn bounds(&self) -> Option<(u32, u32)> {
        Some((MESSAGES, BYTES))
    }

    fn clock_shows(&self, second: i64) {
        self.world.clock.shows(&date(second).to_string());
    }

    async fn asked(&self, asks: &[Resolved]) -> Vec<Said> {
        let mut said = Vec::new();
        for asked in asks {
            said.push(self.asked_one(asked).await);
        }
        said
    }

    async fn shows(&self, look: &Look, instance: Option<&str>) -> Shown {
        let (action, side) = match look.limit {
            None => ("download", "first"),
            Some(_) => ("downloadpartial", "last"),
        };
        let mut fields = json!({ "conversationid": self.conversations[look.of] });
        if let Some(instance) = instance {
            fields["instance"] = json!(instance);
        }
        if let Some(limit) = look.limit {
            fields["limit"] = json!(limit);
        }
        // An absent ID is sent as an empty string, an absent date as null.
        let id = look.id.map(|id| message_id(id).to_string());
        fields[format!("{side}messageid")] = json!(id.unwrap_or_default());
        fields[format!("{side}messagedate")] =
            json!(look.date.map(|second| date(second).to_string()));
        // Reports are made in the background. This cursor excludes them from the page.
        let no_reports =
            if side == "first" { "9999-01-01 00:00:00" } else { "0001-01-01 00:00:00" };
        fields[format!("{side}reportdate")] = json!(no_reports);
        let answer = self.people[look.by].asks(action, fields).await;
        if !answer.status.is_success() {
            return match understood(&answer) {
                Said::NotFound => Shown::NotFound,
                Said::InstanceChanged(seen) => {
                    let id = &self.conversations[look.of];
                    assert!(self.lists(look.by).await.contains(&seen.unwrap()), "{id}");
                    Shown::InstanceChanged
                }
                other => panic!("{other:?}"),
            };
        }
        let page = answer.ok();
        let more = page.get("more") == Some(&json!(true));
        assert_eq!(page.get("more").is_some(), more, "{answer:?}");
        Shown::Page { messages: page["messages"].as_array().unwrap().clone(), more }
    }

    async fn lists(&self, by: usize) -> Vec<Value> {
        let listed = self.people[by].lists().await;
        listed.into_iter().map(without_report).collect()
    }

    async fn befriends(&mut self, talk: usize) {
        let [one, other] = TALKS[talk];
        let (mut first, mut second) = (self.people[one].clone(), self.people[other].clone());
        self.world.befriends(&mut first, &mut second).await;
        self.conversations[talk] = first.conversation;
    }

    async fn parts(&self, talk: usize) -> bool {
        let [one, other] = TALKS[talk];
        let friends = self.people[one].asks_friends().await;
        let were = friends.contains(&self.people[other].user.to_string());
        if were {
            self.world.parts(&self.people[one], &self.people[other]).await;
        }
        were
    }

    async fn purges(&self) -> Option<bool> {
        None
    }

    async fn expires(&self, _second: i64) -> Option<bool> {
        None
    }

    async fn restarts(&mut self) {}
}

impl Person {
    /// Returns the IDs of this person's friends.
    async fn asks_friends(&self) -> Vec<String> {
        let listed = self.prepares("chatfriends", "list", &json!({})).sent().await.ok();
        listed["friends"].as_object().unwrap().keys().cloned().collect()
    }
}
