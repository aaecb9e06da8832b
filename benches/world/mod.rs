//! A server with a database of its own, as a process, and the people who use it.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chatserver::clock::Timestamp;
use chatserver::friends;
use chatserver::id::{ConversationId, Email, Parse as _};
use chatserver::keys::{ConversationSecret, EncryptionPassword, KeyPair, KeySource};
use chatserver::store::{Schema, Store};
use chatserver::users::{self, FullName, NewUser, Nick};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A folder with the database of a server that is yet to be started.
pub struct World {
    folder: TempDir,
    url: String,
}

impl World {
    pub fn new() -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let url = format!("sqlite://{}", folder.path().join("chat.db").display());
        Ok(Self { folder, url })
    }

    /// Adds pairs of friends and says of each what it makes of them. One RSA pair serves all: making one takes a
    /// tenth of a second, and it plays no part in what is measured.
    pub async fn people<T>(
        &self,
        pairs: usize,
        mut of_pair: impl AsyncFnMut(&Store, [NewUser; 2], ConversationId) -> Result<T, Failed>,
    ) -> Result<Vec<T>, Failed> {
        let tasks = TaskTracker::new();
        let store = Store::open(&self.url, Schema::Migrate, &tasks).await?;
        let pair = KeyPair::generate();
        let keys = KeySource::from_fn(move || pair.clone());
        let mut people = Vec::new();
        for n in 0..pairs {
            let one = add(&store, &keys, &format!("one{n}@example.com")).await?;
            let other = add(&store, &keys, &format!("other{n}@example.com")).await?;
            let secret = ConversationSecret::generate();
            let (name, other_name) = (one.email.as_str(), other.email.as_str());
            let conversation = friends::befriend(&store, name, other_name, &secret).await?;
            people.push(of_pair(&store, [one, other], conversation).await?);
        }
        store.close().await;
        tasks.close();
        tasks.wait().await;
        Ok(people)
    }

    /// Starts the server, with these settings in its environment.
    pub async fn serve(&self, settings: &[(&str, &str)]) -> Result<Server, Failed> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new(env!("CARGO_BIN_EXE_chatserver"))
            .args(["serve", "--listen", &address.to_string(), "--database-url", &self.url])
            .env("CHATSERVER_HTTP__METRICS_LISTEN", "")
            .env("CHATSERVER_LIMITS__REQUESTS_PER_SECOND", "0")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(self.path().join("log.txt"))?)
            .spawn()?;
        let server = Server { child, address };
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(server)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

async fn add(store: &Store, keys: &KeySource, email: &str) -> Result<NewUser, Failed> {
    let email = Email::parse(email).ok_or("no address")?;
    let nick = Nick::parse("Somebody").ok_or("no nick")?;
    let password = EncryptionPassword::generate();
    Ok(users::add(store, keys, email, nick, FullName::default(), password).await?)
}

/// A server that runs until this is dropped.
pub struct Server {
    pub child: Child,
    pub address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[expect(clippy::disallowed_methods, reason = "a client reads the machine's clock")]
pub fn now() -> Result<Timestamp, Failed> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    Timestamp::from_unix(i64::try_from(seconds)?).ok_or_else(|| "no date".into())
}
