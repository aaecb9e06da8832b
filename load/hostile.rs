//! Hostile clients. They use loopback addresses of their own, so that limits per address hit them and not the
//! bystander.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::BoxError;
use super::client::Client;
use super::population::Population;
use super::requests::{LoadClient, RequestGenerator, RequestKind, signed_request};
use super::server::Target;

/// A kind of attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// 300 bodies of 16 KiB, one byte per TCP segment.
    TinyPieces,
    /// Chunked bodies on 20 connections, one byte per chunk.
    TinyChunks,
    /// 256 announced bodies of 1 MiB, of which only the first byte is sent.
    Announced,
    /// Signed bodies of 988,891 bytes with 100,000 keys, on 64 connections.
    ManyKeys,
    /// Pages of 8 MiB for 64 users, which are never read.
    Unread,
    /// Pages of 8 MiB for 64 users, one after the other on each connection.
    LargePages,
    /// Pages of 8 MiB for one user, on 16 connections.
    OneUser,
    /// Pages of 8 MiB for 64 users, which disconnect while the page is made.
    GivenUp,
    /// 1,000 heads of 15,000 bytes that never end.
    LongHeads,
    /// 1,000 half-sent heads and 1,000 WebSocket upgrades that never subscribe, all anew every 5 s.
    HalfSent,
}

impl Attack {
    pub const ALL: [Self; 10] = [
        Self::TinyPieces,
        Self::TinyChunks,
        Self::Announced,
        Self::ManyKeys,
        Self::Unread,
        Self::LargePages,
        Self::OneUser,
        Self::GivenUp,
        Self::LongHeads,
        Self::HalfSent,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::TinyPieces => "tiny pieces",
            Self::TinyChunks => "tiny chunks",
            Self::Announced => "announced bodies",
            Self::ManyKeys => "many keys",
            Self::Unread => "unread pages",
            Self::LargePages => "large pages",
            Self::OneUser => "one user's pages",
            Self::GivenUp => "given-up pages",
            Self::LongHeads => "long heads",
            Self::HalfSent => "half-sent heads",
        }
    }

    /// Whether the attack is void unless it makes the server work, see [`Attackers::hits`]. This leaves out `OneUser`: a
    /// page counts as 64 requests, so the rate limit may refuse one user all of them.
    pub fn needs_hits(self) -> bool {
        matches!(self, Self::ManyKeys | Self::Unread | Self::LargePages)
    }
}

/// Keys of an object that fills most of `limits.body_bytes`, 1 MiB.
const KEYS: u32 = 100_000;

/// Part of the refusal of an object with too many keys. The server sends it only after it has parsed the whole body.
const TOO_MANY_KEYS: &str = "at most 64 keys";

/// Pause of a client before it starts again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Pause of a client after a refused page. A user may make 50 requests a second, and a page counts as 64, so a shorter
/// pause would use up the rate.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Time that a client waits for a page before it disconnects.
const GIVES_UP_AFTER: Duration = Duration::from_millis(30);

/// Clients that attack a server until `stop` is cancelled.
#[derive(Clone)]
pub struct Attackers {
    target: Arc<Target>,
    population: Arc<Population>,
    stop: CancellationToken,
    hits: Arc<AtomicU64>,
}

impl Attackers {
    pub fn new(
        target: &Arc<Target>,
        population: &Arc<Population>,
        stop: CancellationToken,
    ) -> Self {
        let (target, population) = (Arc::clone(target), Arc::clone(population));
        Self { target, population, stop, hits: Arc::default() }
    }

    /// Returns the counter of answers that show the work which the attack aims at: pages that the server has begun to
    /// send, and objects with many keys that it has parsed.
    pub fn hits(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.hits)
    }

    /// Attacks until `stop` is cancelled.
    pub async fn attack(self, attack: Attack) -> Result<(), BoxError> {
        let stop = self.stop.clone();
        let attacking = async move {
            match attack {
                Attack::TinyPieces => self.trickle(300, "Content-Length: 16384", b" ").await,
                Attack::TinyChunks => {
                    self.trickle(20, "Transfer-Encoding: chunked", b"1\r\n \r\n").await
                }
                Attack::Announced => self.announce().await,
                Attack::ManyKeys => {
                    let body = object_of_many_keys();
                    self.run_clients(64, move |this, nth| this.send_keys(Arc::clone(&body), nth))
                        .await
                }
                Attack::Unread => self.run_clients(64, Self::leave_unread).await,
                Attack::LargePages => {
                    self.run_clients(64, |this, nth| this.download(nth, nth)).await
                }
                Attack::OneUser => self.run_clients(16, |this, nth| this.download(nth, 0)).await,
                Attack::GivenUp => self.run_clients(64, Self::give_up).await,
                Attack::LongHeads => self.send_long_heads().await,
                Attack::HalfSent => self.half_send().await,
            }
        };
        stop.run_until_cancelled(attacking).await.unwrap_or(Ok(()))
    }

    /// Runs `count` clients concurrently. Each starts again when it ends or fails.
    async fn run_clients<F: Future<Output = Result<(), BoxError>> + Send + 'static>(
        &self,
        count: usize,
        work: impl Fn(Self, usize) -> F + Clone + Send + Sync + 'static,
    ) -> Result<(), BoxError> {
        let mut working = JoinSet::new();
        for nth in 0..count {
            let (this, work) = (self.clone(), work.clone());
            working.spawn(async move {
                loop {
                    // The server is expected to refuse attackers.
                    drop(work(this.clone(), nth).await);
                    sleep(RETRY_PAUSE).await;
                }
            });
        }
        working.join_all().await;
        Ok(())
    }

    /// Connects from one of 64 loopback addresses, with a receive buffer of 16 KiB.
    async fn connect(&self, nth: usize) -> Result<TcpStream, BoxError> {
        let host = u8::try_from(nth % 64)? + 1;
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(16 * 1024)?;
        socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 1, host)), 0))?;
        let stream = socket.connect(self.target.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn head(&self, api: &str, framing: &str) -> String {
        let (path, host) = (&self.target.path, &self.target.host);
        format!(
            "POST {path}?srv=chatserver&api={api} HTTP/1.1\r\nHost: {host}\r\n\
             Content-Type: application/json\r\n{framing}\r\n\r\n"
        )
    }

    /// Sends bodies piece by piece, one piece per connection in turn.
    async fn trickle(&self, count: usize, framing: &str, piece: &[u8]) -> Result<(), BoxError> {
        let mut sockets = Vec::new();
        for nth in 0..count {
            let mut socket = self.connect(nth).await?;
            socket.write_all(self.head("chatconversation", framing).as_bytes()).await?;
            sockets.push(socket);
        }
        loop {
            for socket in &mut sockets {
                // A connection that the server has closed stays closed.
                drop(socket.write_all(piece).await);
            }
            tokio::task::yield_now().await;
        }
    }

    async fn announce(&self) -> Result<(), BoxError> {
        let mut sockets = Vec::new();
        for nth in 0..256 {
            let mut socket = self.connect(nth).await?;
            let head = self.head("chatconversation", "Content-Length: 1048576");
            socket.write_all((head + "{").as_bytes()).await?;
            sockets.push(socket);
        }
        std::future::pending().await
    }

    /// Sends a body with many keys again and again, signed by a user: the server parses no body above 16 KiB before it
    /// has verified the signature.
    async fn send_keys(self, body: Arc<str>, nth: usize) -> Result<(), BoxError> {
        let person = &self.population.people[nth % self.population.people.len()];
        let request = signed_request(&self.target, person, "chatconversation", &body);
        let mut client = Client::on(self.connect(nth).await?);
        loop {
            let Some(answer) = client.call(request.as_bytes()).await? else { return Ok(()) };
            // After 60 failures a minute an address gets `rate_limited`, although the body was parsed.
            if answer.status == 400 && answer.error_message().contains(TOO_MANY_KEYS) {
                self.hits.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Makes a generator that requests pages of 8 MiB.
    fn reader(&self, person: usize) -> RequestGenerator {
        let person = person % self.population.people.len();
        let clients = vec![LoadClient { person, talk: person / 2 }];
        RequestGenerator::new(
            &self.population,
            &self.target,
            clients,
            &[RequestKind::Page { limit: 500 }],
        )
    }

    async fn give_up(self, nth: usize) -> Result<(), BoxError> {
        let mut socket = self.connect(nth).await?;
        socket.write_all(self.reader(nth).next().as_bytes()).await?;
        sleep(GIVES_UP_AFTER).await;
        Ok(())
    }

    /// Requests a page of 8 MiB. Returns whether the server has begun to send it.
    async fn request_page(
        &self,
        socket: &mut TcpStream,
        generator: &mut RequestGenerator,
    ) -> Result<bool, BoxError> {
        socket.write_all(generator.next().as_bytes()).await?;
        let mut status = [0; 12];
        let is_page = socket.peek(&mut status).await? == status.len() && status == *b"HTTP/1.1 200";
        if is_page {
            self.hits.fetch_add(1, Ordering::Relaxed);
        }
        Ok(is_page)
    }

    /// Requests a page and leaves it unread until the server ends the connection. Starts again if it gets no page.
    async fn leave_unread(self, nth: usize) -> Result<(), BoxError> {
        let mut socket = self.connect(nth).await?;
        if self.request_page(&mut socket, &mut self.reader(nth)).await? {
            while socket.peek(&mut [0]).await? > 0 {
                sleep(Duration::from_secs(1)).await;
            }
        } else {
            sleep(REFUSED_PAUSE).await;
        }
        Ok(())
    }

    /// Downloads pages of 8 MiB as this user, one after the other.
    async fn download(self, nth: usize, person: usize) -> Result<(), BoxError> {
        let mut generator = self.reader(person);
        let mut socket = self.connect(nth).await?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            self.request_page(&mut socket, &mut generator).await?;
            // A page is complete when nothing arrives for 200 ms.
            while let Ok(read) = timeout(Duration::from_millis(200), socket.read(&mut buffer)).await
            {
                if read? == 0 {
                    return Ok(());
                }
            }
        }
    }

    async fn send_long_heads(&self) -> Result<(), BoxError> {
        let head = format!("GET / HTTP/1.1\r\nHost: {}", "x".repeat(15_000));
        let mut sockets = Vec::new();
        for nth in 0..1_000 {
            let mut socket = self.connect(nth).await?;
            // A connection that the server has closed stays closed.
            drop(socket.write_all(head.as_bytes()).await);
            sockets.push(socket);
        }
        std::future::pending().await
    }

    async fn half_send(&self) -> Result<(), BoxError> {
        let upgrade = format!(
            "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            self.target.host
        );
        loop {
            let mut sockets = Vec::new();
            for _ in 0..2_000 {
                // All from one address.
                let mut socket = self.connect(0).await?;
                let bytes =
                    if sockets.len() % 2 == 0 { "GET / HTTP/1.1\r\nHost:" } else { &upgrade };
                drop(socket.write_all(bytes.as_bytes()).await);
                sockets.push(socket);
            }
            sleep(Duration::from_secs(5)).await;
        }
    }
}

/// Makes a JSON object of [`KEYS`] different keys.
fn object_of_many_keys() -> Arc<str> {
    let keys: Vec<_> = (0..KEYS).map(|key| format!("\"{key}\":0")).collect();
    format!("{{{}}}", keys.join(",")).into()
}
