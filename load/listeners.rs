//! Measures listening WebSockets, most of them idle, while messages are sent: the latency of a push from send to frame,
//! and the memory that a listener takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chatserver::clock::Clock;
use chatserver::domain::{ConversationId, Parse as _};
use clap::Args;
use futures_util::{SinkExt as _, StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::BoxError;
use super::drive::{Load, drive, raise_open_files};
use super::figures::Figures;
use super::population::{Person, Population, Shape};
use super::pushes::PendingPushes;
use super::report::{HEADER, line, print_memory_and_errors};
use super::requests::{RequestGenerator, RequestKind};
use super::server::{ServerArgs, Target};

/// Listeners that are opened concurrently.
const AT_ONCE: usize = 64;

/// Maximum wait for an expected frame.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of Data of a message.
const SENT: usize = 300;

#[derive(Args)]
pub struct Run {
    /// Listening WebSockets, each of a different user
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    listeners: u32,
    /// Messages a second, spread evenly over their conversations
    #[arg(long, value_name = "M", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Connections that send the messages
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: u32,
    /// Seconds to measure
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    #[command(flatten)]
    server: ServerArgs,
    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// Results of a run.
struct Results {
    sends: Figures,
    pushes: Figures,
    /// Memory of an idle listener, or `None` if the process is unknown.
    listener_bytes: Option<u64>,
}

impl Run {
    pub async fn run(self) -> Result<bool, BoxError> {
        let count = usize::try_from(self.listeners)?;
        raise_open_files(count + usize::try_from(self.connections)?)?;
        let testbed = self.server.testbed()?;
        let database = testbed.database().await?;
        let population = database.add(Shape::Pairs((count + AT_ONCE).div_ceil(2))).await?;
        database.close().await;
        // Extra users subscribe first, so that memory that the server takes only once is not counted.
        let most = (count + AT_ONCE).to_string();
        let server = testbed.serve(&[("CHATSERVER_HTTP__LISTENERS", most)]).await?;
        let measured = self.measure(&server.target, &Arc::new(population)).await;
        server.stop().await?;
        let measured = measured?;
        self.print(&measured);
        Ok(measured.sends.are_ok() && measured.pushes.are_ok())
    }

    async fn measure(
        &self,
        target: &Target,
        population: &Arc<Population>,
    ) -> Result<Results, BoxError> {
        let count = usize::try_from(self.listeners)?;
        let (people, others) = population.people.split_at(count);
        drop(open(target, others).await?);
        let before = settled_memory(target).await?;
        let sockets = open(target, people).await?;
        let after = settled_memory(target).await?;
        let grown = after.zip(before).map(|(after, before)| after.saturating_sub(before));
        let listener_bytes = grown.map(|grown| grown / u64::from(self.listeners));
        let (sends, pushes) = self.send(target, population, sockets).await?;
        Ok(Results { sends, pushes, listener_bytes })
    }

    /// Sends messages while these listeners are open. Returns the figures of the sends and of the pushes.
    async fn send(
        &self,
        target: &Target,
        population: &Arc<Population>,
        sockets: Vec<Socket>,
    ) -> Result<(Figures, Figures), BoxError> {
        let pending = Arc::new(PendingPushes::default());
        let stop = CancellationToken::new();
        let mut listening = JoinSet::new();
        for socket in sockets {
            listening.spawn(listen(socket, Arc::clone(&pending), stop.clone()));
        }
        let load = Load {
            connections: self.connections,
            seconds: self.seconds,
            warm_up: WARM_UP,
            rate: Some(self.rate),
        };
        let sends = drive(target, &load, self.senders(target, population, &pending)).await?;
        let waiting = async {
            while !pending.is_empty() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let all_pushed = timeout(PATIENCE, waiting).await.is_ok();
        stop.cancel();
        let mut pushes = Figures::new(Duration::from_secs(self.seconds.into()));
        while let Some(figures) = listening.join_next().await {
            pushes.add(&figures??);
        }
        if !all_pushed {
            pushes.count_error("never_pushed");
        }
        Ok((sends, pushes))
    }

    /// Makes the senders. Each sends in conversations of its own, whose recipients listen.
    fn senders(
        &self,
        target: &Target,
        population: &Arc<Population>,
        pending: &Arc<PendingPushes>,
    ) -> Vec<RequestGenerator> {
        const SEND: &[RequestKind] = &[RequestKind::Send { bytes: SENT }];
        let target = Arc::new(target.clone());
        let [connections, listeners] =
            [self.connections, self.listeners].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let talks = 0..listeners / 2;
        let senders = RequestGenerator::spread(population, &target, talks, connections, SEND);
        senders.into_iter().map(|sender| sender.recording(pending)).collect()
    }

    fn print(&self, measured: &Results) {
        let Results { sends, pushes, listener_bytes } = measured;
        if self.json {
            let shown = json!({
                "scenario": "listeners",
                "limit": self.server.rate_limit_note(),
                "listeners": self.listeners,
                "rate": self.rate,
                "seconds": self.seconds,
                "listener_bytes": listener_bytes,
                "sends": sends.summary(),
                "pushes": pushes.summary(),
            });
            println!("{shown}");
            return;
        }
        let Self { listeners, rate, connections, seconds, .. } = self;
        println!(
            "listeners: {listeners}, and {rate} messages/s over {connections} connections, {seconds} s"
        );
        println!("{}\n", self.server.rate_limit_note());
        println!("{HEADER}");
        println!("{}", line("send", sends));
        println!("{}", line("push", pushes));
        match listener_bytes {
            Some(bytes) => println!("\nmemory of an idle listener: {bytes} bytes"),
            None => println!("\nmemory of an idle listener: unknown, name the process with --pid"),
        }
        print_memory_and_errors(&sends.summary());
        print_memory_and_errors(&pushes.summary());
    }
}

/// Seconds of sending before the measurement.
const WARM_UP: u32 = 2;

type Socket = WebSocketStream<TcpStream>;

/// Opens a listener for each of these users and acknowledges its first event.
async fn open(target: &Target, people: &[Person]) -> Result<Vec<Socket>, BoxError> {
    let opening = stream::iter(people).map(|person| subscribe(target, person));
    opening.buffer_unordered(AT_ONCE).try_collect().await
}

async fn subscribe(target: &Target, person: &Person) -> Result<Socket, BoxError> {
    let stream = TcpStream::connect(target.address).await?;
    let request = format!("ws://{}/ws", target.host).into_client_request()?;
    let (mut socket, _) = client_async(request, stream).await?;
    let timestamp = Clock::system().now().to_string();
    let nonce = Uuid::new_v4().simple().to_string();
    let subscription = person.credentials.subscription(&timestamp, Some(&nonce));
    socket.send(Message::text(subscription)).await?;
    let answer = next_text(&mut socket).await?;
    if !answer.starts_with(r#"{"status":"OK""#) {
        return Err(answer.into());
    }
    let event: Event = serde_json::from_str(&next_text(&mut socket).await?)?;
    acknowledge(&mut socket, event.sequence).await?;
    // A pong shows that the server has handled everything sent before the ping.
    socket.send(Message::Ping("done?".into())).await?;
    while !matches!(next_frame(&mut socket).await?, Message::Pong(_)) {}
    Ok(socket)
}

async fn next_frame(socket: &mut Socket) -> Result<Message, BoxError> {
    let frame = timeout(PATIENCE, socket.next()).await?;
    Ok(frame.ok_or("the server closed a listener")??)
}

/// Returns the next text frame. Skips other frames, such as the server's pings.
async fn next_text(socket: &mut Socket) -> Result<String, BoxError> {
    loop {
        if let Message::Text(text) = next_frame(socket).await? {
            return Ok(text.as_str().to_owned());
        }
    }
}

async fn acknowledge(socket: &mut Socket, sequence: i64) -> Result<(), BoxError> {
    let ack = json!({ "action": "ack", "sequence": sequence }).to_string();
    Ok(socket.send(Message::text(ack)).await?)
}

/// The fields of an event that this program reads.
#[derive(Deserialize)]
struct Event {
    sequence: i64,
    conversationchangedof: Vec<String>,
}

/// Acknowledges events until `stop` is cancelled. Returns the latencies of the measured messages.
async fn listen(
    mut socket: Socket,
    pending: Arc<PendingPushes>,
    stop: CancellationToken,
) -> Result<Figures, BoxError> {
    let mut pushes = Figures::new(Duration::ZERO);
    while let Some(frame) = stop.run_until_cancelled(socket.next()).await {
        let Message::Text(text) = frame.ok_or("the server closed a listener")?? else { continue };
        let event: Event = serde_json::from_str(&text)?;
        for conversation in &event.conversationchangedof {
            let conversation = ConversationId::parse(conversation).ok_or("no conversation id")?;
            for sent in pending.take(conversation).iter().filter(|sent| sent.is_measured) {
                pushes.count_ok(sent.at.elapsed(), text.len());
            }
        }
        acknowledge(&mut socket, event.sequence).await?;
    }
    Ok(pushes)
}

/// Returns the server's memory in bytes once it changes by less than 64 KiB in 2 s, or after [`PATIENCE`]. Returns
/// `None` if the process is unknown.
async fn settled_memory(target: &Target) -> Result<Option<u64>, BoxError> {
    const LITTLE: u64 = 64 * 1024;
    let (since, mut memory) = (Instant::now(), 0);
    loop {
        sleep(Duration::from_secs(2)).await;
        let Some(usage) = target.usage()? else { return Ok(None) };
        if usage.rss.abs_diff(memory) < LITTLE || since.elapsed() > PATIENCE {
            return Ok(Some(usage.rss));
        }
        memory = usage.rss;
    }
}
