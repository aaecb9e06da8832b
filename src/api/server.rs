//! Connections: accepts them, bounds them and closes them gracefully.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use metrics::gauge;
use tokio::io::AsyncBufReadExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use super::client::{Connection, Peer};
use super::stream::{ClientStream, Phase, Timeouts};
use crate::app::App;
use crate::error::Error;
use crate::limits::{AddressPermit, MemoryPermit, MemoryUse, Owner};
use crate::listen::{self, Listener, PeerAddress, Socket};
use crate::shutdown::CUT_AFTER;
use crate::tls::{Channel, Tls};

/// Maximum bytes of a request's head. Our clients' heads take about 400 bytes.
const HEAD_BYTES: usize = 16 * 1024;

/// Maximum fields of a request's head.
const HEAD_FIELDS: usize = 64;

/// The answer to a connection above `limits.connections_per_address`. The connection is closed unread.
const TOO_MANY_CONNECTIONS: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\
    Connection: close\r\n\r\n";

/// The answer to plain HTTP where the server speaks TLS.
const SPEAKS_TLS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 32\r\n\
    Connection: close\r\n\r\nthis port speaks TLS: use https\n";

/// First byte of a TLS handshake (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

/// Memory of a handshake: what a client may send before the server answers, and the answer.
const HANDSHAKE_BYTES: usize = 16 * 1024;

/// Delay after a failed accept, which commonly means too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Maximum time for a silent connection to begin its first request once the server closes. It is long enough for a
/// request on its way, and short enough that a connection held in reserve delays no shutdown.
const BEGIN_WITHIN: Duration = Duration::from_millis(500);

/// Interval of the checks for untaken answers, once requests that have not arrived are cut. It leaves time to close the
/// database even if a client does not read.
const TAKE_WITHIN: Duration = Duration::from_secs(2);

/// Limits on the number of connections, and on how slow each may be.
pub(crate) struct Bounds {
    /// Name of the bound on the number of connections, for the log.
    pub(crate) name: &'static str,
    pub(crate) connections: usize,
    /// Whether `limits.connections_per_address` applies.
    pub(crate) per_address: bool,
    pub(crate) timeouts: Timeouts,
}

/// Serves the API until the shutdown closes it. It then answers requests that have arrived. Requests that are still
/// incomplete after [`CUT_AFTER`] are cut.
pub(crate) async fn serve(listener: Listener, tls: Option<Arc<Tls>>, app: Arc<App>) {
    let (http, limits) = (&app.config.http, &app.config.limits);
    let bounds = Bounds {
        name: "limits.connections",
        connections: limits.connections.size(),
        per_address: true,
        timeouts: Timeouts {
            header: http.header_timeout_seconds.duration(),
            keep_alive: http.keep_alive_seconds.duration(),
            write: http.write_timeout_seconds.duration(),
        },
    };
    let server = Arc::new(Server::new(super::router(&app), bounds, tls, Arc::clone(&app)));
    let connections = TaskTracker::new();
    tokio::select! {
        () = server.accept_all(&listener, &connections) => {}
        () = app.shutdown.closing() => {}
    }
    for (stream, peer) in listener.into_backlog() {
        server.spawn(stream, peer, None, &connections);
    }
    connections.close();
    if timeout(CUT_AFTER, connections.wait()).await.is_err() {
        server.cut.cancel();
        connections.wait().await;
    }
    let unread = server.unread.load(Ordering::Relaxed);
    if unread > 0 {
        tracing::warn!(
            connections = unread,
            "connections dropped: their clients did not read the answer"
        );
    }
}

/// Serves a router beside the API until the shutdown closes it. Does not wait for its connections to end.
pub(crate) async fn serve_beside(
    listener: Listener,
    router: Router,
    bounds: Bounds,
    app: Arc<App>,
) {
    let closing = app.shutdown.clone();
    let server = Arc::new(Server::new(router, bounds, None, app));
    let connections = TaskTracker::new();
    tokio::select! {
        () = server.accept_all(&listener, &connections) => {}
        () = closing.closing() => server.cut.cancel(),
    }
}

struct Server {
    router: Router,
    http: http1::Builder,
    bounds: Bounds,
    tls: Option<Arc<Tls>>,
    permits: Arc<Semaphore>,
    /// Cancelled when requests that have not arrived whole are given up.
    cut: CancellationToken,
    /// Connections dropped with an answer that the client did not take.
    unread: AtomicUsize,
    app: Arc<App>,
}

impl Server {
    fn new(router: Router, bounds: Bounds, tls: Option<Arc<Tls>>, app: Arc<App>) -> Self {
        let mut http = http1::Builder::new();
        // `ClientStream` bounds the time of a head.
        http.header_read_timeout(None).max_buf_size(HEAD_BYTES).max_headers(HEAD_FIELDS);
        let (permits, cut) =
            (Arc::new(Semaphore::new(bounds.connections)), CancellationToken::new());
        Self { router, http, bounds, tls, permits, cut, unread: AtomicUsize::new(0), app }
    }

    async fn accept_all(self: &Arc<Self>, listener: &Listener, connections: &TaskTracker) {
        while let Some(permit) = self.permit().await {
            match listener.accept().await {
                Ok((stream, peer)) => self.spawn(stream, peer, Some(permit), connections),
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    /// Waits for a connection permit. Reports the bound as hit if none is free at once.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        self.app.bounds.hit(self.bounds.name);
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    fn spawn(
        self: &Arc<Self>,
        socket: Socket,
        peer: PeerAddress,
        permit: Option<OwnedSemaphorePermit>,
        connections: &TaskTracker,
    ) {
        let peer = Peer::of(&self.app, peer);
        let Ok(counted) = self.count(peer) else {
            // The client may be one of thousands that don't read, so the server does not wait for this write. A client
            // that awaits TLS could not read it.
            if self.tls.is_none() {
                drop(listen::try_write(&socket, TOO_MANY_CONNECTIONS));
            }
            return;
        };
        let connection =
            Connection { peer, _counted: counted.map(Arc::new), received: Arc::default() };
        connections.spawn(Arc::clone(self).connection(socket, connection, permit));
    }

    /// Counts a connection for the network of its client. A trusted proxy's connection is not counted, because each of
    /// its requests counts for the client that it names.
    fn count(&self, peer: Peer) -> Result<Option<AddressPermit>, Error> {
        if !self.bounds.per_address || peer.is_proxy {
            return Ok(None);
        }
        self.app.count_connection(peer.address).map(Some)
    }

    /// Returns a permit for the memory of what arrives before its request is known. A trusted proxy sends the heads of
    /// many clients, so no client owns them.
    fn arriving(&self, peer: Peer) -> MemoryPermit {
        let client = (!peer.is_proxy).then_some(peer.address);
        self.app.memory.permit(Owner { user: None, client }, MemoryUse::Arriving)
    }

    async fn connection(
        self: Arc<Self>,
        socket: Socket,
        connection: Connection,
        _place: Option<OwnedSemaphorePermit>,
    ) {
        let open = gauge!("chatserver_connections");
        open.increment(1);
        self.serve(socket, connection).await;
        open.decrement(1);
    }

    async fn serve(&self, socket: Socket, connection: Connection) {
        // Answers are written whole, so Nagle's algorithm would only delay them.
        if let Either::Left(tcp) = &socket
            && let Err(error) = tcp.set_nodelay(true)
        {
            tracing::debug!(%error, "connection closed before it was served");
            return;
        }
        let Some(stream) = self.begin(socket, connection.peer).await else { return };
        let phase = Phase::idle();
        let (peer, received) = (connection.peer, Arc::clone(&connection.received));
        let memory = self.arriving(peer);
        let stream = ClientStream::new(stream, phase.clone(), self.bounds.timeouts, memory);
        let service = service_fn(|mut request: Request<Incoming>| {
            received.store(false, Ordering::Relaxed);
            phase.begin_request();
            request.extensions_mut().insert(connection.clone());
            let (answering, phase) = (self.router.clone().call(request), phase.clone());
            async move {
                let answer = answering.await;
                if !matches!(&answer, Ok(answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS)
                {
                    phase.end_request();
                }
                answer
            }
        });
        let http = self.http.serve_connection(TokioIo::new(stream), service);
        let mut http = pin!(http.with_upgrades());
        let served = tokio::select! {
            // Polls hyper first, so that a request which arrived before the shutdown begins before it.
            biased;
            served = &mut http => served,
            () = self.app.shutdown.closing() => {
                http.as_mut().graceful_shutdown();
                tokio::select! {
                    served = &mut http => served,
                    () = self.cut.cancelled() => {
                        if phase.is_head() || !received.load(Ordering::Relaxed) {
                            return;
                        }
                        tokio::select! {
                            served = &mut http => served,
                            () = is_not_taken(&phase) => {
                                self.unread.fetch_add(1, Ordering::Relaxed);
                                return;
                            }
                        }
                    }
                }
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, peer = %peer.address, "connection ended early");
        }
    }

    /// Waits for the first byte of a connection, and makes the handshake of TLS. Returns `None` for a connection that
    /// ends.
    ///
    /// hyper must not shut down a connection before it has read from it: it closes the connection at once, with the
    /// request that is already there. So a first byte of the request is there at the end.
    async fn begin(&self, socket: Socket, peer: Peer) -> Option<Channel> {
        let Timeouts { header, keep_alive, .. } = self.bounds.timeouts;
        let first = self.within(keep_alive, listen::first_byte(&socket)).await??;
        let Some(tls) = &self.tls else { return Some(Either::Left(socket)) };
        if first != HANDSHAKE {
            drop(listen::try_write(&socket, SPEAKS_TLS));
            return None;
        }
        let mut memory = self.arriving(peer);
        self.app.resize(&mut memory, HANDSHAKE_BYTES).ok()?;
        let mut channel = self.within(header, tls.handshake(socket)).await??;
        drop(memory);
        if let Either::Right(stream) = &mut channel {
            let first = self.within(keep_alive, stream.fill_buf()).await?;
            if first.is_empty() {
                return None;
            }
        }
        Some(channel)
    }

    /// Waits for what begins a connection. Returns `None` where that fails, takes too long, or goes on for
    /// [`BEGIN_WITHIN`] after the server has closed.
    async fn within<T>(
        &self,
        most: Duration,
        beginning: impl Future<Output = io::Result<T>>,
    ) -> Option<T> {
        let too_late = async {
            self.app.shutdown.closing().await;
            sleep(BEGIN_WITHIN).await;
        };
        tokio::select! {
            biased;
            begun = timeout(most, beginning) => match begun {
                Ok(begun) => begun
                    .inspect_err(|error| tracing::debug!(%error, "connection ended before a request"))
                    .ok(),
                Err(_) => None,
            },
            () = too_late => None,
        }
    }
}

/// Returns when a check, one every [`TAKE_WITHIN`], finds no request in progress: the client has not taken the answer.
async fn is_not_taken(phase: &Phase) {
    loop {
        sleep(TAKE_WITHIN).await;
        if phase.is_answered() {
            return;
        }
    }
}
