//! Payloads of the notifications between nodes: users, and what is new for each.
//!
//! A payload is the node's name, a blank, and entries separated by commas. An entry is `USER`, or
//! `USER:BEHIND:NEWEST:SUBJECT:SUBJECT…`. A subject is `c` or `f` and an ID, or `l`; then `@` and the station that made
//! the change, if any; then `+` where another station changed it, too.

use std::collections::{BTreeMap, HashMap};

use crate::domain::{ConversationId, Origin, Parse, StationId, Subject, UserId};
use crate::store::{Changes, News};

/// Maximum bytes of the entries of a payload. PostgreSQL takes less than 8,000 in all.
const BYTES: usize = 7_500;

/// In place of entries: any user may be affected.
const ALL: &str = "*";

/// In place of entries: a sign of life, which shows that the channel works.
const ALIVE: &str = ".";

/// The content of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    Users(HashMap<UserId, News>),
    /// Any user may be affected.
    All,
    /// A sign of life.
    Alive,
}

impl Payload {
    /// Returns the texts that carry this payload, each with the name of the node.
    pub(super) fn texts(&self, node: &str) -> Vec<String> {
        let all = match self {
            Self::Users(users) => packed(users),
            Self::All => vec![ALL.to_owned()],
            Self::Alive => vec![ALIVE.to_owned()],
        };
        all.iter().map(|entries| format!("{node} {entries}")).collect()
    }

    /// Reads a text. `None` where this node has sent it, or where it is no payload.
    pub(super) fn read(text: &str, node: &str) -> Option<Self> {
        let (sender, entries) = text.split_once(' ')?;
        if sender == node {
            return None;
        }
        Some(match entries {
            ALL => Self::All,
            ALIVE => Self::Alive,
            users => Self::Users(users.split(',').filter_map(read_entry).collect()),
        })
    }
}

/// Returns the entries of these users, in as many texts as their length needs.
fn packed(users: &HashMap<UserId, News>) -> Vec<String> {
    let mut packed: Vec<String> = Vec::new();
    for (user, news) in users {
        let entry = entry(*user, news);
        match packed.last_mut() {
            Some(last) if last.len() + 1 + entry.len() <= BYTES => {
                last.push(',');
                last.push_str(&entry);
            }
            _ => packed.push(entry),
        }
    }
    packed
}

fn entry(user: UserId, news: &News) -> String {
    let mut entry = user.as_str().to_owned();
    if let News::Changes(Changes { behind, newest, subjects }) = news {
        entry.extend([":", &behind.to_string(), ":", &newest.to_string()]);
        for (subject, origin) in subjects {
            entry.push(':');
            push(&mut entry, *subject, *origin);
        }
    }
    entry
}

fn push(entry: &mut String, subject: Subject, origin: Origin) {
    match subject {
        Subject::Conversation(id) => entry.extend(["c", id.as_str()]),
        Subject::Friend(id) => entry.extend(["f", id.as_str()]),
        Subject::Lists => entry.push('l'),
    }
    if let Some(station) = origin.station {
        entry.extend(["@", station.as_str()]);
    }
    if origin.is_mixed {
        entry.push('+');
    }
}

/// Reads an entry. What it says of a user's changes counts only as a whole.
fn read_entry(entry: &str) -> Option<(UserId, News)> {
    let (user, changes) = entry.split_once(':').unwrap_or((entry, ""));
    let news = read_changes(changes).map_or(News::Unknown, News::Changes);
    Some((UserId::parse(user)?, news))
}

fn read_changes(text: &str) -> Option<Changes> {
    let mut parts = text.split(':');
    let (behind, newest) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let subjects: Option<BTreeMap<_, _>> = parts.map(read_subject).collect();
    Some(Changes { behind, newest, subjects: subjects? })
}

fn read_subject(text: &str) -> Option<(Subject, Origin)> {
    let (text, is_mixed) = text.strip_suffix('+').map_or((text, false), |text| (text, true));
    let (subject, station) = match text.split_once('@') {
        Some((subject, station)) => (subject, Some(StationId::parse(station)?)),
        None => (text, None),
    };
    let subject = match subject.split_at_checked(1)? {
        ("c", id) => Subject::Conversation(ConversationId::parse(id)?),
        ("f", id) => Subject::Friend(UserId::parse(id)?),
        ("l", "") => Subject::Lists,
        _ => return None,
    };
    Some((subject, Origin { station, is_mixed }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id<T: Parse>(digit: char) -> T {
        let lengths = [32, 40, 64];
        let ids = lengths.map(|length| T::parse(&digit.to_string().repeat(length)));
        ids.into_iter().flatten().next().unwrap()
    }

    fn news(subjects: usize) -> News {
        let conversation = |n: usize| {
            let conversation =
                Subject::Conversation(ConversationId::parse(&format!("{n:032x}")).unwrap());
            (conversation, Origin { station: Some(id('5')), is_mixed: n % 2 == 1 })
        };
        let mut subjects: BTreeMap<_, _> = (0..subjects).map(conversation).collect();
        subjects.insert(Subject::Lists, Origin { station: None, is_mixed: false });
        subjects.insert(Subject::Friend(id('f')), Origin { station: None, is_mixed: true });
        News::Changes(Changes { behind: 7, newest: 12, subjects })
    }

    #[test]
    fn a_payload_is_read_as_it_was_written_by_another_node() {
        let users = HashMap::from([(id('a'), News::Unknown), (id('b'), news(3))]);
        for payload in [Payload::Users(users), Payload::All, Payload::Alive] {
            let texts = payload.texts("one");
            assert_eq!(texts.len(), 1);
            assert_eq!(Payload::read(&texts[0], "two"), Some(payload));
            assert_eq!(Payload::read(&texts[0], "one"), None);
        }
    }

    #[test]
    fn many_users_take_several_payloads_that_postgresql_takes() {
        let user = |n: u32| (UserId::parse(&format!("{n:032x}")).unwrap(), news(30));
        let users: HashMap<_, _> = (0..40).map(user).collect();
        let texts = Payload::Users(users.clone()).texts("0123456789abcdef0123456789abcdef");
        assert!(texts.len() > 1);
        assert!(texts.iter().all(|text| text.len() < 8_000));
        let mut read = HashMap::new();
        for text in texts {
            let Some(Payload::Users(some)) = Payload::read(&text, "two") else { panic!("users") };
            read.extend(some);
        }
        assert_eq!(read, users);
    }

    #[test]
    fn a_malformed_entry_says_nothing_but_its_user() {
        let user: UserId = id('a');
        for changes in
            ["", ":", ":7", ":7:x", ":7:12:", ":7:12:x", ":7:12:l:cff", ":7:12:l@+", ":7:12:é"]
        {
            let read = Payload::read(&format!("one {user}{changes}"), "two");
            assert_eq!(
                read,
                Some(Payload::Users(HashMap::from([(user, News::Unknown)]))),
                "{changes}"
            );
        }
        assert_eq!(Payload::read("one zz:7:12:l", "two"), Some(Payload::Users(HashMap::new())));
    }
}
