//! A device: it makes changes and takes in those of others.

use std::net::SocketAddr;

use chatserver::domain::{Parse as _, ReportType, Timestamp};
use proptest::sample::Index;
use serde_json::{Value, json};

use super::copy::{Conversation, Copy};
use super::{Act, Setting};
use crate::harness::notification::Notification;
use crate::harness::person::{Answer, Person, message};
use crate::harness::ws_client::WsClient;

/// How a device catches up.
#[derive(Clone, Copy, Debug)]
pub enum Habit {
    Acknowledges,
    Takes,
    Listens,
}

pub struct Device {
    pub person: Person,
    copy: Copy,
    /// Sequence of the newest notification taken in.
    sequence: u64,
    listener: Option<WsClient>,
}

impl Device {
    pub fn of(person: Person) -> Self {
        Self { person, copy: Copy::default(), sequence: 0, listener: None }
    }

    pub async fn does(&mut self, act: Act, people: &[Person]) {
        match act {
            Act::Send(which) => self.sends(which).await,
            Act::Clear(which) => {
                if let Some(fields) = self.fields(which) {
                    let answer = self.person.asks("clear", fields.clone()).await;
                    self.is_answered(&fields, &answer);
                }
            }
            Act::Set(which, setting) => self.sets(which, setting).await,
            Act::Report(which, report, messages) => self.reports(which, report, &messages).await,
            Act::Look(which) => {
                if let Some(fields) = self.fields(which) {
                    self.person.asks("download", fields).await;
                }
            }
            Act::Choose(action) => {
                self.person.prepares("chatavailability", action, &json!({})).sent().await.ok();
            }
            Act::Approach(action, other) => self.approaches(action, &people[other]).await,
            Act::Block(action, other) => self.blocks(action, &people[other]).await,
            Act::Poll { acknowledges, is_lost } => {
                let told = self.person.polls(if acknowledges { self.sequence } else { 0 }).await;
                if !is_lost {
                    self.takes_in(&told).await;
                }
            }
            Act::Take => {
                let told = self.person.is_notified().await;
                self.takes_in(&told).await;
            }
            Act::Connect => {
                self.listener = None;
                self.listener = Some(self.person.listens().await);
            }
            Act::Hear { notifications, acknowledges } => {
                for _ in 0..notifications {
                    self.hears(acknowledges).await;
                }
            }
            Act::Acknowledge => self.acknowledges().await,
            Act::HangUp => self.listener = None,
        }
    }

    /// Returns the fields that name a conversation of this copy, or `None` if it has none.
    fn fields(&self, which: Index) -> Option<Value> {
        let ids: Vec<_> = self.copy.conversations.keys().collect();
        (!ids.is_empty()).then(|| self.fields_of(which.get::<&String>(&ids)))
    }

    fn fields_of(&self, id: &str) -> Value {
        json!({ "conversationid": id, "instance": self.copy.conversations[id].instance() })
    }

    fn conversation(&mut self, fields: &Value) -> &mut Conversation {
        self.copy.conversations.get_mut(fields["conversationid"].as_str().unwrap()).unwrap()
    }

    /// Takes in the conversation object of an answer or of its refusal.
    fn is_answered(&mut self, fields: &Value, answer: &Answer) {
        match answer.status.as_u16() {
            200 => self.conversation(fields).becomes(answer.ok()["conversation"].clone()),
            409 => {
                let refused = answer.refused(409, "instance_changed");
                self.conversation(fields).becomes(refused["conversation"].clone());
            }
            _ => assert_eq!(answer.status.as_u16(), 403, "{answer:?}"),
        }
    }

    /// Sends a message in every conversation.
    pub async fn sends_everywhere(&mut self) {
        let ids: Vec<_> = self.copy.conversations.keys().cloned().collect();
        for id in ids {
            self.sends_with(self.fields_of(&id)).await;
        }
    }

    async fn sends(&mut self, which: Index) {
        if let Some(fields) = self.fields(which) {
            self.sends_with(fields).await;
        }
    }

    async fn sends_with(&mut self, mut fields: Value) {
        let date = self.person.date();
        let message = message("hi", &date);
        fields["message"] = message.clone();
        let answer = self.person.asks("add", fields.clone()).await;
        if answer.status.is_success() {
            let second = Timestamp::parse(&date).unwrap().unix();
            self.conversation(&fields).has_sent(message, second);
        } else {
            self.is_answered(&fields, &answer);
        }
    }

    async fn sets(&mut self, which: Index, (action, name, value): Setting) {
        let Some(mut fields) = self.fields(which) else { return };
        if !name.is_empty() {
            fields[name] = json!(value);
        }
        let answer = self.person.asks(action, fields.clone()).await;
        self.is_answered(&fields, &answer);
    }

    /// Reports some messages, then downloads, because the answer does not contain the reports.
    async fn reports(&mut self, which: Index, report: ReportType, messages: &[Index]) {
        let Some(mut fields) = self.fields(which) else { return };
        let known = self.conversation(&fields).message_ids();
        if known.is_empty() {
            return;
        }
        fields["messageids"] = messages.iter().map(|message| json!(message.get(&known))).collect();
        let action = match report {
            ReportType::Delivered => "delivered",
            ReportType::Viewed => "viewed",
        };
        let answer = self.person.prepares("chatreports", action, &fields).sent().await;
        if answer.status.is_success() {
            let id = fields["conversationid"].as_str().unwrap();
            self.downloads(id).await;
        } else {
            self.is_answered(&fields, &answer);
        }
    }

    /// Calls an action of `chatfriends` on another user and reads what it may have changed.
    async fn approaches(&mut self, action: &str, other: &Person) {
        if self.person.user == other.user {
            return;
        }
        let name = if action == "add" { "friend" } else { "friendid" };
        let fields = json!({ name: other.user.as_str() });
        self.person.prepares("chatfriends", action, &fields).sent().await.ok();
        self.downloads_friends(&[other.user.to_string()]).await;
        self.downloads_lists().await;
    }

    async fn blocks(&mut self, action: &str, other: &Person) {
        if self.person.user == other.user {
            return;
        }
        let fields = json!({ "userid": other.user.as_str() });
        self.person.prepares("chatblocklist", action, &fields).sent().await.ok();
        self.downloads_lists().await;
    }

    /// Downloads what a notification names, and nothing else.
    async fn takes_in(&mut self, told: &Notification) {
        if !told.friends.is_empty() {
            self.downloads_friends(&told.friends).await;
        }
        if !told.lists.is_empty() {
            assert_eq!(told.lists, [self.person.user.to_string()]);
            self.downloads_lists().await;
        }
        for id in &told.conversations {
            self.downloads(id).await;
        }
        if !told.conversations.is_empty() {
            for object in self.person.lists().await {
                let id = object["id"].as_str().unwrap().to_owned();
                if told.conversations.contains(&id) {
                    self.copy.conversations.get_mut(&id).unwrap().becomes(object);
                }
            }
        }
        self.sequence = self.sequence.max(told.sequence);
    }

    /// Continues the download of a conversation from where the copy ends.
    async fn downloads(&mut self, id: &str) {
        let unknown = || Conversation::of(json!({ "id": id }));
        let copy = self.copy.conversations.entry(id.to_owned()).or_insert_with(unknown);
        loop {
            let answer = self.person.asks("download", copy.cursor()).await;
            if answer.status.as_u16() == 409 {
                copy.becomes(answer.refused(409, "instance_changed")["conversation"].clone());
            } else if !copy.takes(&answer.ok()) {
                return;
            }
        }
    }

    /// Reads the nicks and availabilities of these users. Removes users who are not friends.
    async fn downloads_friends(&mut self, ids: &[String]) {
        let listed = self.person.prepares("chatfriends", "list", &json!({})).sent().await.ok();
        for id in ids {
            let entries = listed["availabilities"].as_array().unwrap();
            match entries.iter().find(|entry| entry["friendid"] == **id) {
                Some(entry) => {
                    let friend = json!([listed["friends"][id], entry]);
                    self.copy.friends.insert(id.clone(), friend);
                }
                None => drop(self.copy.friends.remove(id)),
            }
        }
    }

    /// Reads the lists of conversations, requests and blocked users.
    async fn downloads_lists(&mut self) {
        for object in self.person.lists().await {
            let id = object["id"].as_str().unwrap().to_owned();
            self.copy.conversations.entry(id).or_insert_with(|| Conversation::of(object));
        }
        self.copy.requests = json!(self.person.requests().await.map(|requests| {
            let requests = requests.as_array().unwrap().iter();
            requests.map(|request| request["userid"].clone()).collect::<Vec<_>>()
        }));
        let blocklist = self.person.prepares("chatblocklist", "blocklist", &json!({}));
        self.copy.blocked = blocklist.sent().await.ok()["blockedusers"].clone();
    }

    /// Takes in a notification if there is one. Returns whether there was.
    async fn hears(&mut self, acknowledges: bool) -> bool {
        let Some(listener) = &mut self.listener else { return false };
        let Some(heard) = listener.is_told_before_a_ping().await else { return false };
        self.takes_in(&heard).await;
        if acknowledges {
            self.acknowledges().await;
        }
        true
    }

    async fn acknowledges(&mut self) {
        if let Some(listener) = &mut self.listener {
            listener.says(&json!({ "action": "ack", "sequence": self.sequence })).await;
        }
    }

    /// Takes the listener if it is connected to this server.
    pub fn loses_its_listener(&mut self, server: SocketAddr) -> Option<WsClient> {
        self.listener.take_if(|listener| listener.server() == server)
    }

    /// Takes in everything new.
    pub async fn catches_up(&mut self, habit: Habit) {
        match habit {
            Habit::Acknowledges => loop {
                let told = self.person.polls(self.sequence).await;
                if told.is_empty() {
                    return;
                }
                self.takes_in(&told).await;
            },
            Habit::Takes => loop {
                let told = self.person.is_notified().await;
                if told.is_empty() {
                    return;
                }
                self.takes_in(&told).await;
            },
            Habit::Listens => {
                if self.listener.is_none() {
                    self.listener = Some(self.person.listens().await);
                }
                while self.hears(true).await {}
            }
        }
    }

    /// Returns what the copy holds.
    pub fn shows(&self) -> Value {
        self.copy.shows(self.person.user)
    }

    /// Returns what a fresh download holds.
    pub async fn downloads_everything(&self) -> Value {
        let mut fresh = Self::of(self.person.clone());
        fresh.downloads_lists().await;
        let order: Vec<_> = self.person.lists().await;
        let order: Vec<_> = order.iter().map(|object| object["id"].as_str().unwrap()).collect();
        assert_eq!(fresh.copy.order(), order);
        for id in order {
            fresh.downloads(id).await;
        }
        let listed = self.person.prepares("chatfriends", "list", &json!({})).sent().await.ok();
        let ids: Vec<_> = listed["friends"].as_object().unwrap().keys().cloned().collect();
        fresh.downloads_friends(&ids).await;
        fresh.shows()
    }
}
