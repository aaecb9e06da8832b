//! A WebSocket client that sends arbitrary bytes, and reads or does not.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::person::Person;
use super::world::PATIENCE;

pub const FINAL: u8 = 0x80;
pub const CONTINUED: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

/// Returns a masked frame, as clients must send it. The mask is all zeros.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = unmasked(first, payload);
    frame[1] |= 0x80;
    let head = frame.len() - payload.len();
    frame.splice(head..head, [0; 4]);
    frame
}

/// Returns an unmasked frame, as servers send it.
pub fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u16::try_from(payload.len()) {
        Ok(length @ 0..126) => frame.push(u8::try_from(length).unwrap()),
        Ok(length) => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => {
            frame.push(127);
            frame.extend(u64::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

/// A TCP connection after the WebSocket handshake.
pub struct Raw(pub TcpStream);

impl Raw {
    pub async fn opens(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let handshake = "GET /ws HTTP/1.1\r\nHost: chat\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n";
        stream.write_all(handshake.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", answer.escape_ascii());
        Self(stream)
    }

    /// Opens a connection and subscribes as this person's station.
    pub async fn listens(person: &Person) -> Self {
        let mut raw = Self::opens(person.address()).await;
        let subscription = person.subscription().to_string();
        raw.sends(&frame(FINAL | TEXT, subscription.as_bytes())).await;
        assert_eq!(raw.hears().await["status"], "OK");
        raw
    }

    pub async fn sends(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Sends the same bytes repeatedly without reading. Ends once `most` bytes are sent, the connection has ended, or a
    /// write of 1,000 repetitions takes longer than `patience`.
    pub async fn floods(&mut self, bytes: &[u8], most: usize, patience: Duration) {
        let many = bytes.repeat(1000);
        for _ in 0..most / many.len() {
            if !matches!(timeout(patience, self.0.write_all(&many)).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Returns the first byte and the payload of the next frame, or `None` at the end of the connection.
    pub async fn receives(&mut self) -> Option<(u8, Vec<u8>)> {
        timeout(PATIENCE, self.frame()).await.expect("a frame in time")
    }

    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = self.0.read_u8().await.ok()?;
        let length = match self.0.read_u8().await.ok()? {
            126 => self.0.read_u16().await.ok()?.into(),
            127 => usize::try_from(self.0.read_u64().await.ok()?).unwrap(),
            length => length.into(),
        };
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((first, payload))
    }

    /// Returns the next text frame and skips others.
    pub async fn hears(&mut self) -> Value {
        loop {
            let (first, payload) = self.receives().await.expect("the connection goes on");
            if first == FINAL | TEXT {
                return serde_json::from_slice(&payload).unwrap();
            }
        }
    }

    /// Returns the code and the reason of the close frame, and skips frames before it. Asserts that the connection then
    /// ends in order.
    pub async fn is_closed(&mut self) -> (u16, String) {
        let (code, reason) = loop {
            let (first, payload) = self.receives().await.expect("a close frame");
            if first == FINAL | CLOSE {
                let (code, reason) = payload.split_first_chunk().unwrap();
                break (u16::from_be_bytes(*code), String::from_utf8(reason.to_vec()).unwrap());
            }
        };
        let answered = self.0.write_all(&frame(FINAL | CLOSE, &code.to_be_bytes())).await;
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("an end in time");
        assert!(answered.is_ok() && ended.is_ok() && rest.is_empty(), "{code}: {ended:?} {rest:?}");
        (code, reason)
    }
}
