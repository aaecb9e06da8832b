//! Memory of idle listeners: `cargo bench --bench listeners`.
//!
//! Starts the real server on a fresh database and opens 5,000 listeners, of 625 people with eight stations each.
//! Each is told everything, as a new station is, and acknowledges it. It prints the memory of the server before and
//! after, and what one listener takes. Another number of listeners may be set: `LISTENERS=1000`.

mod world;

use std::time::Duration;

use chatserver::id::{ApiKey, ConversationId, Parse as _, StationId, UserId};
use chatserver::signature::{Signed, SigningKey};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, client_async};
use uuid::Uuid;

use world::{Failed, Server, World, now};

const LISTENERS: usize = 5_000;
const STATIONS: usize = 8;

/// How many listeners are opened at the same time.
const AT_ONCE: usize = 32;

/// Files that this process and the server need besides.
const OTHER_FILES: usize = 200;

type Socket = WebSocketStream<TcpStream>;

#[derive(Clone)]
struct Listener {
    user: UserId,
    key: ApiKey,
    conversation: ConversationId,
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let listeners = match std::env::var("LISTENERS") {
        Ok(listeners) => listeners.parse()?,
        Err(_) => LISTENERS,
    };
    let files = u64::try_from(listeners + OTHER_FILES)?;
    if rlimit::increase_nofile_limit(files)? < files {
        return Err(
            format!("{listeners} listeners need {files} open files: ulimit -n {files}").into()
        );
    }
    let world = World::new()?;
    let pairs = listeners.div_ceil(2 * STATIONS);
    let people = world.people(pairs, async |_, pair, conversation| {
        Ok(pair.map(|user| Listener { user: user.id, key: user.api_key, conversation }))
    });
    let people = people.await?.into_flattened();
    let most = (listeners + OTHER_FILES).to_string();
    let server = world.serve(&[("CHATSERVER_HTTP__LISTENERS", &most)]).await?;

    // What the server takes once, whatever the number of listeners, is no part of what one listener takes.
    drop(open(&server, &people, AT_ONCE).await?);
    let before = settled_memory(&server).await?;
    let open = open(&server, &people, listeners).await?;
    let after = settled_memory(&server).await?;
    println!("{} listeners: {before} bytes before, {after} bytes after", open.len());
    println!("{} bytes for each", after.saturating_sub(before) / open.len());
    Ok(())
}

/// Opens so many listeners, each at a station of its own, and lets them take what there is to tell.
async fn open(server: &Server, people: &[Listener], count: usize) -> Result<Vec<Socket>, Failed> {
    let mut opening = JoinSet::new();
    let mut open = Vec::new();
    for listener in people.iter().cycle().take(count) {
        if opening.len() == AT_ONCE {
            open.extend(opening.join_next().await.transpose()?.transpose()?);
        }
        opening.spawn(listener.clone().listens(server.address));
    }
    while let Some(opened) = opening.join_next().await {
        open.push(opened??);
    }
    Ok(open)
}

impl Listener {
    async fn listens(self, address: std::net::SocketAddr) -> Result<Socket, Failed> {
        let stream = TcpStream::connect(address).await?;
        let request = format!("ws://{address}/ws").into_client_request()?;
        let (mut socket, _) = client_async(request, stream).await?;
        let station = StationId::parse(&Uuid::new_v4().simple().to_string()).ok_or("no station")?;
        let timestamp = now()?.to_string();
        let signature = SigningKey::new(&self.key).sign(&Signed {
            srv: "chatserver",
            api: "chatlistener",
            user: self.user,
            station: Some(station),
            body: timestamp.as_bytes(),
        });
        let subscription = json!({
            "action": "subscribe", "userid": self.user.as_str(), "stationid": station.as_str(),
            "timestamp": timestamp, "signature": signature.as_str(),
        });
        socket.send(Message::text(subscription.to_string())).await?;
        let answer = hears(&mut socket).await?;
        if answer["status"] != "OK" {
            return Err(answer.to_string().into());
        }
        let told = hears(&mut socket).await?;
        if told["conversationchangedof"] != json!([self.conversation.as_str()]) {
            return Err(told.to_string().into());
        }
        let ack = json!({ "action": "ack", "sequence": told["sequence"] });
        socket.send(Message::text(ack.to_string())).await?;
        // The answer to a ping says that what came before is done.
        socket.send(Message::Ping("done?".into())).await?;
        while !matches!(socket.next().await.transpose()?, None | Some(Message::Pong(_))) {}
        Ok(socket)
    }
}

async fn hears(socket: &mut Socket) -> Result<Value, Failed> {
    let frame = socket.next().await.ok_or("the server closed the connection")??;
    Ok(serde_json::from_str(frame.to_text()?)?)
}

/// The memory of the server, in bytes, once it no longer changes.
async fn settled_memory(server: &Server) -> Result<usize, Failed> {
    let mut memory = 0;
    loop {
        sleep(Duration::from_secs(2)).await;
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id()))?;
        let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = kibibytes.ok_or("no VmRSS")?.trim_end_matches("kB").trim();
        let now = kibibytes.parse::<usize>()? * 1024;
        if now == memory {
            return Ok(memory);
        }
        memory = now;
    }
}
