//! The model: what the protocol says of conversations, in the simplest form.

use std::cmp::Reverse;
use std::collections::HashMap;

use chatserver::domain::{Instance, Message, MessageId, Parse as _, Property, Timestamp};
use serde_json::{Value, json};

use super::{Ask, Look, Resolved, START, Said, Server, Shown, TALKS, When};

/// An instance that no conversation has: the server makes them at random.
const NEVER: &str = "0000000000";

/// When signatures expire that have this number, in seconds since the start.
pub fn expiry(number: usize) -> i64 {
    20 * i64::try_from(number).unwrap()
}

/// The date of a second of the history.
pub fn date(second: i64) -> Timestamp {
    Timestamp::from_unix(Timestamp::parse(START).unwrap().unix() + second).unwrap()
}

/// The ID with this number: a UUID, one that differs from it in case alone, or none.
pub fn message_id(number: usize) -> MessageId {
    let id = match number % 3 {
        0 => format!("m-{number}"),
        1 => format!("{number:08x}-abcd-4bcd-8bcd-abcdefabcdef"),
        _ => format!("{:08x}-ABCD-4bcd-8bcd-abcdefabcdef", number - 1),
    };
    MessageId::parse(&id).unwrap()
}

/// A version of the message with this ID: each differs from the first in one field.
pub fn message(id: usize, version: usize) -> Message {
    let mut message = Message {
        id: message_id(id),
        kind: "Message".to_owned(),
        created: Timestamp::parse(START).unwrap(),
        valid_until: String::new(),
        data: "QUJD".repeat(id),
    };
    match version {
        1 => "Mes\"sage\\ \u{e9}".clone_into(&mut message.kind),
        2 => message.created = Timestamp::parse("0000-01-01 00:00:00").unwrap(),
        3 => "2024-03-15 12:00:00".clone_into(&mut message.valid_until),
        4 => message.data = "REVG".repeat(100),
        _ => {}
    }
    message
}

/// The message as the protocol writes it.
pub fn written(message: &Message) -> Value {
    json!({
        "ID": message.id.as_str(), "Type": message.kind, "Created": message.created.to_string(),
        "ValidUntil": message.valid_until, "Data": message.data,
    })
}

/// A message in its place.
struct Kept {
    sender: usize,
    message: Message,
    accepted: i64,
}

pub struct Talk {
    people: [usize; 2],
    pub friends: bool,
    /// From the first to the current one.
    instances: Vec<String>,
    messages: Vec<Kept>,
    /// What each of the two sees, but for what they share.
    views: [Value; 2],
    last_access: i64,
}

impl Talk {
    fn new(people: [usize; 2]) -> Self {
        let views = [Value::Null, Value::Null];
        Self { people, friends: true, instances: vec![], messages: vec![], views, last_access: 0 }
    }

    fn current(&self) -> &str {
        self.instances.last().unwrap()
    }

    /// The name of an instance.
    pub fn instance(&self, when: &When) -> String {
        match when {
            When::Now => self.current().to_owned(),
            When::Once(index) => index.get(&self.instances).clone(),
            When::Never => NEVER.to_owned(),
        }
    }

    /// Which of the two somebody is.
    fn seat(&self, by: usize) -> Option<usize> {
        self.people.iter().position(|person| *person == by)
    }

    /// The conversation object, if it is somebody's.
    fn seen(&self, by: usize) -> Option<Value> {
        let mut seen = self.views[self.seat(by)?].clone();
        let last = self.messages.last().map_or("", |last| last.message.id.as_str());
        seen["lastmessageid"] = json!(last);
        seen["lastaccess"] = json!(self.last_access);
        seen["instance"] = json!(self.current());
        Some(seen)
    }

    fn add(&mut self, by: usize, instance: &str, message: Message, now: i64) -> Said {
        if self.seat(by).is_none() {
            return Said::NotFound;
        }
        if instance != self.current() {
            return Said::InstanceChanged(self.seen(by));
        }
        if let Some(kept) = self.messages.iter().find(|kept| kept.message.id == message.id) {
            let is_same = kept.sender == by && kept.message == message;
            return if is_same { Said::Stored } else { Said::Conflict };
        }
        if !self.friends {
            return Said::NotFriends;
        }
        self.last_access = now;
        self.messages.push(Kept { sender: by, message, accepted: now });
        Said::Stored
    }

    /// `next` is the instance that the server has made, if it has cleared.
    fn clear(&mut self, by: usize, instance: &str, next: Option<&str>) -> Said {
        if self.seat(by).is_none() {
            return Said::NotFound;
        }
        if instance != self.current() {
            return Said::InstanceChanged(self.seen(by));
        }
        if !self.friends {
            return Said::NotFriends;
        }
        let next = next.expect("a clear that is carried out");
        assert!(Instance::parse(next).is_some() && !self.instances.iter().any(|old| old == next));
        self.instances.push(next.to_owned());
        self.messages.clear();
        Said::Changed(self.seen(by).unwrap())
    }

    fn set(&mut self, by: usize, property: &Property) -> Said {
        let Some(seat) = self.seat(by) else {
            return Said::NotFound;
        };
        let view = &mut self.views[seat];
        let me = view["properties"][0]["userid"].clone();
        let mine = |is: bool| if is { json!([me]) } else { json!([]) };
        match property {
            Property::Muted(is) => {
                view["mutedby"] = mine(*is);
                view["properties"][0]["ismuted"] = json!(is);
            }
            Property::Favorite(is) => {
                view["favoriteby"] = mine(*is);
                view["properties"][0]["isfavorite"] = json!(is);
            }
            Property::BackgroundColor(color) => {
                view["properties"][0]["listitembackgroundcolor"] = json!(color);
            }
            Property::HideId(_) | Property::Hidden | Property::Shown => {
                view["hiddenby"] = mine(*property == Property::Hidden);
                let hide_id = if let Property::HideId(id) = property { id } else { "" };
                view["properties"][0]["hideid"] = json!(hide_id);
            }
        }
        Said::Changed(self.seen(by).unwrap())
    }

    /// The bytes of so many entries that are next to the cursor.
    pub fn bytes(&self, look: &Look, entries: usize) -> i64 {
        let unbounded = Look { bytes: u32::MAX, messages: u32::MAX, ..look.clone() };
        let Shown::Page { mut messages, .. } = self.page(&unbounded) else {
            return 0;
        };
        if look.limit.is_some() {
            messages.reverse();
        }
        let bytes: usize = messages.iter().take(entries).map(|entry| entry.to_string().len()).sum();
        i64::try_from(bytes).unwrap()
    }

    fn page(&self, look: &Look) -> Shown {
        let id = look.id.map(message_id);
        let known = id.and_then(|id| self.messages.iter().position(|kept| kept.message.id == id));
        let second = look.date.map(|second| date(second).unix());
        let from = |second| self.messages.iter().take_while(|kept| kept.accepted < second).count();
        let place = known.or(second.map(from));
        let (side, most) = match look.limit {
            None => (&self.messages[place.unwrap_or(0)..], look.messages),
            Some(limit) => {
                let before = &self.messages[..place.unwrap_or(self.messages.len())];
                (&before[before.len().saturating_sub(limit as usize)..], limit)
            }
        };
        let mut entries: Vec<_> = side.iter().map(|kept| written(&kept.message)).collect();
        // The bytes count from the cursor on, in either direction.
        if look.limit.is_some() {
            entries.reverse();
        }
        let wanted = entries.len();
        let mut bytes = 0;
        let fits = |entry: &Value| {
            bytes += entry.to_string().len();
            bytes <= look.bytes as usize
        };
        let fitting = entries.iter().map(fits).take_while(|fits| *fits).count();
        // Whoever goes on from the last entry of a page must get further.
        let least = if look.limit.is_none() && known.is_some() { 2 } else { 1 };
        entries.truncate(fitting.max(least).min(most as usize));
        let more = entries.len() < wanted;
        if look.limit.is_some() {
            entries.reverse();
        }
        Shown::Page { messages: entries, more }
    }
}

pub struct History {
    pub talks: [Talk; 2],
    /// The time, in seconds since the start.
    pub second: i64,
    /// What was carried out, by whom and with which signature; and until when that is known.
    replays: HashMap<(usize, String), i64>,
    /// Generations with messages that a clear has ended.
    to_purge: usize,
}

impl History {
    pub fn new() -> Self {
        let talks = TALKS.map(Talk::new);
        Self { talks, second: 0, replays: HashMap::new(), to_purge: 0 }
    }

    /// Takes over what the server makes at random: secrets, names and first instances.
    pub fn learns<S: Server>(&mut self, server: &S, by: usize, listed: &[Value]) {
        for (of, talk) in self.talks.iter_mut().enumerate() {
            let id = server.conversation(of);
            let seen = listed.iter().find(|seen| seen["id"] == id);
            assert_eq!(seen.is_some(), talk.seat(by).is_some());
            if let (Some(seen), Some(seat)) = (seen, talk.seat(by)) {
                talk.views[seat] = seen.clone();
                talk.instances = vec![seen["instance"].as_str().unwrap().to_owned()];
            }
        }
    }

    /// Asks the server for these changes, and judges what it says.
    pub async fn is_asked<S: Server>(&mut self, server: &S, asks: Vec<Ask>) {
        let named = |ask: Ask| {
            let instance = match &ask {
                Ask::Add { to: of, instance, .. } | Ask::Clear { of, instance, .. } => {
                    self.talks[*of].instance(instance)
                }
                Ask::Set { .. } => String::new(),
            };
            Resolved { ask, instance }
        };
        let asks: Vec<_> = asks.into_iter().map(named).collect();
        let said = server.asked(&asks).await;
        assert_eq!(said.len(), asks.len());
        for (asked, said) in asks.iter().zip(said) {
            let expected = match (self.answer(server, asked, &said), &said) {
                // The store leaves it to its callers to show the conversation.
                (Said::InstanceChanged(_), Said::InstanceChanged(None))
                | (Said::Replayed(_), Said::Replayed(None))
                    if S::AT_ONCE =>
                {
                    continue;
                }
                (expected, _) => expected,
            };
            assert_eq!(said, expected, "{:?}", asked.ask);
        }
    }

    fn answer<S: Server>(&mut self, server: &S, asked: &Resolved, said: &Said) -> Said {
        let Resolved { ask, instance } = asked;
        match ask {
            Ask::Add { by, to, id, version, .. } => {
                let now = date(self.second).unix();
                self.talks[*to].add(*by, instance, message(*id, *version), now)
            }
            Ask::Clear { by, of, .. } => {
                let has_messages = !self.talks[*of].messages.is_empty();
                let next = match said {
                    Said::Changed(seen) => seen["instance"].as_str(),
                    _ => None,
                };
                let told = self.talks[*of].clear(*by, instance, next);
                self.to_purge += usize::from(has_messages && matches!(told, Said::Changed(_)));
                told
            }
            Ask::Set { by, of, property, number } => {
                let signature = server.signature(*by, *of, property, *number);
                let key = (*by, signature);
                if self.replays.contains_key(&key) {
                    return Said::Replayed(self.talks[*of].seen(*by));
                }
                let told = self.talks[*of].set(*by, property);
                if told != Said::NotFound {
                    self.replays.insert(key, expiry(*number));
                }
                told
            }
        }
    }

    pub fn shows(&self, look: &Look, instance: Option<&str>) -> Shown {
        let talk = &self.talks[look.of];
        if talk.seat(look.by).is_none() {
            return Shown::NotFound;
        }
        if instance.is_some_and(|instance| instance != talk.current()) {
            return Shown::InstanceChanged;
        }
        talk.page(look)
    }

    /// The conversations of somebody, in their order.
    pub fn lists(&self, by: usize) -> Vec<Value> {
        let mut all: Vec<_> = self.talks.iter().filter_map(|talk| talk.seen(by)).collect();
        let key = |seen: &Value| {
            let id = seen["id"].as_str().unwrap().to_owned();
            (Reverse(seen["lastaccess"].as_i64().unwrap()), id)
        };
        all.sort_by_key(key);
        all
    }

    /// One step of the purge; whether there was anything to do.
    pub fn purges(&mut self) -> bool {
        let any = self.to_purge > 0;
        self.to_purge -= usize::from(any);
        any
    }

    /// Forgets signatures that have expired; whether there were any.
    pub fn expires(&mut self) -> bool {
        let before = self.replays.len();
        self.replays.retain(|_, expiry| *expiry >= self.second);
        self.replays.len() < before
    }
}
