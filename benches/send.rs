//! Durable sends a second over HTTP: `cargo bench --bench send`.
//!
//! Starts the real server on a fresh database and lets 64 people, each with a connection and a
//! conversation of their own, send one signed message after another for ten seconds. Every answer must
//! be OK, which means that the message is on disk. It prints the rate and the latencies.

mod world;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use chatserver::id::{ApiKey, ConversationId, Parse as _, StationId, UserId};
use chatserver::signature::{Signed, SigningKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

use world::{Failed, World, now};

const CONNECTIONS: usize = 64;
const TIME: Duration = Duration::from_secs(10);

/// 300 bytes of base64, as a short encrypted message has.
const DATA: &str = "QUJD";

#[derive(Clone)]
struct Sender {
    user: UserId,
    key: ApiKey,
    conversation: ConversationId,
    instance: String,
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let world = World::new()?;
    let senders = world.people(CONNECTIONS, async |store, [sender, _], conversation| {
        let shown = store.conversation(conversation, sender.id).await?.ok_or("no conversation")?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        let instance = shown["instance"].as_str().ok_or("no instance")?.to_owned();
        Ok(Sender { user: sender.id, key: sender.api_key, conversation, instance })
    });
    let senders = senders.await?;
    let server = world.serve(&[]).await?;
    let mut latencies = measure(server.address, senders).await?;
    latencies.sort_unstable();
    let at = |share: usize| latencies[(latencies.len() * share / 1000).min(latencies.len() - 1)];
    let rate = u64::try_from(latencies.len())? / TIME.as_secs();
    println!("{rate} durable sends/s, {CONNECTIONS} connections, {} s", TIME.as_secs());
    println!("p50 {:?}, p95 {:?}, p99 {:?}, max {:?}", at(500), at(950), at(990), at(1000));
    Ok(())
}

async fn measure(address: SocketAddr, senders: Vec<Sender>) -> Result<Vec<Duration>, Failed> {
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
