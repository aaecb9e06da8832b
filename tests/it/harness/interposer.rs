//! A server in front of a chatserver, which answers some requests itself: rightly, wrongly or not at all.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::ws_frames::{FINAL, TEXT, unmasked};

/// Returns the answer to a request, or `None` to let the server answer.
type Rule = dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync;

/// It runs on threads of its own, so a test may wait for a client's process meanwhile.
pub struct Interposer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    rule: Box<Rule>,
    /// Head and body of each request.
    requests: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

impl Interposer {
    /// Passes on each request to this server, unless the rule answers it. The rule gets the head and the body.
    pub fn before(
        server: SocketAddr,
        rule: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, is_over) = (Mutex::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { server, rule: Box::new(rule), requests, is_over });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if serving.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let (serving, client) = (Arc::clone(&serving), client.unwrap());
                // A connection may end at any time.
                thread::spawn(move || drop(serving.serve(client)));
            }
        });
        Self { address, shared }
    }

    /// Returns how many requests have contained this text.
    pub fn count(&self, text: &str) -> usize {
        let requests = self.shared.requests.lock().unwrap();
        requests.iter().filter(|request| request.contains(text)).count()
    }
}

impl Drop for Interposer {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // Wakes the listener.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let request = read_request(&mut client)?;
        self.requests.lock().unwrap().push(request.clone());
        if let Some(answer) = (self.rule)(&request) {
            client.write_all(&answer)?;
            client.shutdown(Shutdown::Write)?;
            // Closing with unread bytes would reset the connection.
            return io::copy(&mut client, &mut io::sink()).map(drop);
        }
        let mut server = TcpStream::connect(self.server)?;
        // The next request comes on another connection, so that the rule sees it, too.
        let request = if request.contains("upgrade: websocket") {
            request
        } else {
            request.replacen("\r\n", "\r\nconnection: close\r\n", 1)
        };
        server.write_all(request.as_bytes())?;
        let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || {
            drop(io::copy(&mut from_client, &mut to_server));
            drop(to_server.shutdown(Shutdown::Both));
        });
        drop(io::copy(&mut server, &mut client));
        client.shutdown(Shutdown::Both)
    }
}

/// Reads one request with its body.
fn read_request(client: &mut TcpStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    client.read_exact(&mut body)?;
    Ok(format!("{head}{}", String::from_utf8(body).unwrap()))
}

/// Returns an answer with this status line, these further headers and this body.
pub fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}

/// Returns an envelope that refuses with this code.
pub fn refusal(code: &str) -> Vec<u8> {
    let body = format!(r#"{{"status":"ERROR","errormessage":"refused","errorcode":"{code}"}}"#);
    answer("400 Bad Request", "", &body)
}

/// Returns the answer of a busy server. A client gives up at once, because it would have to wait for an hour.
pub fn busy() -> Vec<u8> {
    answer("503 Service Unavailable", "Retry-After: 3600\r\n", "")
}

/// Accepts the handshake of a WebSocket, sends this text and closes.
pub fn listener_that_says(handshake: &str, text: &str) -> Vec<u8> {
    let key = handshake.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
    let accept = derive_accept_key(key.as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    [head.as_bytes(), &unmasked(FINAL | TEXT, text.as_bytes())].concat()
}
