//! The two users of a demo: their keys and their first messages.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rand::Rng as _;
use serde::{Deserialize, Serialize};

use super::{Database, Failed};
use crate::client::payload::{self, MessageAddress};
use crate::clock::Clock;
use crate::domain::{
    ConversationId, FullName, Instance, Limits, Message, MessageId, Nick, Parse, UserId,
};
use crate::friends;
use crate::key_file::KeyFile;
use crate::keys::{ConversationSecret, EncryptionPassword, KeySource};
use crate::random::os_random;
use crate::store::{AddMessage, DatabaseUrl, Schema, Store};
use crate::users;

/// Messages of a new demo: the index of the sender (0 is Alice, 1 is Bob) and the text.
const TALK: [(usize, &str); 3] = [
    (0, "Hi Bob, have you seen the new server?"),
    (1, "I am typing on it!"),
    (0, "Then everything works."),
];

/// The users and the conversation of a demo, with all keys and passwords. Stored in `demo.json` beside the database.
#[derive(Serialize, Deserialize)]
pub(crate) struct DemoUsers {
    pub(crate) conversationid: String,
    pub(crate) alice: Person,
    pub(crate) bob: Person,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Person {
    pub(crate) email: String,
    pub(crate) userid: String,
    pub(crate) apikey: String,
    pub(crate) encryptionpassword: String,
    pub(crate) stationid: String,
}

struct Files {
    database: PathBuf,
    /// The database's name until it is complete. A demo that is interrupted in its first moments leaves no database
    /// that a later demo would take for its own.
    unfinished: PathBuf,
    record: PathBuf,
    /// The key file of the complete database.
    key_file: KeyFile,
}

pub(crate) fn database_url(folder: &Path) -> String {
    format!("sqlite://{}", folder.join("chatserver.db").display())
}

impl DemoUsers {
    /// Loads the users of an earlier demo in this folder, or creates new users in a new database.
    pub(crate) async fn of(folder: &Path) -> Result<Self, Failed> {
        let files = Files {
            database: folder.join("chatserver.db"),
            unfinished: folder.join("unfinished.db"),
            record: folder.join("demo.json"),
            key_file: KeyFile::at(folder.join("chatserver.db.key")),
        };
        if files.database.exists() { files.kept() } else { files.add_demo_users().await }
    }
}

impl Files {
    fn kept(&self) -> Result<DemoUsers, Failed> {
        let kept = fs::read(&self.record).map_err(|error| {
            let (record, database) = (self.record.display(), self.database.display());
            format!("{record}: {error}; without it, {database} is not the database of a demo")
        })?;
        Ok(serde_json::from_slice(&kept)?)
    }

    async fn add_demo_users(&self) -> Result<DemoUsers, Failed> {
        let unfinished = ["-wal", "-shm"].map(|suffix| {
            let mut name = self.unfinished.clone().into_os_string();
            name.push(suffix);
            name.into()
        });
        for leftover in [&self.unfinished, &self.record].into_iter().chain(&unfinished) {
            if leftover.exists() {
                fs::remove_file(leftover)?;
            }
        }
        let url = DatabaseUrl::Sqlite(format!("sqlite://{}", self.unfinished.display()));
        let limits = Limits::default();
        let database = Database::open_at(url, &self.key_file, Schema::Migrate, limits).await?;
        let demo_users = make(&database.store).await;
        let closed = database.close_wholly().await;
        let demo_users = demo_users?;
        // The rename below moves the database without its write-ahead log, so the log must be empty.
        closed?;
        let mut record =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.record)?;
        record.write_all(&serde_json::to_vec_pretty(&demo_users)?)?;
        record.sync_all()?;
        fs::rename(&self.unfinished, &self.database)?;
        Ok(demo_users)
    }
}

async fn make(store: &Store) -> Result<DemoUsers, Failed> {
    let alice = add(store, "alice@example.com", "Alice").await?;
    let bob = add(store, "bob@example.com", "Bob").await?;
    let secret = ConversationSecret::generate();
    let conversation = friends::befriend(store, &alice.email, &bob.email, &secret).await?;
    let people = [&alice, &bob];
    for (who, text) in TALK {
        say(store, conversation, people[who], &secret, text).await?;
    }
    Ok(DemoUsers { conversationid: conversation.to_string(), alice, bob })
}

async fn add(store: &Store, email: &str, nick: &str) -> Result<Person, Failed> {
    let email = Parse::parse(email).ok_or("the address of the demo is malformed")?;
    let nick = Nick::parse(nick).ok_or("the nick of the demo is malformed")?;
    let password = EncryptionPassword::generate();
    let keys = KeySource::generated();
    let user = users::add(store, &keys, email, nick, FullName::default(), password).await?;
    let mut station = [0; 16];
    os_random().fill_bytes(&mut station);
    Ok(Person {
        email: user.email.to_string(),
        userid: user.id.to_string(),
        apikey: user.api_key.as_str().to_owned(),
        encryptionpassword: user.encryption_password.as_str().to_owned(),
        stationid: hex::encode(station),
    })
}

async fn say(
    store: &Store,
    conversation: ConversationId,
    sender: &Person,
    secret: &ConversationSecret,
    text: &str,
) -> Result<(), Failed> {
    let sender = UserId::parse(&sender.userid).ok_or("the user id of the demo is malformed")?;
    let shown = store.conversation(conversation, sender).await?;
    let shown: Shown = serde_json::from_slice(&shown.unwrap_or_default())?;
    let instance = Instance::parse(&shown.instance).ok_or("the instance is malformed")?;
    let now = Clock::system().now();
    let id = uuid::Uuid::new_v4().to_string();
    let id = MessageId::parse(&id).ok_or("the message ID of the demo is malformed")?;
    let data =
        payload::seal(secret, &MessageAddress { conversation, instance, id: &id }, sender, text);
    let message =
        Message { id, kind: "Message".to_owned(), created: now, valid_until: String::new(), data };
    let add = AddMessage { conversation, sender, station: None, instance, message, now };
    store.add_message(add).await?;
    Ok(())
}

/// The part of a conversation object that `say` reads.
#[derive(Deserialize)]
struct Shown {
    instance: String,
}
