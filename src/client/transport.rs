//! HTTP/1.1 requests and WebSockets of a client, over http or https.

use std::error::Error as StdError;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    CONNECTION, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use url::Url;

use super::Error;

/// Maximum time for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Maximum time for an answer: the server's own bounds on body and work are 30 s each.
const ANSWER: Duration = Duration::from_secs(65);

/// Maximum bytes of an answer. A page has at most 8 MiB by default (docs/protocol.md#13-bounds).
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Idle connections are closed before the server closes them, after 75 s.
const IDLE: Duration = Duration::from_mins(1);

/// A WebSocket of a client.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The connections to one server.
pub(super) struct Transport(Kind);

enum Kind {
    Http(Client<HttpConnector, Full<Bytes>>),
    Https(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

/// An answer, before its body is understood.
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
}

type Failure = Box<dyn StdError + Send + Sync>;

impl Transport {
    /// Prepares connections to the server of this URL. Only https reads the machine's root certificates.
    pub(super) fn new(url: &Url) -> Result<Self, Error> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.enforce_http(false);
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_idle_timeout(IDLE).pool_timer(TokioTimer::new());
        Ok(Self(if url.scheme() == "https" {
            let roots = HttpsConnectorBuilder::new().with_native_roots();
            let roots = roots.map_err(|source| unreachable_at(url, source))?;
            Kind::Https(builder.build(roots.https_only().enable_http1().wrap_connector(tcp)))
        } else {
            Kind::Http(builder.build(tcp))
        }))
    }

    /// Posts JSON and receives the answer.
    pub(super) async fn post(
        &self,
        url: &Url,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answered, Error> {
        let mut request = Request::post(url.as_str()).header("Content-Type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).expect("ids and URLs are valid in a request");
        let answered = timeout(ANSWER, async {
            let answer = self.send(request).await?;
            let (status, headers) = (answer.status(), answer.headers());
            let seconds =
                headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let retry_after = seconds.map(Duration::from_secs);
            let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await?.to_bytes();
            Ok::<_, Failure>(Answered { status, retry_after, body })
        });
        match answered.await {
            Ok(answered) => answered.map_err(|source| unreachable_at(url, source)),
            Err(elapsed) => Err(unreachable_at(url, elapsed)),
        }
    }

    /// Opens a WebSocket (RFC 6455).
    pub(super) async fn open(&self, url: &Url) -> Result<Socket, Error> {
        let key = generate_key();
        let request = Request::get(url.as_str())
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, &key)
            .body(Full::default())
            .expect("URLs are valid in a request");
        let upgraded = timeout(CONNECT, async {
            let answer = self.send(request).await?;
            let accept = answer.headers().get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
            let is_accepted = answer.status() == StatusCode::SWITCHING_PROTOCOLS
                && accept == Some(derive_accept_key(key.as_bytes()).as_bytes());
            if !is_accepted {
                return Err(format!("it answers {} and opens no WebSocket", answer.status()).into());
            }
            Ok::<_, Failure>(hyper::upgrade::on(answer).await?)
        });
        let upgraded = match upgraded.await {
            Ok(upgraded) => upgraded.map_err(|source| unreachable_at(url, source))?,
            Err(elapsed) => return Err(unreachable_at(url, elapsed)),
        };
        Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await)
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        Ok(match &self.0 {
            Kind::Http(client) => client.request(request).await?,
            Kind::Https(client) => client.request(request).await?,
        })
    }
}

/// Makes the error of a request without an answer.
pub(super) fn unreachable_at(url: &Url, source: impl Into<Failure>) -> Error {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    Error::Unreachable { address: format!("{host}:{port}"), source: source.into() }
}
