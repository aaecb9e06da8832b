//! WebSockets that listen as the recipients of messages, and acknowledge each event.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chatserver::clock::Clock;
use chatserver::domain::{ConversationId, Parse as _};
use futures_util::{SinkExt as _, StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::BoxError;
use super::figures::Figures;
use super::population::Person;
use super::pushes::PendingPushes;
use super::server::Target;

/// Listeners that are opened concurrently.
pub const AT_ONCE: usize = 64;

/// Maximum wait for an expected frame.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Maximum repeats of a subscription, and the pause before each.
const REPEATS: usize = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// Factor of the change number in a sequence number, whose last digits are check digits (docs/protocol.md#acknowledged-delivery-c).
/// The protocol tells clients to treat the whole as opaque. Here it tells which messages a push covers.
const CHECK_DIGITS: u64 = 1_000_000;

const CUT: &str = "the server closed a listener";

type Socket = WebSocketStream<TcpStream>;

/// An open listener that has acknowledged its first event.
pub struct Listener {
    socket: Socket,
    /// The user's change number then. Each message that the user receives adds 1.
    base: u64,
}

/// The fields of an event that this program reads.
#[derive(Deserialize)]
struct Event {
    sequence: u64,
    conversationchangedof: Vec<String>,
}

/// Opens a listener for each of these users at its server. Repeats a subscription that the server is too busy for, as the
/// protocol asks of clients, and counts that in `repeated`.
pub async fn open(
    seats: &[(&Arc<Target>, &Person)],
    repeated: &AtomicU64,
) -> Result<Vec<Listener>, BoxError> {
    let opening = stream::iter(seats).map(async |(target, person)| {
        for _ in 0..REPEATS {
            match Listener::open(target, person).await {
                Err(error) if error.to_string().contains(r#""errorcode":"unavailable""#) => {
                    repeated.fetch_add(1, Ordering::Relaxed);
                    sleep(PAUSE).await;
                }
                opened => return opened,
            }
        }
        Listener::open(target, person).await
    });
    opening.buffer_unordered(AT_ONCE).try_collect().await
}

impl Listener {
    async fn open(target: &Target, person: &Person) -> Result<Self, BoxError> {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        let request = format!("ws://{}/ws", target.host).into_client_request()?;
        let (mut socket, _) = client_async(request, stream).await?;
        let timestamp = Clock::system().now().to_string();
        let nonce = Uuid::new_v4().simple().to_string();
        let subscription = person.credentials.subscription(&timestamp, Some(&nonce));
        socket.send(Message::text(subscription)).await?;
        let answer = next_text(&mut socket).await?;
        if !answer.starts_with(r#"{"status":"OK""#) {
            return Err(answer.as_str().into());
        }
        let event: Event = serde_json::from_str(&next_text(&mut socket).await?)?;
        acknowledge(&mut socket, event.sequence).await?;
        // A pong shows that the server has handled everything sent before the ping.
        socket.send(Message::Ping("done?".into())).await?;
        while !matches!(next_frame(&mut socket).await?, Message::Pong(_)) {}
        Ok(Self { socket, base: event.sequence / CHECK_DIGITS })
    }

    /// Acknowledges events until `stop` is cancelled. Returns the latencies of the measured messages.
    async fn listen(
        mut self,
        pending: Arc<PendingPushes>,
        stop: CancellationToken,
    ) -> Result<Figures, BoxError> {
        let mut pushes = Figures::new(Duration::ZERO);
        while let Some(frame) = stop.run_until_cancelled(self.socket.next()).await {
            let Some(text) = text_of(frame.ok_or(CUT)??)? else { continue };
            let event: Event = serde_json::from_str(&text)?;
            let received = (event.sequence / CHECK_DIGITS).saturating_sub(self.base);
            for conversation in &event.conversationchangedof {
                let conversation =
                    ConversationId::parse(conversation).ok_or("no conversation id")?;
                let sent = pending.take_up_to(conversation, received);
                for sent in sent.iter().filter(|sent| sent.is_measured) {
                    pushes.count_ok(sent.at.elapsed(), text.len());
                }
            }
            acknowledge(&mut self.socket, event.sequence).await?;
        }
        Ok(pushes)
    }
}

/// Listeners while messages are sent to them.
pub struct Audience {
    pending: Arc<PendingPushes>,
    stop: CancellationToken,
    listening: JoinSet<Result<Figures, BoxError>>,
}

impl Audience {
    /// Begins to listen.
    pub fn of(listeners: Vec<Listener>) -> Self {
        let (pending, stop) = (Arc::<PendingPushes>::default(), CancellationToken::new());
        let mut listening = JoinSet::new();
        for listener in listeners {
            listening.spawn(listener.listen(Arc::clone(&pending), stop.clone()));
        }
        Self { pending, stop, listening }
    }

    /// Returns the place where senders record their messages.
    pub fn pending(&self) -> &Arc<PendingPushes> {
        &self.pending
    }

    /// Waits until each sent message was pushed, at most [`PATIENCE`]. Closes the listeners and returns the latencies of
    /// the pushes in a measurement of so many seconds.
    pub async fn finish(mut self, seconds: u32) -> Result<Figures, BoxError> {
        let waiting = async {
            while !self.pending.is_empty() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let all_pushed = timeout(PATIENCE, waiting).await.is_ok();
        self.stop.cancel();
        let mut pushes = Figures::new(Duration::from_secs(seconds.into()));
        while let Some(figures) = self.listening.join_next().await {
            pushes.add(&figures??);
        }
        if !all_pushed {
            pushes.count_error("never_pushed");
        }
        Ok(pushes)
    }
}

async fn next_frame(socket: &mut Socket) -> Result<Message, BoxError> {
    Ok(timeout(PATIENCE, socket.next()).await?.ok_or(CUT)??)
}

/// Returns the next text frame. Skips other frames, such as the server's pings.
async fn next_text(socket: &mut Socket) -> Result<Utf8Bytes, BoxError> {
    loop {
        if let Some(text) = text_of(next_frame(socket).await?)? {
            return Ok(text);
        }
    }
}

/// Returns the text of a frame, `None` if it is another one such as a ping, or an error if the server closes.
fn text_of(frame: Message) -> Result<Option<Utf8Bytes>, BoxError> {
    match frame {
        Message::Text(text) => Ok(Some(text)),
        Message::Close(Some(CloseFrame { code, reason })) => {
            Err(format!("the server closed a listener with {code} {reason}").into())
        }
        Message::Close(None) => Err(CUT.into()),
        _ => Ok(None),
    }
}

async fn acknowledge(socket: &mut Socket, sequence: u64) -> Result<(), BoxError> {
    let ack = json!({ "action": "ack", "sequence": sequence }).to_string();
    Ok(socket.send(Message::text(ack)).await?)
}
