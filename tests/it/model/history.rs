//! The model: the rules of the protocol for conversations, in the simplest form.

use std::cmp::Reverse;
use std::collections::HashMap;

use chatserver::domain::{Instance, Message, MessageId, Parse as _, Property, Timestamp};
use serde_json::{Value, json};

use super::{Ask, Look, Resolved, START, Said, Server, Shown, TALKS, When};

/// An instance that no conversation has, because the server generates them at random.
const NEVER: &str = "0000000000";

/// Returns when signatures with this number expire, in seconds since the start.
pub fn expiry(number: usize) -> i64 {
    20 * i64::try_from(number).unwrap()
}

/// Returns the date this many seconds after the start.
pub fn date(second: i64) -> Timestamp {
    Timestamp::from_unix(Timestamp::parse(START).unwrap().unix() + second).unwrap()
}

/// Returns the message ID with this number: a UUID, a UUID that differs from it in case only, or another text.
pub fn message_id(number: usize) -> MessageId {
    let id = match number % 3 {
        0 => format!("m-{number}"),
        1 => format!("{number:08x}-abcd-4bcd-8bcd-abcdefabcdef"),
        _ => format!("{:08x}-ABCD-4bcd-8bcd-abcdefabcdef", number - 1),
    };
    MessageId::parse(&id).unwrap()
}

/// Returns a version of the message with this ID. Versions 1 to 4 each differ from version 0 in one field.
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

/// Returns the message as the protocol writes it.
pub fn written(message: &Message) -> Value {
    json!({
        "ID": message.id.as_str(), "Type": message.kind, "Created": message.created.to_string(),
        "ValidUntil": message.valid_until, "Data": message.data,
    })
}

/// A stored message.
struct Kept {
    sender: usize,
    message: Message,
    accepted: i64,
}

pub struct Talk {
    people: [usize; 2],
    pub friends: bool,
    /// Instances from the first to the current one.
    instances: Vec<String>,
    messages: Vec<Kept>,
    /// The conversation object of each participant, without the fields that both share.
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

    /// Resolves an instance to its name.
    pub fn instance(&self, when: &When) -> String {
        match when {
            When::Now => self.current().to_owned(),
            When::Once(index) => index.get(&self.instances).clone(),
            When::Never => NEVER.to_owned(),
        }
    }

    /// Returns the index of a person among the two participants.
    fn seat(&self, by: usize) -> Option<usize> {
        self.people.iter().position(|person| *person == by)
    }

    /// Returns the conversation object as a participant sees it, or `None` for others.
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

    /// Clears the conversation. `next` is the instance that the server generated, if it has cleared.
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

    /// Returns the size in bytes of this many entries next to the cursor.
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
        // Bytes are counted from the cursor on, in both directions.
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
        // A page that continues from a known entry repeats it, so a second entry is needed for progress.
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
    /// Current time, in seconds since the start.
    pub second: i64,
    /// Expiry of each change that was made, by user and signature.
    replays: HashMap<(usize, String), i64>,
    /// Number of cleared generations with messages that are not purged yet.
    to_purge: usize,
}

impl History {
    pub fn new() -> Self {
        let talks = TALKS.map(Talk::new);
        Self { talks, second: 0, replays: HashMap::new(), to_purge: 0 }
    }

    /// Copies what the server generates at random: secrets, names and first instances.
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

    /// Requests these changes from the server and asserts that the outcomes match the model.
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
                // The store does not return the conversation here. Its callers add it.
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

    /// Returns the conversations of a person in list order: most recent access first, then by ID.
    pub fn lists(&self, by: usize) -> Vec<Value> {
        let mut all: Vec<_> = self.talks.iter().filter_map(|talk| talk.seen(by)).collect();
        let key = |seen: &Value| {
            let id = seen["id"].as_str().unwrap().to_owned();
            (Reverse(seen["lastaccess"].as_i64().unwrap()), id)
        };
        all.sort_by_key(key);
        all
    }

    /// Purges one generation and returns whether there was one.
    pub fn purges(&mut self) -> bool {
        let any = self.to_purge > 0;
        self.to_purge -= usize::from(any);
        any
    }

    /// Removes expired replays and returns whether there were any.
    pub fn expires(&mut self) -> bool {
        let before = self.replays.len();
        self.replays.retain(|_, expiry| *expiry >= self.second);
        self.replays.len() < before
    }
}
