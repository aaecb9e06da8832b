//! Raw TCP connections, on which a test decides when each byte is sent and read.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::person::Prepared;
use super::world::PATIENCE;

/// A request that any server answers at once, and after which it closes the connection.
pub const LAST_REQUEST: &[u8] =
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Opens a connection and sends these bytes.
pub async fn connected(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    socket.write_all(bytes).await.unwrap();
    socket
}

/// Opens a connection from this loopback address and sends these bytes. The server may close it before all are sent.
pub async fn connected_from(from: &str, address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let mut socket = socket.connect(address).await.unwrap();
    drop(socket.write_all(bytes).await);
    socket
}

/// Returns everything that arrives until the server closes the connection.
pub async fn rest_of(mut socket: TcpStream) -> String {
    let mut bytes = Vec::new();
    // A connection that the server cuts may end with a reset.
    drop(timeout(PATIENCE, socket.read_to_end(&mut bytes)).await.expect("the end comes"));
    String::from_utf8(bytes).unwrap()
}

/// Reads the answer to a request on a connection that stays open, up to this end of its body.
pub async fn answer_of(socket: &mut TcpStream, end: &str) -> String {
    let mut answer = Vec::new();
    let reading = async {
        while !answer.ends_with(end.as_bytes()) {
            assert_ne!(socket.read_buf(&mut answer).await.unwrap(), 0, "the connection goes on");
        }
    };
    timeout(PATIENCE, reading).await.expect("an answer in time");
    String::from_utf8(answer).unwrap()
}

/// A request of which a part is sent. The server waits `http.body_timeout_seconds` for the rest, and 5 s once it closes.
/// So it marks time by the server's own clock: whatever is seen before its answer has happened within that time.
pub struct HalfSent {
    socket: TcpStream,
    rest: Vec<u8>,
}

impl HalfSent {
    /// Sends a request up to the middle of its body. The server is to close the connection after the answer.
    pub async fn begins(request: &Prepared) -> Self {
        let mut bytes = request.clone().with_header("connection", "close").bytes();
        let rest = bytes.split_off(bytes.len() - 20);
        Self { socket: connected(request.address(), &bytes).await, rest }
    }

    /// Asserts that the server still waits for the rest.
    #[track_caller]
    pub fn still_waits(self) {
        assert!(is_silent(&self.socket), "the server waits no longer");
    }

    /// Sends the rest and asserts that the request succeeds.
    pub async fn completes(mut self) {
        self.socket.write_all(&self.rest).await.unwrap();
        let answer = rest_of(self.socket).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// Returns whether nothing has arrived on a connection so far, not even its end.
pub fn is_silent(socket: &TcpStream) -> bool {
    socket.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}
