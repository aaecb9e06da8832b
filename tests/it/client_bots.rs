//! The bots that users copy: each answers every message once, across crashes of the server and of itself.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use chatserver::client::payload::{self, MessageAddress};
use chatserver::domain::{ConversationId, Instance, MessageId, Parse as _};
use chatserver::keys::ConversationSecret;

use crate::harness::left_out::left_out;
use crate::harness::openssl::SealedKey;
use crate::harness::person::{Person, message_with_id};
use crate::harness::process::Workplace;
use crate::harness::world::until;

/// Ends the bot when it is dropped.
struct Bot(Child);

impl Drop for Bot {
    fn drop(&mut self) {
        // The bot may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Bot {
    /// Starts a bot with the keys in `bot.json`. Its output is appended to `bot.txt`.
    fn starts(place: &Workplace, bot: &[String], url: &str) -> Self {
        let printed = File::options().create(true).append(true).open(place.path().join("bot.txt"));
        let printed = printed.unwrap();
        let mut command = Command::new(&bot[0]);
        command.args(&bot[1..]).args([url, "bot.json"]).current_dir(place.path());
        // Python would write into the folder of the sources.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::null()).stdout(printed.try_clone().unwrap()).stderr(printed);
        Self(command.spawn().unwrap())
    }
}

/// Alice, on the command line.
struct Alice<'a> {
    place: &'a Workplace,
    person: Person,
}

impl Alice<'_> {
    #[track_caller]
    fn sends(&self, text: &str) {
        self.place.tells(&["client", "send", "Bot", text, "--profile", "alice.profile"]);
    }

    /// Returns the texts of the conversation, oldest first; `-` for a message that does not open.
    #[track_caller]
    fn reads(&self) -> Vec<String> {
        let read = self.place.tells(&["client", "read", "Bot", "--profile", "alice.profile"]);
        let messages = read["messages"].as_array().unwrap().iter();
        messages.map(|message| message["text"].as_str().unwrap_or("-").to_owned()).collect()
    }

    async fn is_answered(&self, text: &str) {
        let answer = format!("you said: {text}");
        until(&format!("the bot answers {text:?}"), async || self.reads().contains(&answer)).await;
    }

    /// Adds a message that names another user as its sender.
    async fn forges(&self, claimed: &Person) {
        let login = self.person.logs_in().await.ok();
        let key = SealedKey::of(&login, self.person.password.as_str());
        let secret = key.unwraps(&self.person.sees().await["secret"]);
        let secret = ConversationSecret::from_bytes(secret.try_into().unwrap());
        let id = MessageId::parse("forged").unwrap();
        let place = MessageAddress {
            conversation: ConversationId::parse(&self.person.conversation).unwrap(),
            instance: Instance::parse(&self.person.instance().await).unwrap(),
            id: &id,
        };
        let mut message = message_with_id(id.as_str(), "", &self.person.date());
        message["Data"] = payload::seal(&secret, &place, claimed.user, "forged").into();
        self.person.adds(&message).await.ok();
    }
}

/// `kind` is in the name of the file in which this bot records its positions.
async fn answers_each_message_once(kind: &str, bot: &[String]) {
    let place = Workplace::new();
    let mut server = place.serves(&[]).await;
    let address = server.address;
    let url = format!("http://{address}/");
    let told = place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let login = ["client", "login", &url, "--profile", "alice.profile"];
    assert!(place.runs_with(&login, &told.to_string(), &[]).status.success());
    let mut alice = Alice { place: &place, person: Person::added(&told, address) };
    let told = place.tells(&["user", "add", "bot@example.com", "--nick", "Bot"]);
    fs::write(place.path().join("bot.json"), told.to_string()).unwrap();
    let mut other = Person::added(&told, address);
    place.befriends(&mut alice.person, &mut other);

    // The first run begins with the messages that come from then on.
    alice.sends("before there was a bot");
    let positions = place.path().join(format!("bot.json.{kind}.positions"));
    let running = Bot::starts(&place, bot, &url);
    until("the bot listens", async || positions.exists()).await;
    alice.forges(&other).await;
    alice.sends("hello");
    alice.is_answered("hello").await;

    // The server crashes.
    server.signal("KILL");
    server.ended().await;
    let _server = place.starts_at(address, &["serve"], &[]).await;
    alice.sends("Grüße 👋");
    alice.is_answered("Grüße 👋").await;

    // The bot crashes, and a message comes meanwhile.
    drop(running);
    let before = fs::read(&positions).unwrap();
    alice.sends("are you there?");
    let running = Bot::starts(&place, bot, &url);
    alice.is_answered("are you there?").await;

    // As if it had crashed between an answer and the record of it.
    drop(running);
    fs::write(&positions, &before).unwrap();
    alice.sends("last");
    let _running = Bot::starts(&place, bot, &url);
    alice.is_answered("last").await;
    let expected = [
        "before there was a bot",
        "-",
        "hello",
        "you said: hello",
        "Grüße 👋",
        "you said: Grüße 👋",
        "are you there?",
        "you said: are you there?",
        "last",
        "you said: last",
    ];
    assert_eq!(alice.reads(), expected);
}

/// Returns whether an interpreter runs this check of what the bot needs. If not, the test fails in CI, and elsewhere says that
/// it leaves out the bot.
fn has(needed: &str, interpreter: &str, check: &[&str]) -> bool {
    let checked = Command::new(interpreter).args(check).stdin(Stdio::null()).output();
    if checked.is_ok_and(|output| output.status.success()) {
        return true;
    }
    left_out("a bot of docs/bots", needed);
    false
}

/// Returns the path of a file of the project.
fn file(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test]
async fn the_bot_in_python_answers_each_message_once() {
    let check = "import sys, cryptography; sys.exit(sys.version_info < (3, 11))";
    if has("Python 3.11 or newer with the package cryptography", "python3", &["-c", check]) {
        answers_each_message_once("py", &["python3".to_owned(), file("docs/bots/bot.py")]).await;
    }
}

#[tokio::test]
async fn the_bot_in_javascript_answers_each_message_once() {
    let check = "const [major, minor] = process.versions.node.split('.').map(Number); \
                 process.exit(major > 20 || (major === 20 && minor >= 19) ? 0 : 1)";
    if has("Node 20.19 or newer", "node", &["-e", check]) {
        answers_each_message_once("mjs", &["node".to_owned(), file("docs/bots/bot.mjs")]).await;
    }
}

#[tokio::test]
async fn the_bot_in_rust_answers_each_message_once() {
    let built = Path::new(env!("CARGO_BIN_EXE_chatserver")).parent().unwrap();
    let bot = built.join("examples").join("bot");
    assert!(bot.exists(), "{} is missing: run cargo build --example bot", bot.display());
    answers_each_message_once("rs", &[bot.to_str().unwrap().to_owned()]).await;
}
