//! Raw TCP connections, on which a test decides when each byte is sent and read.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

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

/// Returns whether nothing has arrived on a connection so far, not even its end.
pub fn is_silent(socket: &TcpStream) -> bool {
    socket.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}
