//! A server with its own database, and the people who use it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chatserver::app::App;
use chatserver::clock::{Clock, Reading};
use chatserver::config::Config;
use chatserver::domain::{ApiKey, FullName, Nick, Parse, StationId, Timestamp, UserId};
use chatserver::friends;
use chatserver::keys::{ConversationSecret, EncryptionPassword, KeyPair, KeySource};
use chatserver::server::{self, Server};
use chatserver::signature::{Signed, SigningKey};
use chatserver::users;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Time after which a test gives up waiting.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Interval between two checks of a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// RSA key pairs that were generated once, because generating one takes a tenth of a second.
static KEY_PAIRS: LazyLock<Vec<KeyPair>> = LazyLock::new(|| {
    let keys = include_str!("keys.txt").lines();
    keys.map(|key| KeyPair::from_pkcs8(&BASE64.decode(key).unwrap()).unwrap()).collect()
});

/// Returns the source of RSA key pairs for the people of the tests.
pub fn ready_made_keys() -> KeySource {
    let next = AtomicUsize::new(0);
    KeySource::from_fn(move || {
        KEY_PAIRS[next.fetch_add(1, Ordering::Relaxed) % KEY_PAIRS.len()].clone()
    })
}

/// Waits until the condition holds. Panics after [`PATIENCE`].
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !holds().await {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let held = tokio::time::timeout(PATIENCE, looking).await;
    assert!(held.is_ok(), "waited in vain until {what}");
}

/// A wall clock and a monotonic clock that the test sets.
#[derive(Clone, Default)]
pub struct TestClock {
    wall: Arc<AtomicI64>,
    monotonic: Arc<AtomicU64>,
}

impl TestClock {
    /// Sets the wall clock to this date. It stands still until it is set again.
    pub fn shows(&self, date: &str) {
        self.wall.store(Timestamp::parse(date).unwrap().unix(), Ordering::SeqCst);
    }

    /// Moves the wall clock forward or back.
    pub fn jumps(&self, seconds: i64) {
        self.wall.fetch_add(seconds, Ordering::SeqCst);
    }

    /// Advances both clocks by this many seconds.
    pub fn advances(&self, seconds: i64) {
        self.monotonic.fetch_add(u64::try_from(seconds).unwrap(), Ordering::SeqCst);
        self.jumps(seconds);
    }

    /// Returns the date of the wall clock.
    pub fn date(&self) -> String {
        self.now().to_string()
    }

    /// Returns this clock for a server or a person.
    fn clock(&self) -> Clock {
        let shown = self.clone();
        Clock::from_fn(move || Reading {
            wall: shown.now(),
            monotonic: Duration::from_secs(shown.monotonic.load(Ordering::SeqCst)),
        })
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_unix(self.wall.load(Ordering::SeqCst)).unwrap()
    }
}

/// A running server with its database and clock.
pub struct World {
    pub clock: TestClock,
    pub address: SocketAddr,
    app: Arc<App>,
    running: JoinHandle<Result<(), server::Error>>,
    keys: KeySource,
    folder: TempDir,
}

impl World {
    /// Starts a server with the default settings, but without limits on requests and on connections per address.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts a server with these settings on top of those of [`World::start`].
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        let clock = TestClock::default();
        clock.shows("2024-03-08 12:00:00");
        Self::on(tempfile::tempdir().unwrap(), clock, ready_made_keys(), settings).await
    }

    async fn on(
        folder: TempDir,
        clock: TestClock,
        keys: KeySource,
        settings: &[(&str, &str)],
    ) -> Self {
        let url = format!("sqlite://{}", folder.path().join("chat.db").display());
        let mut all = vec![
            ("http.listen", "127.0.0.1:0"),
            ("database.url", url.as_str()),
            ("limits.requests_per_second", "0"),
            ("limits.connections_per_address", "0"),
        ];
        all.extend_from_slice(settings);
        let config = Config::load(None, [], &all).unwrap();
        let server = Server::bind(config, clock.clock()).await.unwrap();
        let address = server.address().unwrap();
        let app = Arc::clone(server.app());
        let running = tokio::spawn(server.run());
        Self { clock, address, app, running, keys, folder }
    }

    /// Returns the path of the database file.
    pub fn database(&self) -> PathBuf {
        self.folder.path().join("chat.db")
    }

    pub fn app(&self) -> &App {
        &self.app
    }

    /// Adds a user whose email address begins with the nick in lower case.
    pub async fn person(&self, nick: &str) -> Person {
        self.person_at(&format!("{}@example.com", nick.to_lowercase()), nick).await
    }

    pub async fn person_at(&self, email: &str, nick: &str) -> Person {
        let password = EncryptionPassword::generate();
        let user = users::add(
            &self.app.store,
            &self.keys,
            Parse::parse(email).unwrap(),
            Nick::parse(nick).unwrap(),
            FullName::parse(&format!("Ozeki {nick}")).unwrap(),
            password.clone(),
        );
        let user = user.await.unwrap();
        Person {
            email: email.to_owned(),
            user: user.id,
            station: new_station(),
            api_key: user.api_key,
            password,
            address: self.address,
            clock: self.clock.clock(),
            http: client(),
            conversation: String::new(),
        }
    }

    /// Adds Alice and Bob, who are friends.
    pub async fn alice_and_bob(&self) -> (Person, Person) {
        let mut alice = self.person("Alice").await;
        let mut bob = self.person("Bob").await;
        self.befriends(&mut alice, &mut bob).await;
        (alice, bob)
    }

    /// Makes two people friends and selects their conversation for both.
    pub async fn befriends(&self, one: &mut Person, other: &mut Person) {
        let secret = ConversationSecret::generate();
        let id =
            friends::befriend(&self.app.store, &one.email, &other.email, &secret).await.unwrap();
        one.conversation = id.to_string();
        other.conversation = id.to_string();
    }

    /// Ends the friendship of two people.
    pub async fn parts(&self, one: &Person, other: &Person) {
        assert!(friends::unfriend(&self.app.store, &one.email, &other.email).await.unwrap());
    }

    /// Disables a person.
    pub async fn disables(&self, person: &Person) {
        assert!(self.app.store.set_disabled(person.user, true).await.unwrap());
    }

    /// Shuts the server down in order and starts another one on the same database, with these settings.
    pub async fn restarts(self, settings: &[(&str, &str)]) -> Self {
        let Self { clock, app, running, keys, folder, .. } = self;
        app.shutdown.begin(Duration::ZERO).await;
        drop(app);
        running.await.unwrap().unwrap();
        Self::on(folder, clock, keys, settings).await
    }
}

/// A user and one of the user's devices.
#[derive(Clone)]
pub struct Person {
    pub email: String,
    pub user: UserId,
    pub station: StationId,
    pub api_key: ApiKey,
    pub password: EncryptionPassword,
    /// ID of the conversation that [`Person::does`] acts on.
    pub conversation: String,
    address: SocketAddr,
    /// Source of this person's timestamps: the test clock, or the system clock for a server process.
    clock: Clock,
    http: reqwest::Client,
}

/// The answer to a request.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn of(response: Response) -> Self {
        Self::received(response).await.unwrap()
    }

    async fn received(response: Response) -> reqwest::Result<Self> {
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Self { status, headers, text: response.text().await? })
    }

    /// Parses the envelope.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Asserts success and returns the envelope.
    #[track_caller]
    pub fn ok(&self) -> Value {
        let json = self.json();
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        assert_eq!(
            (&json["status"], &json["errormessage"]),
            (&json!("OK"), &json!("")),
            "{self:?}"
        );
        json
    }

    /// Asserts a refusal with this status and code, and returns the envelope.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        let json = self.json();
        assert_eq!((self.status.as_u16(), &json["errorcode"]), (status, &json!(code)), "{self:?}");
        assert_eq!(json["status"], "ERROR", "{self:?}");
        assert!(json["errormessage"].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
        json
    }

    /// Returns the conversation of an envelope, whether of a success or of a refusal.
    pub fn conversation(&self) -> Value {
        self.json()["conversation"].clone()
    }

    /// Returns the IDs of the messages of a page.
    #[track_caller]
    pub fn message_ids(&self) -> Vec<String> {
        let page = self.ok();
        let messages = page["messages"].as_array().unwrap().iter();
        messages.map(|message| message["ID"].as_str().unwrap().to_owned()).collect()
    }
}

/// A request before it is sent, so that a test can change any part of it.
#[derive(Clone)]
pub struct Prepared {
    pub url: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    http: reqwest::Client,
}

impl Prepared {
    /// Sets a header.
    pub fn with_header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, HeaderValue::from_str(value).unwrap());
        self
    }

    /// Removes a header.
    pub fn without_header(mut self, name: &str) -> Self {
        self.headers.remove(name);
        self
    }

    /// Returns the address of the server in the URL.
    pub fn address(&self) -> SocketAddr {
        let host =
            self.url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).unwrap().0;
        host.parse().unwrap()
    }

    /// Returns the bytes of the request, for a test's own connection.
    pub fn bytes(&self) -> Vec<u8> {
        let path = self.url.split_once(&self.address().to_string()).unwrap().1;
        let mut head = format!("POST {path} HTTP/1.1\r\nHost: chat\r\n");
        for (name, value) in &self.headers {
            write!(head, "{name}: {}\r\n", value.to_str().unwrap()).unwrap();
        }
        write!(head, "Content-Length: {}\r\n\r\n", self.body.len()).unwrap();
        [head.as_bytes(), &self.body].concat()
    }

    pub async fn sent(&self) -> Answer {
        self.tried().await.unwrap()
    }

    /// Sends the request. Returns an error where there is no answer, such as from a server that is gone.
    pub async fn tried(&self) -> reqwest::Result<Answer> {
        let request = self.http.post(&self.url).headers(self.headers.clone());
        Answer::received(request.body(self.body.clone()).send().await?).await
    }
}

/// Returns a client that closes idle connections before any server does, so that none closes during a request.
fn client() -> reqwest::Client {
    reqwest::Client::builder().pool_idle_timeout(Duration::from_millis(300)).build().unwrap()
}

fn new_station() -> StationId {
    StationId::parse(&Uuid::new_v4().simple().to_string()).unwrap()
}

/// Returns a message with a new ID.
pub fn message(text: &str, date: &str) -> Value {
    message_with_id(&Uuid::new_v4().to_string(), text, date)
}

/// Returns a message with this ID.
pub fn message_with_id(id: &str, text: &str, date: &str) -> Value {
    json!({
        "ID": id, "Type": "Message", "Created": date, "ValidUntil": "", "Data": BASE64.encode(text),
    })
}

impl Person {
    /// Returns a person whom the command line has added, as a client of the server process at this address.
    pub fn added(told: &Value, address: SocketAddr) -> Self {
        let told = |name: &str| told[name].as_str().unwrap();
        Self {
            email: told("email").to_owned(),
            user: Parse::parse(told("userid")).unwrap(),
            station: new_station(),
            api_key: Parse::parse(told("apikey")).unwrap(),
            password: Parse::parse(told("encryptionpassword")).unwrap(),
            conversation: String::new(),
            address,
            clock: Clock::system(),
            http: client(),
        }
    }

    /// Returns the person on another device.
    pub fn elsewhere(&self) -> Self {
        Self { station: new_station(), ..self.clone() }
    }

    /// Returns the person on the device with this ID.
    pub fn at(&self, station: &str) -> Self {
        Self { station: StationId::parse(station).unwrap(), ..self.clone() }
    }

    /// Returns the date of this person's clock.
    pub fn date(&self) -> String {
        self.clock.now().to_string()
    }

    /// Returns the person with another API key.
    pub fn with_key(&self, api_key: ApiKey) -> Self {
        Self { api_key, ..self.clone() }
    }

    /// Returns the person under another user's ID, with the same API key.
    pub fn posing_as(&self, user: UserId) -> Self {
        Self { user, ..self.clone() }
    }

    /// Returns the person as a client of another server.
    pub fn moves_to(&self, world: &World) -> Self {
        Self { address: world.address, clock: world.clock.clock(), ..self.clone() }
    }

    /// Returns an earlier request, addressed to the current server of this person.
    pub fn repeats(&self, earlier: &Prepared) -> Prepared {
        Prepared { url: self.url("chatconversation"), ..earlier.clone() }
    }

    /// Returns the address of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL of an API.
    pub fn url(&self, api: &str) -> String {
        format!("http://{}/?srv=chatserver&api={api}", self.address)
    }

    /// Prepares a signed request with exactly this body.
    pub fn prepares_bytes(&self, api: &str, body: Vec<u8>) -> Prepared {
        self.prepares_bytes_for("chatserver", api, body)
    }

    /// Prepares a signed request with exactly this body for an API of any service.
    pub fn prepares_bytes_for(&self, srv: &str, api: &str, body: Vec<u8>) -> Prepared {
        let signature = SigningKey::new(&self.api_key).sign(&Signed {
            srv,
            api,
            user: self.user,
            station: Some(self.station),
            body: &body,
        });
        let prepared = Prepared {
            url: format!("http://{}/?srv={srv}&api={api}", self.address),
            headers: HeaderMap::new(),
            body,
            http: self.http.clone(),
        };
        prepared
            .with_header("content-type", "application/json")
            .with_header("ozeki-station", self.station.as_str())
            .with_header("ozeki-user", self.user.as_str())
            .with_header("ozeki-signature", signature.as_str())
    }

    /// Prepares a signed request for an action, with a timestamp and a new nonce.
    pub fn prepares(&self, api: &str, action: &str, fields: &Value) -> Prepared {
        self.prepares_for("chatserver", api, action, fields)
    }

    /// Prepares a signed request for an action of an API of any service.
    pub fn prepares_for(&self, srv: &str, api: &str, action: &str, fields: &Value) -> Prepared {
        let mut body = json!({ "action": action });
        let all = body.as_object_mut().unwrap();
        all.extend(fields.as_object().unwrap().clone());
        all.entry("clientversioncode").or_insert(json!(3));
        all.entry("timestamp").or_insert(json!(self.date()));
        all.entry("nonce").or_insert(json!(Uuid::new_v4().to_string()));
        self.prepares_bytes_for(srv, api, body.to_string().into_bytes())
    }

    /// Requests an action of `chatconversation`.
    pub async fn asks(&self, action: &str, fields: Value) -> Answer {
        self.prepares("chatconversation", action, &fields).sent().await
    }

    /// Requests an action on this person's conversation.
    pub async fn does(&self, action: &str, mut fields: Value) -> Answer {
        let all = fields.as_object_mut().unwrap();
        all.entry("conversationid").or_insert(json!(self.conversation));
        self.asks(action, fields).await
    }

    pub async fn logs_in(&self) -> Answer {
        let login = Prepared {
            url: self.url("chatlogin"),
            headers: HeaderMap::new(),
            body: json!({ "action": "login", "apikey": self.api_key.as_str() }).to_string().into(),
            http: self.http.clone(),
        };
        let login = login.with_header("content-type", "application/json");
        login.with_header("ozeki-station", self.station.as_str()).sent().await
    }

    /// Returns the conversations that this person sees.
    pub async fn lists(&self) -> Vec<Value> {
        let listed = self.asks("list", json!({})).await.ok();
        listed["conversations"].as_array().unwrap().clone()
    }

    /// Returns this person's conversation, as the person sees it.
    pub async fn sees(&self) -> Value {
        let listed = self.lists().await;
        let mine = listed.into_iter().find(|one| one["id"] == self.conversation);
        mine.expect("the conversation is listed")
    }

    pub async fn instance(&self) -> String {
        self.sees().await["instance"].as_str().unwrap().to_owned()
    }

    /// Sends a message and returns its ID.
    pub async fn sends(&self, text: &str) -> String {
        let message = message(text, &self.date());
        self.adds(&message).await.ok();
        message["ID"].as_str().unwrap().to_owned()
    }

    /// Adds exactly this message to the current instance.
    pub async fn adds(&self, message: &Value) -> Answer {
        let instance = self.instance().await;
        self.does("add", json!({ "instance": instance, "message": message })).await
    }

    /// Clears the current instance.
    pub async fn clears(&self) -> Answer {
        let instance = self.instance().await;
        self.does("clear", json!({ "instance": instance })).await
    }

    /// Downloads all messages, but no reports, because those are made in the background.
    pub async fn downloads(&self) -> Answer {
        self.does("download", json!({ "firstreportdate": "9999-01-01 00:00:00" })).await
    }

    /// Returns the texts of all messages, oldest first.
    pub async fn reads(&self) -> Vec<String> {
        let page = self.downloads().await.ok();
        let text = |message: &Value| {
            let data = BASE64.decode(message["Data"].as_str().unwrap()).unwrap();
            String::from_utf8(data).unwrap()
        };
        page["messages"].as_array().unwrap().iter().map(text).collect()
    }
}
