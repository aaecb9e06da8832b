//! HTTP/1.1 requests and WebSockets of a client, over http or https.

use std::error::Error as StdError;
use std::net::IpAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
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
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use url::Url;

use super::Error;

/// The header of `/healthz` with the address of its client.
const CLIENT_ADDRESS: &str = "x-client-address";

/// Maximum time for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Maximum time for an answer: the server's own bounds on body and work are 30 s each.
const ANSWER: Duration = Duration::from_secs(65);

/// Maximum bytes of an answer: twice the maximum of `limits.download_bytes`, which leaves room for lists.
const ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// Maximum bytes of a message of the listener. One with 10,000 conversations takes 350 KB.
const EVENT_BYTES: usize = 4 * 1024 * 1024;

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

/// An HTTP answer with its body as bytes.
pub(super) struct RawResponse {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    /// The address of this client as the server sees it.
    pub(super) client_address: Option<IpAddr>,
    pub(super) body: Bytes,
}

type BoxError = Box<dyn StdError + Send + Sync>;

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
    ) -> Result<RawResponse, Error> {
        let mut request = Request::post(url.as_str()).header("Content-Type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).expect("ids and URLs are valid in a request");
        self.exchange(url, request).await
    }

    /// Requests a URL with GET, and receives the answer.
    pub(super) async fn get(
        &self,
        url: &Url,
        headers: &[(&str, &str)],
    ) -> Result<RawResponse, Error> {
        let mut request = Request::get(url.as_str());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).expect("URLs are valid in a request");
        self.exchange(url, request).await
    }

    async fn exchange(
        &self,
        url: &Url,
        request: Request<Full<Bytes>>,
    ) -> Result<RawResponse, Error> {
        let received = timeout(ANSWER, async {
            let answer = self.send(request).await?;
            let (status, headers) = (answer.status(), answer.headers());
            let seconds =
                headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let retry_after = seconds.map(Duration::from_secs);
            let client_address = headers.get(CLIENT_ADDRESS);
            let client_address = client_address.and_then(|value| value.to_str().ok()?.parse().ok());
            let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await?.to_bytes();
            Ok::<_, BoxError>(RawResponse { status, retry_after, client_address, body })
        });
        let failed = |source: BoxError| {
            if source.is::<LengthLimitError>() {
                return Error::Answer(format!("it has more than {ANSWER_BYTES} bytes"));
            }
            unreachable_at(url, source)
        };
        match received.await {
            Ok(received) => received.map_err(failed),
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
                return Ok(Err(answer.status()));
            }
            Ok::<_, BoxError>(Ok(hyper::upgrade::on(answer).await?))
        });
        let upgraded = match upgraded.await {
            Ok(upgraded) => upgraded.map_err(|source| unreachable_at(url, source))?,
            Err(elapsed) => return Err(unreachable_at(url, elapsed)),
        };
        let upgraded = upgraded.map_err(|status| without_socket(url, status))?;
        let bounds = WebSocketConfig::default()
            .max_message_size(Some(EVENT_BYTES))
            .max_frame_size(Some(EVENT_BYTES));
        let upgraded = TokioIo::new(upgraded);
        Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(bounds)).await)
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, BoxError> {
        Ok(match &self.0 {
            Kind::Http(client) => client.request(request).await?,
            Kind::Https(client) => client.request(request).await?,
        })
    }
}

/// Makes the error of a handshake that is answered with another status than 101. A busy server, and a proxy whose server
/// restarts, may open a WebSocket later.
fn without_socket(url: &Url, status: StatusCode) -> Error {
    let sentence = format!("HTTP {status} at {} opens no WebSocket", url.path());
    if status.is_server_error() || [408, 429].contains(&status.as_u16()) {
        return unreachable_at(url, sentence);
    }
    Error::Answer(sentence)
}

/// Makes the error of a request without an answer.
pub(super) fn unreachable_at(url: &Url, source: impl Into<BoxError>) -> Error {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    Error::Unreachable { address: format!("{host}:{port}"), source: source.into() }
}
