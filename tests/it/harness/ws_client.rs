//! WebSocket clients.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{WebSocketStream, client_async};
use uuid::Uuid;

use super::notification::Notification;
use super::person::Person;
use super::world::PATIENCE;

/// An open WebSocket.
pub struct WsClient {
    pub socket: WebSocketStream<TcpStream>,
    /// The person whose station has subscribed, if it was [`Person::listens`].
    subscriber: Option<Person>,
}

impl WsClient {
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
        Ok((Self { socket, subscriber: None }, response))
    }

    /// Opens a WebSocket at `/ws`.
    pub async fn opens(address: SocketAddr) -> Self {
        Self::tries(address, "/ws", &[]).await.unwrap().0
    }

    /// Returns the address of the server.
    pub fn server(&self) -> SocketAddr {
        self.socket.get_ref().peer_addr().unwrap()
    }

    pub async fn says(&mut self, frame: &Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// Returns the next text frame, or the close code of the socket as an error.
    pub async fn hears(&mut self) -> Result<Value, Option<u16>> {
        loop {
            let frame = timeout(PATIENCE, self.socket.next()).await.expect("a frame in time");
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
    pub async fn is_told(&mut self) -> Notification {
        let event = self.hears().await.unwrap();
        assert_eq!(event["event"], "notification", "{event}");
        Notification::read(&event)
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
    pub async fn acknowledges(&mut self, told: &Notification) {
        self.says(&json!({ "action": "ack", "sequence": told.sequence })).await;
    }

    /// Returns when the server has processed all frames sent so far. A ping marks the end.
    pub async fn is_heard(&mut self) {
        let ping = self.pings().await;
        let answer = async {
            loop {
                let frame = self.socket.next().await.expect("the connection goes on").unwrap();
                if matches!(frame, Message::Pong(answer) if answer == ping) {
                    return;
                }
            }
        };
        timeout(PATIENCE, answer).await.expect("an answer in time");
    }

    /// Sends a ping and returns its content, which its pong repeats.
    async fn pings(&mut self) -> Bytes {
        let ping = Bytes::from(Uuid::new_v4().to_string());
        self.socket.send(Message::Ping(ping.clone())).await.unwrap();
        ping
    }

    /// Returns the next notification and acknowledges it.
    pub async fn takes(&mut self) -> Notification {
        let told = self.is_told().await;
        self.acknowledges(&told).await;
        told
    }

    /// Takes notifications until one names conversations, and returns these. The others say that friends came.
    pub async fn is_told_of_conversations(&mut self) -> Vec<String> {
        loop {
            let told = self.takes().await;
            if !told.conversations.is_empty() {
                return told.conversations;
            }
        }
    }

    /// Returns the next notification, unless the server answers a ping first.
    pub async fn is_told_before_a_ping(&mut self) -> Option<Notification> {
        let ping = self.pings().await;
        loop {
            let frame = timeout(PATIENCE, self.socket.next()).await.expect("a frame in time");
            match frame.expect("the connection goes on").unwrap() {
                Message::Text(text) => {
                    let event: Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(event["event"], "notification", "{event}");
                    return Some(Notification::read(&event));
                }
                Message::Pong(answer) if answer == ping => return None,
                _ => {}
            }
        }
    }

    /// Asserts that nothing is pending for this listener. Another station of its user makes a change that marks the end:
    /// the next notification, which names everything up to there, names this change alone. Acknowledges it.
    pub async fn hears_nothing(&mut self) {
        let subscriber = self.subscriber.as_ref().expect("a subscribed listener");
        let (user, elsewhere) = (subscriber.user.to_string(), subscriber.elsewhere());
        elsewhere.wants(&format!("{}@example.com", elsewhere.station.as_str())).await.ok();
        let told = self.takes().await;
        assert_eq!((told.friends, told.conversations, told.lists), (vec![], vec![], vec![user]));
        assert_eq!(self.is_told_before_a_ping().await, None, "nothing follows the marker");
    }

    /// Takes a notification and asserts that it names exactly these friends and nothing else.
    pub async fn is_told_of(&mut self, friends: &[&Person]) {
        let mut ids: Vec<_> = friends.iter().map(|friend| friend.user.to_string()).collect();
        ids.sort();
        let told = self.takes().await;
        assert_eq!((told.friends, told.conversations, told.lists), (ids, vec![], vec![]));
    }

    /// Takes notifications until each of these friends was named exactly once, and nothing else was.
    pub async fn is_told_of_each(&mut self, friends: &[Person]) {
        let mut ids: BTreeSet<_> = friends.iter().map(|friend| friend.user.to_string()).collect();
        while !ids.is_empty() {
            let told = self.takes().await;
            assert!(told.conversations.is_empty() && told.lists.is_empty(), "{told:?}");
            for friend in told.friends {
                assert!(ids.remove(&friend), "{friend} once more");
            }
        }
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
        let frame = self.credentials().subscription(&self.date(), Some(nonce));
        serde_json::from_str(&frame).unwrap()
    }

    /// Returns a subscription frame without a nonce. Frames of the same second are identical.
    pub fn subscription_without_nonce(&self) -> Value {
        serde_json::from_str(&self.credentials().subscription(&self.date(), None)).unwrap()
    }

    /// Opens and subscribes a listener for this person's station.
    pub async fn listens(&self) -> WsClient {
        let mut listener = WsClient::opens(self.address()).await;
        listener.says(&self.subscription()).await;
        let answer = listener.hears().await.unwrap();
        let epoch = answer["epoch"].as_str().unwrap();
        assert_eq!(answer, json!({ "status": "OK", "errormessage": "", "epoch": epoch }));
        listener.subscriber = Some(self.clone());
        listener
    }

    /// Opens a listener and acknowledges everything that there is so far.
    pub async fn listens_from_now_on(&self) -> WsClient {
        let mut listener = self.listens().await;
        listener.takes().await;
        listener
    }
}
