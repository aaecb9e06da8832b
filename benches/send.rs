//! Durable sends a second over HTTP: `cargo bench --bench send`.
//!
//! Starts the real server on a fresh database and lets 64 people, each with a connection and a
//! conversation of their own, send one signed message after another for ten seconds. Every answer must
//! be OK, which means that the message is on disk. It prints the rate and the latencies.

use std::fmt::Write as _;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chatserver::clock::Timestamp;
use chatserver::friends;
use chatserver::id::{ApiKey, ConversationId, Parse as _, StationId, UserId};
use chatserver::keys::{ConversationSecret, EncryptionPassword, KeyPair, KeySource};
use chatserver::signature::{Signed, SigningKey};
use chatserver::store::{Schema, Store};
use chatserver::users::{self, FullName, Nick};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

const CONNECTIONS: usize = 64;
const TIME: Duration = Duration::from_secs(10);

/// 300 bytes of base64, as a short encrypted message has.
const DATA: &str = "QUJD";

type Failed = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
struct Sender {
    user: UserId,
    key: ApiKey,
    conversation: ConversationId,
    instance: String,
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite://{}", folder.path().join("chat.db").display());
    let senders = people(&url).await?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut server = serve(&url, address, folder.path())?;
    let measured = measure(address, senders).await;
    server.kill()?;
    server.wait()?;
    let mut latencies = measured?;
    latencies.sort_unstable();
    let at = |share: usize| latencies[(latencies.len() * share / 1000).min(latencies.len() - 1)];
    let rate = u64::try_from(latencies.len())? / TIME.as_secs();
    println!("{rate} durable sends/s, {CONNECTIONS} connections, {} s", TIME.as_secs());
    println!("p50 {:?}, p95 {:?}, p99 {:?}, max {:?}", at(500), at(950), at(990), at(1000));
    Ok(())
}

/// Pairs of friends, one of each pair a sender. One RSA pair serves all: it plays no part in sending.
async fn people(url: &str) -> Result<Vec<Sender>, Failed> {
    let tasks = TaskTracker::new();
    let store = Store::open(url, Schema::Migrate, &tasks).await?;
    let pair = KeyPair::generate();
    let keys = KeySource::from_fn(move || pair.clone());
    let mut senders = Vec::new();
    for n in 0..CONNECTIONS {
        let sender = add(&store, &keys, &format!("sender{n}@example.com")).await?;
        let reader = add(&store, &keys, &format!("reader{n}@example.com")).await?;
        let secret = ConversationSecret::generate();
        let (sender_name, reader_name) = (sender.email.as_str(), reader.email.as_str());
        let conversation = friends::befriend(&store, sender_name, reader_name, &secret).await?;
        let shown = store.conversation(conversation, sender.id).await?.ok_or("no conversation")?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        let instance = shown["instance"].as_str().ok_or("no instance")?.to_owned();
        senders.push(Sender { user: sender.id, key: sender.api_key, conversation, instance });
    }
    store.close().await;
    tasks.close();
    tasks.wait().await;
    Ok(senders)
}

async fn add(store: &Store, keys: &KeySource, email: &str) -> Result<users::NewUser, Failed> {
    let email = chatserver::id::Email::parse(email).ok_or("no address")?;
    let nick = Nick::parse("Somebody").ok_or("no nick")?;
    let password = EncryptionPassword::generate();
    Ok(users::add(store, keys, email, nick, FullName::default(), password).await?)
}

fn serve(url: &str, address: SocketAddr, folder: &Path) -> io::Result<Child> {
    Command::new(env!("CARGO_BIN_EXE_chatserver"))
        .args(["serve", "--listen", &address.to_string(), "--database-url", url])
        .env("CHATSERVER_HTTP__METRICS_LISTEN", "")
        .env("CHATSERVER_LIMITS__REQUESTS_PER_SECOND", "0")
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(folder.join("log.txt"))?)
        .spawn()
}

async fn measure(address: SocketAddr, senders: Vec<Sender>) -> Result<Vec<Duration>, Failed> {
    while TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let end = Instant::now() + TIME;
    let sending: Vec<_> =
        senders.into_iter().map(|sender| tokio::spawn(send_until(end, address, sender))).collect();
    let mut latencies = Vec::new();
    for sent in sending {
        latencies.extend(sent.await??);
    }
    Ok(latencies)
}

async fn send_until(
    end: Instant,
    address: SocketAddr,
    sender: Sender,
) -> Result<Vec<Duration>, Failed> {
    let station = StationId::parse(&Uuid::new_v4().simple().to_string()).ok_or("no station")?;
    let key = SigningKey::new(&sender.key);
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let request = request(&sender, station, &key)?;
        let sent = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        let answer = read_answer(&mut stream).await?;
        latencies.push(sent.elapsed());
        if !answer.contains(r#"{"status":"OK""#) {
            return Err(answer.into());
        }
    }
    Ok(latencies)
}

fn request(sender: &Sender, station: StationId, key: &SigningKey) -> Result<String, Failed> {
    let now = now()?;
    let message = format!(
        r#"{{"ID":"{}","Type":"Message","Created":"{now}","ValidUntil":"","Data":"{}"}}"#,
        Uuid::new_v4(),
        DATA.repeat(75)
    );
    let body = format!(
        r#"{{"action":"add","conversationid":"{}","instance":"{}","message":{message},"clientversioncode":3,"timestamp":"{now}"}}"#,
        sender.conversation, sender.instance
    );
    let signature = key.sign(&Signed {
        srv: "chatserver",
        api: "chatconversation",
        user: sender.user,
        station: Some(station),
        body: body.as_bytes(),
    });
    let mut request = String::from("POST /?srv=chatserver&api=chatconversation HTTP/1.1\r\n");
    for (name, value) in [
        ("Host", "localhost"),
        ("Content-Type", "application/json"),
        ("Ozeki-Station", station.as_str()),
        ("Ozeki-User", sender.user.as_str()),
        ("Ozeki-Signature", signature.as_str()),
    ] {
        write!(request, "{name}: {value}\r\n")?;
    }
    write!(request, "Content-Length: {}\r\n\r\n{body}", body.len())?;
    Ok(request)
}

#[expect(clippy::disallowed_methods, reason = "a client reads the machine's clock")]
fn now() -> Result<Timestamp, Failed> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    Timestamp::from_unix(i64::try_from(seconds)?).ok_or_else(|| "no date".into())
}

/// Reads one answer, which has a length, and returns its head and body.
async fn read_answer(stream: &mut TcpStream) -> Result<String, Failed> {
    let mut answer = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err("the server closed the connection".into());
        }
        let text = std::str::from_utf8(&answer)?;
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.ok_or("no length")?.parse()? {
                return Ok(text.to_owned());
            }
        }
    }
}
