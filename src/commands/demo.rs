//! `chatserver demo`: a server that two people use already, and shell commands to join them.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aes::cipher::KeyIvInit as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use rand::Rng as _;
use serde::{Deserialize, Serialize};

use super::{Failed, serve};
use crate::app::App;
use crate::config::Config;
use crate::friends;
use crate::id::{ConversationId, Instance, MessageId, Parse, UserId};
use crate::keys::{ConversationSecret, EncryptionPassword, KeySource};
use crate::random::os_random;
use crate::store::{AddMessage, Message, Store};
use crate::telemetry::Logging;
use crate::users::{self, FullName, Nick};

/// The shell functions and commands, with the places of what is different each time.
const SHELL: &str = include_str!("demo.sh");

/// What the shell functions do. It stands before them: not every shell takes comments when typing.
const GUIDE: &str = "\
# Paste what follows into another shell. It needs curl and openssl, and defines a function for each command:
#   chat_as_alice, chat_as_bob   who you are from then on
#   chat_login                   log in; chat_key opens the private key that comes with it
#   chat_list, chat_download     what the server says; chat_read opens the messages
#   chat_add TEXT, chat_clear    say something, remove everything
#   chat_call API FIELDS         stamp, sign and send any request
# The server never reads Data. These people write IV:CIPHERTEXT, AES-256-CFB under the conversation's
# secret, which chat_secret opens. The commands at the end work in any order, as often as you like.
# Ctrl-C here ends the demo.
";

/// What Alice and Bob have said before anybody joins them.
const TALK: [(usize, &str); 3] = [
    (0, "Hi Bob, have you seen the new server?"),
    (1, "I am typing on it!"),
    (0, "Then everything works."),
];

#[derive(Args)]
pub struct Demo {
    /// Keep the database, the keys and the passwords in this folder. Without it, they end with the demo
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: String,
}

/// Who takes part, with everything that opens it. It is kept beside the database with `--data`.
#[derive(Serialize, Deserialize)]
struct Cast {
    conversationid: String,
    alice: Person,
    bob: Person,
}

#[derive(Serialize, Deserialize)]
struct Person {
    email: String,
    userid: String,
    apikey: String,
    encryptionpassword: String,
    stationid: String,
}

impl Demo {
    pub async fn run(self) -> Result<(), Failed> {
        let temporary;
        let folder = if let Some(folder) = &self.data {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            folder.as_path()
        } else {
            temporary = tempfile::tempdir()?;
            temporary.path()
        };
        let database = folder.join("chatserver.db");
        let url = format!("sqlite://{}", database.display());
        let flags = [
            ("http.listen", self.listen.as_str()),
            ("http.metrics_listen", ""),
            ("database.url", &url),
            ("log.filter", "warn"),
        ];
        let config = Config::load(None, [], &flags)?;
        let logging = Arc::new(Logging::start(&config.log)?);
        let kept = Kept { path: folder.join("demo.json"), database_is_new: !database.exists() };
        serve::run(config, &logging, async |app| {
            let cast = kept.cast(app).await?;
            print(&cast, app)
        })
        .await
    }
}

/// The file that remembers the cast.
struct Kept {
    path: PathBuf,
    database_is_new: bool,
}

impl Kept {
    /// The cast of an earlier demo in the same folder, or a new one.
    async fn cast(&self, app: &App) -> Result<Cast, Failed> {
        if !self.database_is_new {
            let kept = fs::read(&self.path).map_err(|error| {
                format!("{}: {error}; a demo keeps its own database only", self.path.display())
            })?;
            return Ok(serde_json::from_slice(&kept)?);
        }
        let cast = new_cast(app).await?;
        keep(&self.path, &cast)?;
        Ok(cast)
    }
}

fn keep(path: &Path, cast: &Cast) -> Result<(), Failed> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&serde_json::to_vec_pretty(cast)?)?;
    Ok(file.sync_all()?)
}

async fn new_cast(app: &App) -> Result<Cast, Failed> {
    let store = &app.store;
    let alice = add(store, "alice@example.com", "Alice").await?;
    let bob = add(store, "bob@example.com", "Bob").await?;
    let secret = ConversationSecret::generate();
    let conversation = friends::befriend(store, &alice.email, &bob.email, &secret).await?;
    let people = [&alice, &bob];
    for (who, text) in TALK {
        say(app, conversation, people[who], &seal(&secret, text)).await?;
    }
    Ok(Cast { conversationid: conversation.to_string(), alice, bob })
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

/// Encrypts as the shell functions do: `IV:CIPHERTEXT` under AES-256-CFB.
fn seal(secret: &ConversationSecret, text: &str) -> String {
    let mut iv = [0; 16];
    os_random().fill_bytes(&mut iv);
    let mut sealed = text.as_bytes().to_vec();
    let key = (*secret.as_bytes()).into();
    cfb_mode::Encryptor::<aes::Aes256>::new(&key, &iv.into()).encrypt(&mut sealed);
    BASE64.encode(format!("{}:{}", hex::encode(iv), BASE64.encode(sealed)))
}

async fn say(
    app: &App,
    conversation: ConversationId,
    sender: &Person,
    data: &str,
) -> Result<(), Failed> {
    let sender = UserId::parse(&sender.userid).ok_or("the user id of the demo is malformed")?;
    let shown = app.store.conversation(conversation, sender).await?;
    let shown: Shown = serde_json::from_str(&shown.unwrap_or_default())?;
    let now = app.clock.now();
    let id = uuid::Uuid::new_v4().to_string();
    let message = Message {
        id: MessageId::parse(&id).ok_or("the message ID of the demo is malformed")?,
        kind: "Message".to_owned(),
        created: now.to_string(),
        valid_until: String::new(),
        data: data.to_owned(),
    };
    let instance = Instance::parse(&shown.instance).ok_or("the instance is malformed")?;
    let add = AddMessage { conversation, sender, instance, message, now };
    app.store.add_message(add).await?;
    Ok(())
}

/// What `say` needs of a conversation.
#[derive(Deserialize)]
struct Shown {
    instance: String,
}

fn print(cast: &Cast, app: &App) -> Result<(), Failed> {
    let mut shell = SHELL
        .replace("{{url}}", app.public_url.as_str())
        .replace("{{conversation}}", &cast.conversationid);
    for (name, person) in [("alice", &cast.alice), ("bob", &cast.bob)] {
        shell = shell
            .replace(&format!("{{{{{name}.userid}}}}"), &person.userid)
            .replace(&format!("{{{{{name}.stationid}}}}"), &person.stationid)
            .replace(&format!("{{{{{name}.apikey}}}}"), &person.apikey)
            .replace(&format!("{{{{{name}.encryptionpassword}}}}"), &person.encryptionpassword);
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "# The server is at {}. Two people talk on it:", app.public_url)?;
    for person in [&cast.alice, &cast.bob] {
        writeln!(stdout, "#   {}", person.email)?;
        writeln!(stdout, "#     user id             {}", person.userid)?;
        writeln!(stdout, "#     API key             {}", person.apikey)?;
        writeln!(stdout, "#     encryption password {}", person.encryptionpassword)?;
    }
    writeln!(stdout, "# They are friends, and their conversation is {}.", cast.conversationid)?;
    writeln!(stdout, "{GUIDE}\n{shell}")?;
    Ok(stdout.flush()?)
}
