//! A client's keep-alive connection: sends a request, then reads its answer.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::BoxError;

/// Maximum headers of an answer. The server sends about five.
const HEADERS: usize = 32;

/// Maximum wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection and the bytes of its current answer.
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

/// Status and body of an answer. Its headers are not kept.
pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Result<Self, BoxError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::on(stream))
    }

    /// Wraps an open connection.
    pub fn on(stream: TcpStream) -> Self {
        Self { stream, received: Vec::with_capacity(64 * 1024) }
    }

    /// Sends a request and waits for the complete answer. Returns `None` if it takes more than 30 s, and the connection
    /// can't be used again.
    pub async fn call(&mut self, request: &[u8]) -> Result<Option<Answer<'_>>, BoxError> {
        timeout(ANSWER_TIMEOUT, self.exchange(request)).await.ok().transpose()
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Answer<'_>, BoxError> {
        self.stream.write_all(request).await?;
        self.received.clear();
        loop {
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err("the server closed the connection before its answer".into());
            }
            if let Some((status, body)) = arrived(&self.received)? {
                return Ok(Answer { status, body: &self.received[body..] });
            }
        }
    }
}

/// Returns the status and the offset of the body, or `None` while the answer is incomplete.
fn arrived(received: &[u8]) -> Result<Option<(u16, usize)>, BoxError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(received)? else {
        return Ok(None);
    };
    let mut lengths = response.headers.iter().filter(|header| {
        let name = header.name;
        name.eq_ignore_ascii_case("content-length")
    });
    let length = lengths.next().ok_or("an answer has no Content-Length")?;
    let length: usize = std::str::from_utf8(length.value)?.parse()?;
    let is_whole = received.len() >= head + length;
    Ok(is_whole.then_some((response.code.unwrap_or(0), head)))
}

impl Answer<'_> {
    /// Returns the server's `errorcode`, or the status if there is none. Returns `None` if the answer is OK.
    pub fn error(&self) -> Option<String> {
        if self.status == 200 && self.body.starts_with(br#"{"status":"OK""#) {
            return None;
        }
        Some(self.field("errorcode").unwrap_or_else(|| self.status.to_string()))
    }

    /// Returns the server's `errormessage`, empty if there is none.
    pub fn error_message(&self) -> String {
        self.field("errormessage").unwrap_or_default()
    }

    fn field(&self, name: &str) -> Option<String> {
        let answer: Value = serde_json::from_slice(self.body).ok()?;
        answer[name].as_str().map(str::to_owned)
    }
}
