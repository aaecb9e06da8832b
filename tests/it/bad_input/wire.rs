//! A client that writes the raw bytes of its requests, so that it can send anything.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::refusal;
use crate::harness::person::Prepared;
use crate::harness::world::{PATIENCE, World};

/// The first answer that is not `100 Continue`.
#[derive(Debug)]
pub struct Heard {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Heard {
    fn read(mut bytes: &[u8]) -> Option<Self> {
        loop {
            let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            bytes = &bytes[end + 4..];
            let status = head.strip_prefix("HTTP/1.").expect("an answer in HTTP/1");
            let status = status[2..5].parse().unwrap();
            if status != 100 {
                return Some(Self { status, head, body: String::from_utf8_lossy(bytes).into() });
            }
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Returns `None` for a success, else the code of the refusal.
    pub fn outcome(&self) -> Option<String> {
        if self.status == 200 {
            assert!(self.body.starts_with(r#"{"status":"OK","errormessage":"""#), "{self:?}");
            return None;
        }
        Some(refusal(self.status, self.header("x-request-id"), &self.body))
    }
}

/// How the client behaves after its last byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Then {
    /// Closes its half of the connection.
    Closes,
    /// Falls silent, with the connection open.
    Waits,
}

/// Sends these bytes and reads until the server closes the connection. Returns the answer, or `None` if the
/// server closed without one.
pub async fn hears(world: &World, bytes: &[u8], then: Then) -> Option<Heard> {
    let exchange = async {
        let (mut reads, mut writes) = TcpStream::connect(world.address).await.unwrap().into_split();
        let sending = async {
            // The server may answer and close before it has read everything.
            let _ = writes.write_all(bytes).await;
            if then == Then::Closes {
                let _ = writes.shutdown().await;
            }
        };
        let mut heard = Vec::new();
        let ((), _) = tokio::join!(sending, reads.read_to_end(&mut heard));
        heard
    };
    let heard = tokio::time::timeout(PATIENCE, exchange).await;
    let heard = heard.unwrap_or_else(|_| {
        panic!(
            "neither an answer nor an end after {}",
            bytes[..bytes.len().min(300)].escape_ascii()
        )
    });
    Heard::read(&heard)
}

/// A request that can be corrupted in every part. It asks the server to close the connection afterwards.
#[derive(Clone)]
pub struct Written {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    pub is_chunked: bool,
}

impl Written {
    /// Copies a prepared request.
    pub fn of(prepared: &Prepared) -> Self {
        let headers = prepared.headers.iter();
        let headers =
            headers.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
        let url = url::Url::parse(&prepared.url).unwrap();
        Self {
            method: "POST".to_owned(),
            target: format!("{}?{}", url.path(), url.query().unwrap()),
            headers: headers.collect(),
            body: prepared.body.clone(),
            is_chunked: false,
        }
    }

    /// Replaces all values of a header. `values` may be empty or have several.
    pub fn with_header(mut self, name: &str, values: &[&[u8]]) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.extend(values.iter().map(|value| (name.to_owned(), value.to_vec())));
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        let mut line = |name: &str, value: &[u8]| {
            bytes.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        };
        line("host", b"localhost");
        line("connection", b"close");
        for (name, value) in &self.headers {
            line(name, value);
        }
        if self.is_chunked {
            line("transfer-encoding", b"chunked");
        } else {
            line("content-length", self.body.len().to_string().as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        if self.is_chunked {
            for chunk in self.body.chunks(1000) {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(&[chunk, b"\r\n"].concat());
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
        } else {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }

    /// Sends the request and returns the answer. A complete request always gets one.
    pub async fn heard(&self, world: &World) -> Heard {
        hears(world, &self.bytes(), Then::Waits).await.expect("an answer to a whole request")
    }
}

/// Settings with timeouts of one second.
pub const IMPATIENT: &[(&str, &str)] = &[
    ("http.header_timeout_seconds", "1"),
    ("http.keep_alive_seconds", "1"),
    ("http.body_timeout_seconds", "1"),
];
