//! A WebSocket (RFC 6455) that carries text frames, and its close codes.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message, Utf8Bytes};

use super::pace::{Pace, Paced};

/// Bytes of each socket's read buffer. Our clients' frames take about 300 bytes.
const READ_BUFFER_BYTES: usize = 1024;

/// Maximum bytes of a frame and of a message.
const MESSAGE_BYTES: usize = 4096;

/// Maximum time of one write to a client.
const SLOW_AFTER: Duration = Duration::from_secs(10);

/// Maximum time to close a connection, in which the client closes its side.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// The reason why a connection ends (docs/protocol.md#staying).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client closed, or its connection broke.
    Gone,
    /// A malformed frame, or no frame in time. The text is for the client author.
    Malformed(String),
    Binary,
    NotUtf8,
    Replaced,
    /// The client does not read what it is sent, or gave no sign of life since the last ping.
    Slow,
    Refused,
    Closing,
    Failed,
}

impl End {
    pub(super) fn code(&self) -> u16 {
        match self {
            Self::Gone => 1000,
            Self::Closing => 1001,
            Self::Binary => 1003,
            Self::NotUtf8 => 1007,
            Self::Failed => 1011,
            Self::Malformed(_) => 4000,
            Self::Replaced => 4001,
            Self::Slow => 4002,
            Self::Refused => 4003,
        }
    }

    /// Returns the reason for the client and for the log.
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Gone => "the client is gone",
            Self::Closing => "the server is stopping",
            Self::Binary => "frames must be text",
            Self::NotUtf8 => "text must be UTF-8",
            Self::Failed => "the server failed",
            Self::Malformed(what) => what,
            Self::Replaced => "a newer connection of this station replaced it",
            Self::Slow => "the client was silent or did not read",
            Self::Refused => {
                "the user was disabled, the API key changed, or the station is no longer bound"
            }
        }
    }
}

pub(super) enum Received {
    Text(Utf8Bytes),
    /// A sign of life, such as a ping. [`Socket::answer`] sends the answer where one is due.
    Sign,
}

pub(super) struct Socket<S> {
    stream: WebSocketStream<Paced<S>>,
    pace: Pace,
    /// No further frame is read before this time.
    paused_until: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Takes the server's side of an upgraded connection.
    pub(super) async fn new(io: S) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(MESSAGE_BYTES))
            .max_frame_size(Some(MESSAGE_BYTES));
        let stream = WebSocketStream::from_raw_socket(Paced::new(io), Role::Server, Some(config));
        Self { stream: stream.await, pace: Pace::of_frames(Instant::now()), paused_until: None }
    }

    /// Receives the next frame once the pace allows it. Cancel safe: dropping the future loses no frame.
    pub(super) async fn receive(&mut self) -> Result<Received, End> {
        if let Some(until) = self.paused_until {
            Box::pin(sleep_until(until)).await;
        }
        let received = self.stream.next().await;
        self.paused_until = self.pace.count(1, Instant::now());
        match received {
            Some(Ok(Message::Text(text))) => Ok(Received::Text(text)),
            Some(Ok(Message::Binary(_))) => Err(End::Binary),
            Some(
                Ok(Message::Close(_))
                | Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) | Error::Io(_)),
            )
            | None => Err(End::Gone),
            Some(Ok(_)) => Ok(Received::Sign),
            Some(Err(Error::Utf8(_))) => Err(End::NotUtf8),
            Some(Err(Error::Capacity(_))) => {
                Err(End::Malformed(format!("the frame exceeds the limit of {MESSAGE_BYTES} bytes")))
            }
            Some(Err(error)) => Err(End::Malformed(error.to_string())),
        }
    }

    pub(super) async fn send(&mut self, text: Vec<u8>) -> Result<(), End> {
        let text = String::from_utf8(text).map_err(|_| End::Failed)?;
        self.write(Message::text(text)).await
    }

    pub(super) async fn ping(&mut self) -> Result<(), End> {
        self.write(Message::Ping(Bytes::new())).await
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        within(SLOW_AFTER, self.stream.send(message)).await
    }

    /// Sends the answer to a ping. Must follow each [`Received::Sign`] before the next [`Self::receive`]. Otherwise the
    /// answers to a client that pings but does not read would fill the memory.
    pub(super) async fn answer(&mut self) -> Result<(), End> {
        within(SLOW_AFTER, self.stream.flush()).await
    }

    /// Lets further frames be read at once, as far as [`Paced::hurry`] does.
    pub(super) fn hurry(&mut self) {
        self.stream.get_mut().hurry();
        self.paused_until = None;
    }

    /// Closes the connection, and waits up to [`CLOSE_WITHIN`] for the client to close too.
    pub(super) async fn close(mut self, end: &End) {
        let mut reason = end.reason();
        // A close frame holds at most 123 bytes of reason (RFC 6455, 5.5).
        reason = &reason[..reason.floor_char_boundary(123)];
        let frame = CloseFrame { code: CloseCode::from(end.code()), reason: reason.into() };
        self.hurry();
        let closing = async {
            if end != &End::Gone {
                self.stream.send(Message::Close(Some(frame))).await?;
            }
            // Later messages are discarded. The client's close frame is answered here, or answers the one sent above.
            while self.stream.next().await.is_some() {}
            // Unread bytes would reset the connection, perhaps before the client knows why it ends.
            let io = self.stream.get_mut();
            io.shutdown().await?;
            while io.read(&mut [0; 256]).await? > 0 {}
            Ok::<_, Error>(())
        };
        // The connection ends here, even if the client has not closed its side.
        drop(timeout(CLOSE_WITHIN, closing).await);
    }
}

async fn within(
    time: Duration,
    sending: impl Future<Output = Result<(), Error>>,
) -> Result<(), End> {
    match timeout(time, sending).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Gone),
        Err(_) => Err(End::Slow),
    }
}
