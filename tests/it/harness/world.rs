//! A server in this process, with its own database and a clock that the test sets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chatserver::admin_links;
use chatserver::app::App;
use chatserver::clock::{Clock, Reading};
use chatserver::config::Config;
use chatserver::domain::{FullName, Nick, Parse, Timestamp, UserId};
use chatserver::friends;
use chatserver::keys::{ConversationSecret, EncryptionPassword, KeyPair, KeySource};
use chatserver::server::{self, Server};
use chatserver::users;
use tokio::task::JoinHandle;

use super::database::Database;
use super::home::Home;
use super::person::Person;
use super::postgres::PostgresDatabase;
use super::process::get;

/// Time after which a test gives up waiting.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Interval between two checks of a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// RSA key pairs that were generated once, because generating one takes a tenth of a second.
static KEY_PAIRS: LazyLock<Vec<KeyPair>> = LazyLock::new(|| {
    let keys = include_str!("../keys.txt").lines();
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
    pub fn clock(&self) -> Clock {
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
    /// Address of the admin page, if a setting turns that on.
    admin: Option<SocketAddr>,
    app: Arc<App>,
    running: JoinHandle<Result<(), server::Error>>,
    keys: KeySource,
    home: Home,
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
        Self::on(Home::new("chat.db"), clock, ready_made_keys(), settings).await
    }

    /// Starts a server with the admin page.
    pub async fn with_admin_page() -> Self {
        Self::with(&[("admin.listen", "127.0.0.1:0")]).await
    }

    /// Starts another server on the same database and with the same clock: a further node. Returns `None` where the
    /// database is a file, which has one server.
    pub async fn beside(&self, settings: &[(&str, &str)]) -> Option<Self> {
        let home = Home::on(Arc::clone(self.home.server()?));
        Some(Self::on(home, self.clock.clone(), ready_made_keys(), settings).await)
    }

    /// Starts a server on a database of PostgreSQL's.
    pub async fn on_postgres(database: PostgresDatabase, settings: &[(&str, &str)]) -> Self {
        let clock = TestClock::default();
        clock.shows("2024-03-08 12:00:00");
        Self::on(Home::on(Arc::new(database)), clock, ready_made_keys(), settings).await
    }

    async fn on(home: Home, clock: TestClock, keys: KeySource, settings: &[(&str, &str)]) -> Self {
        let (url, key_file) = (home.url(), home.key_file());
        let mut all = vec![
            ("http.listen", "127.0.0.1:0"),
            ("database.url", url.as_str()),
            ("auth.key_file", key_file.as_str()),
            ("limits.requests_per_second", "0"),
            ("limits.connections_per_address", "0"),
        ];
        all.extend_from_slice(settings);
        let config = Config::load(None, [], &all).unwrap();
        let server = Server::bind(config, clock.clock()).await.unwrap();
        let address = server.address().ip().unwrap();
        let admin = server.admin_address().map(|admin| admin.ip().unwrap());
        let app = Arc::clone(server.app());
        let running = tokio::spawn(server.run());
        Self { clock, address, admin, app, running, keys, home }
    }

    /// Returns the address of the admin page.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.expect("the admin page is on")
    }

    /// Makes a link to the admin page, as the operator Dora, and returns its token.
    pub async fn admin_token(&self) -> String {
        let link = admin_links::make(&self.app.store, "dora", self.clock.now()).await.unwrap();
        link.token.as_str().to_owned()
    }

    /// Returns the path of the database file.
    pub fn database(&self) -> PathBuf {
        self.home.file()
    }

    /// Opens the database as another process does.
    pub async fn opens_database(&self) -> Database {
        self.home.opens().await
    }

    /// Requests a path with GET and returns the status and the body.
    pub async fn gets(&self, path: &str) -> (u16, String) {
        get(self.address, path).await.expect("an answer")
    }

    /// Returns the number in the only row of a query of the database.
    pub async fn number(&self, query: &str) -> i64 {
        self.opens_database().await.number(query).await
    }

    pub fn app(&self) -> &App {
        &self.app
    }

    /// Adds a user whose email address begins with the nick in lower case.
    pub async fn person(&self, nick: &str) -> Person {
        self.person_at(&format!("{}@example.com", nick.to_lowercase()), nick).await
    }

    pub async fn person_at(&self, email: &str, nick: &str) -> Person {
        let user = users::add(
            &self.app.store,
            &self.keys,
            Parse::parse(email).unwrap(),
            Nick::parse(nick).unwrap(),
            FullName::parse(&format!("Ozeki {nick}")).unwrap(),
            EncryptionPassword::generate(),
        );
        let mut person = Person::new(user.await.unwrap(), self.address, self.clock.clock());
        email.clone_into(&mut person.email);
        person
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

    /// Adds a user who becomes a friend of this person. Returns the person in their conversation, and the friend.
    pub async fn another_friend(&self, person: &Person, nick: &str) -> (Person, Person) {
        let (mut person, mut friend) = (person.clone(), self.person(nick).await);
        self.befriends(&mut person, &mut friend).await;
        (person, friend)
    }

    /// Ends the friendship of two people.
    pub async fn parts(&self, one: &Person, other: &Person) {
        assert!(friends::unfriend(&self.app.store, &one.email, &other.email).await.unwrap());
    }

    /// Disables a person.
    pub async fn disables(&self, person: &Person) {
        assert!(self.app.store.set_disabled(person.user, true).await.unwrap());
    }

    /// Enables a person again.
    pub async fn enables(&self, person: &Person) {
        assert!(self.app.store.set_disabled(person.user, false).await.unwrap());
    }

    /// Deletes a person. Returns the id that stands for the person from then on.
    pub async fn deletes(&self, person: &Person) -> UserId {
        users::delete(&self.app.store, person.user).await.unwrap()
    }

    /// Waits until each background job of the server has run by the present clock.
    pub async fn has_done_its_jobs(&self) {
        let mut database = self.opens_database().await;
        // The jobs run one after the other, so all have run once two rounds have removed a cleared conversation's row.
        for generation in [2_000_000_000_i64, 2_000_000_001] {
            let purge = format!("INSERT INTO purges (generation) VALUES ({generation})");
            database.runs(&purge).await;
            until("a round of the jobs is over", async || {
                self.number("SELECT count(*) FROM purges").await == 0
            })
            .await;
        }
        database.closes().await;
    }

    /// Returns the database on PostgreSQL.
    pub fn server(&self) -> &Arc<PostgresDatabase> {
        self.home.server().unwrap()
    }

    /// Shuts the server down in order and starts another one on the same database, with these settings.
    pub async fn restarts(self, settings: &[(&str, &str)]) -> Self {
        let (clock, keys) = (self.clock.clone(), self.keys.clone());
        Self::on(self.ends().await, clock, keys, settings).await
    }

    /// Shuts the server down in order. Returns the place of its data.
    pub async fn ends(self) -> Home {
        let Self { app, running, home, .. } = self;
        app.shutdown.begin(Duration::ZERO).await;
        drop(app);
        running.await.unwrap().unwrap();
        home
    }
}
