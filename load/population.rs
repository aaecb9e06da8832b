//! The users of a run, their conversations and earlier messages, written directly into the database.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chatserver::client::Credentials;
use chatserver::clock::Clock;
use chatserver::domain::{
    ConversationId, Email, FullName, Instance, Limits, Message, MessageId, Nick, Parse, StationId,
    UserId,
};
use chatserver::friends;
use chatserver::key_file::KeyFile;
use chatserver::keys::{ConversationSecret, EncryptionPassword, KeyPair, KeySource};
use chatserver::store::{AddMessage, DatabaseUrl, Schema, Store};
use chatserver::users;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::BoxError;

/// Ready-made RSA key pairs: generating one takes 0.1 s, and they play no part in what is measured.
const KEY_PAIRS: &str = include_str!("../tests/it/keys.txt");

/// Maximum concurrent changes: enough to fill the batches of the store.
const AT_ONCE: usize = 512;

/// Maximum bytes of Data in concurrent changes. The writer's queue holds 16 MiB.
const BYTES_AT_ONCE: usize = 8 * 1024 * 1024;

/// A user, and what signs its requests.
pub struct Person {
    pub credentials: Credentials,
}

/// A conversation of two users.
pub struct Talk {
    pub conversation: ConversationId,
    pub instance: Instance,
    /// Indices of the two in [`Population::people`].
    pub people: [usize; 2],
}

/// All users and their conversations.
#[derive(Default)]
pub struct Population {
    pub people: Vec<Person>,
    pub talks: Vec<Talk>,
}

/// The number of users and the conversations between them.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// So many pairs of users, each with one conversation.
    Pairs(usize),
    /// Users in a ring, each with conversations with so many neighbours on either side.
    Ring { people: usize, neighbours: usize },
    /// So many conversations between the fewest possible users.
    Conversations(usize),
}

impl Shape {
    /// Returns the number of users, and the pairs of them that talk.
    fn pairs(self) -> (usize, Vec<[usize; 2]>) {
        match self {
            Self::Pairs(pairs) => (2 * pairs, (0..pairs).map(|n| [2 * n, 2 * n + 1]).collect()),
            Self::Ring { people, neighbours } => {
                let people = people.max(2 * neighbours + 1);
                let to_the_right =
                    move |one| (1..=neighbours).map(move |n| [one, (one + n) % people]);
                (people, (0..people).flat_map(to_the_right).collect())
            }
            Self::Conversations(conversations) => {
                let people = (2..=conversations + 1).find(|n| n * (n - 1) / 2 >= conversations);
                let people = people.unwrap_or(2);
                let with_earlier = |other| (0..other).map(move |one| [one, other]);
                (people, (0..people).flat_map(with_earlier).take(conversations).collect())
            }
        }
    }
}

/// The database, opened beside a server or without one.
pub struct Database {
    pub store: Arc<Store>,
    tasks: TaskTracker,
}

impl Database {
    /// Opens the database. Only the database of a server started here may be migrated: a running server has its own
    /// open.
    pub async fn open(url: &str, schema: Schema) -> Result<Self, BoxError> {
        let tasks = TaskTracker::new();
        let url = DatabaseUrl::parse(url)
            .ok_or_else(|| format!("{url} must be {}", DatabaseUrl::EXPECTED))?;
        let of_setting = std::env::var_os("CHATSERVER_AUTH__KEY_FILE").map(KeyFile::at);
        let key_file = of_setting.or_else(|| url.key_file());
        let key_file = key_file.ok_or("CHATSERVER_AUTH__KEY_FILE must name the key file")?;
        let store = Store::open(&url, &key_file, schema, Limits::default(), &tasks).await?;
        Ok(Self { store: Arc::new(store), tasks })
    }

    pub async fn close(self) {
        self.store.leave().await;
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Adds a population of this shape. Its e-mail addresses are unique to this call.
    pub async fn add(&self, shape: Shape) -> Result<Population, BoxError> {
        let (people, pairs) = shape.pairs();
        let keys = ready_made_keys()?;
        let run = Uuid::new_v4().simple().to_string();
        let emails: Vec<_> = (0..people).map(|n| format!("load-{run}-{n}@example.com")).collect();
        let adding = stream::iter(&emails).map(|email| self.person(&keys, email));
        let people = adding.buffered(AT_ONCE).try_collect().await?;
        let befriending = stream::iter(pairs).map(|pair| self.talk(&emails, pair));
        let talks = befriending.buffered(AT_ONCE).try_collect().await?;
        Ok(Population { people, talks })
    }

    async fn person(&self, keys: &KeySource, email: &str) -> Result<Person, BoxError> {
        let email = Email::parse(email).ok_or("no address")?;
        let nick = Nick::parse("Load").ok_or("no nick")?;
        let password = EncryptionPassword::generate();
        let user =
            users::add(&self.store, keys, email, nick, FullName::default(), password).await?;
        let station = StationId::parse(&Uuid::new_v4().simple().to_string()).ok_or("no station")?;
        Ok(Person { credentials: Credentials::new(user.id, station, &user.api_key) })
    }

    async fn talk(&self, emails: &[String], people: [usize; 2]) -> Result<Talk, BoxError> {
        let [one, other] = people.map(|n| emails[n].as_str());
        let secret = ConversationSecret::generate();
        let conversation = friends::befriend(&self.store, one, other, &secret).await?;
        let user = UserId::named(one).ok_or("no address")?;
        let shown = self.store.conversation(conversation, user).await?.ok_or("no conversation")?;
        let ConversationObject { instance } = serde_json::from_slice(&shown)?;
        let instance = Instance::parse(&instance).ok_or("no instance")?;
        Ok(Talk { conversation, instance, people })
    }

    /// Adds so many messages to each conversation, one to each in turn, as if many users talked at the same time. With
    /// `both`, the two users take turns as the sender. Otherwise the first one sends all.
    pub async fn fill(
        &self,
        population: &Population,
        messages: usize,
        bytes: usize,
        both: bool,
    ) -> Result<(), BoxError> {
        let sends = (0..messages).flat_map(|turn| {
            let sender = if both { turn % 2 } else { 0 };
            population.talks.iter().map(move |talk| self.send(population, talk, sender, bytes))
        });
        let at_once = (BYTES_AT_ONCE / bytes.max(1)).clamp(1, AT_ONCE);
        stream::iter(sends).buffered(at_once).try_collect().await
    }

    async fn send(
        &self,
        population: &Population,
        talk: &Talk,
        sender: usize,
        bytes: usize,
    ) -> Result<(), BoxError> {
        let sender = &population.people[talk.people[sender]];
        Ok(self.store.add_message(talk.message(sender, bytes)?).await?)
    }
}

impl Talk {
    /// Makes a new message from one of the two users.
    pub fn message(&self, sender: &Person, bytes: usize) -> Result<AddMessage, BoxError> {
        let now = Clock::system().now();
        Ok(AddMessage {
            conversation: self.conversation,
            sender: sender.credentials.user,
            station: Some(sender.credentials.station),
            instance: self.instance,
            message: Message {
                id: MessageId::parse(&Uuid::new_v4().to_string()).ok_or("no message ID")?,
                kind: "Message".to_owned(),
                created: now,
                valid_until: String::new(),
                data: data(bytes),
            },
            now,
        })
    }
}

/// Returns so many bytes of base64, rounded down to a multiple of 4.
pub fn data(bytes: usize) -> String {
    "QUJD".repeat(bytes / 4)
}

/// The part of a conversation object that [`Database::talk`] reads.
#[derive(Deserialize)]
struct ConversationObject {
    instance: String,
}

fn ready_made_keys() -> Result<KeySource, BoxError> {
    let pair = |key| Ok::<_, BoxError>(KeyPair::from_pkcs8(&BASE64.decode(key)?)?);
    let pairs = KEY_PAIRS.lines().map(pair).collect::<Result<Vec<_>, _>>()?;
    let next = AtomicUsize::new(0);
    Ok(KeySource::from_fn(move || {
        pairs[next.fetch_add(1, Ordering::Relaxed) % pairs.len()].clone()
    }))
}
