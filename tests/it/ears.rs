//! WebSocket clients.

use std::net::SocketAddr;
use std::time::Duration;

use chatserver::signature::{Signed, SigningKey};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{WebSocketStream, client_async};
use uuid::Uuid;

use crate::world::{PATIENCE, Person};

/// How long to wait for a frame that must not come.
const A_WHILE: Duration = Duration::from_millis(300);

/// An open WebSocket.
pub struct Ear(pub WebSocketStream<TcpStream>);

/// A notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub sequence: u64,
    pub friends: Vec<String>,
    pub conversations: Vec<String>,
    pub lists: Vec<String>,
}

impl Told {
    /// Reads a notification that came over HTTP or from a listener.
    pub fn read(notification: &Value) -> Self {
        let ids = |name: &str| -> Vec<String> {
            let ids = notification[name].as_array().unwrap().iter();
            ids.map(|id| id.as_str().unwrap().to_owned()).collect()
        };
        Self {
            sequence: notification["sequence"].as_u64().unwrap_or(0),
            friends: ids("friendavailabilitesof"),
            conversations: ids("conversationchangedof"),
            lists: ids("conversationlistchangedof"),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.friends.is_empty() && self.conversations.is_empty() && self.lists.is_empty()
    }
}

impl Ear {
    /// Opens a WebSocket at this path, with these headers besides those of the handshake.
    pub async fn tries(
        address: SocketAddr,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<(Self, Response), tokio_tungstenite::tungstenite::Error> {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
        let stream = TcpStream::connect(address).await.unwrap();
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let (socket, response) = client_async(request, stream).await?;
        Ok((Self(socket), response))
    }

    /// Opens a WebSocket at `/ws`.
    pub async fn opens(address: SocketAddr) -> Self {
        Self::tries(address, "/ws", &[]).await.unwrap().0
    }

    pub async fn says(&mut self, frame: &Value) {
        self.0.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// Returns the next text frame, or the close code of the socket as an error.
    pub async fn hears(&mut self) -> Result<Value, Option<u16>> {
        loop {
            let frame = timeout(PATIENCE, self.0.next()).await.expect("a frame in time");
            match frame {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => {
                    return Err(frame.map(|frame| CloseCode::into(frame.code)));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// Returns the next notification.
    pub async fn is_told(&mut self) -> Told {
        let event = self.hears().await.unwrap();
        assert_eq!(event["event"], "notification", "{event}");
        Told::read(&event)
    }

    /// Asserts that the next frame is a refusal with this code, and that the socket is closed with 4000.
    /// Returns the refusal.
    pub async fn is_refused(&mut self, code: &str) -> Value {
        let refusal = self.hears().await.unwrap();
        assert_eq!((&refusal["status"], &refusal["errorcode"]), (&json!("ERROR"), &json!(code)));
        assert_eq!(self.is_closed().await, Some(4000), "{refusal}");
        refusal
    }

    /// Acknowledges everything up to a notification.
    pub async fn acknowledges(&mut self, told: &Told) {
        self.says(&json!({ "action": "ack", "sequence": told.sequence })).await;
    }

    /// Returns when the server has processed all frames sent so far. A ping marks the end.
    pub async fn is_heard(&mut self) {
        self.0.send(Message::Ping("heard?".into())).await.unwrap();
        let answer = async { while !matches!(self.0.next().await, Some(Ok(Message::Pong(_)))) {} };
        timeout(PATIENCE, answer).await.expect("an answer in time");
    }

    /// Returns the next notification and acknowledges it.
    pub async fn takes(&mut self) -> Told {
        let told = self.is_told().await;
        self.acknowledges(&told).await;
        told
    }

    /// Asserts that nothing arrives for [`A_WHILE`].
    pub async fn hears_nothing(&mut self) {
        let heard = timeout(A_WHILE, self.hears()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    /// Returns the close code, skipping all frames before it.
    pub async fn is_closed(&mut self) -> Option<u16> {
        loop {
            if let Err(code) = self.hears().await {
                return code;
            }
        }
    }
}

impl Person {
    /// Returns a frame that subscribes this person's station, with a fresh nonce.
    pub fn subscription(&self) -> Value {
        self.subscription_with(&Uuid::new_v4().to_string())
    }

    /// Returns a subscription frame with this nonce.
    pub fn subscription_with(&self, nonce: &str) -> Value {
        let mut subscription = self.subscription_signing(&format!("{}\n{nonce}", self.date()));
        subscription["nonce"] = json!(nonce);
        subscription
    }

    /// Returns a subscription frame without a nonce. Frames of the same second are identical.
    pub fn subscription_without_nonce(&self) -> Value {
        self.subscription_signing(&self.date())
    }

    fn subscription_signing(&self, body: &str) -> Value {
        let signature = SigningKey::new(&self.api_key).sign(&Signed {
            srv: "chatserver",
            api: "chatlistener",
            user: self.user,
            station: Some(self.station),
            body: body.as_bytes(),
        });
        json!({
            "action": "subscribe", "userid": self.user.as_str(), "stationid": self.station.as_str(),
            "timestamp": self.date(), "signature": signature.as_str(),
        })
    }

    /// Opens and subscribes a listener for this person's station.
    pub async fn listens(&self) -> Ear {
        let mut ear = Ear::opens(self.address()).await;
        ear.says(&self.subscription()).await;
        let answer = ear.hears().await.unwrap();
        let epoch = answer["epoch"].as_str().unwrap();
        assert_eq!(answer, json!({ "status": "OK", "errormessage": "", "epoch": epoch }));
        ear
    }

    /// Opens a listener and acknowledges everything that there is so far.
    pub async fn listens_from_now_on(&self) -> Ear {
        let mut ear = self.listens().await;
        ear.takes().await;
        ear
    }

    /// Polls once in the documented form.
    pub async fn is_notified(&self) -> Told {
        let answer = self.prepares("chatnotification", "download", &json!({})).sent().await;
        Told::read(&answer.ok())
    }

    /// Polls and acknowledges an earlier notification.
    pub async fn polls(&self, acknowledged: u64) -> Told {
        let fields = json!({ "ack": acknowledged });
        let answer = self.prepares("chatnotification", "download", &fields).sent().await;
        Told::read(&answer.ok())
    }
}
