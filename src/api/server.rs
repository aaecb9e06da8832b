//! Connections: accepting them, bounding them, and letting them end in peace.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use crate::app::App;
use crate::shutdown::CUT_AFTER;

/// The most bytes of the head of a request. Our heads take about 400.
const HEAD_BYTES: usize = 16 * 1024;

/// How long to wait after an accept that failed, commonly because there are too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// How long a connection that is silent when the server closes may take to begin its first request: long
/// enough for one that is on its way, short enough that a connection held in reserve delays nobody.
const BEGIN_WITHIN: Duration = Duration::from_millis(500);

/// What a request knows of its connection.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    /// Whether the request that is being answered has arrived whole.
    received: Arc<AtomicBool>,
}

impl Connection {
    pub(super) fn received(&self) {
        self.received.store(true, Ordering::Relaxed);
    }
}

/// Serves until the shutdown says to close. Then requests that have arrived are answered, and those
/// that have arrived in part are cut when their time is over.
pub async fn serve(listener: TcpListener, app: Arc<App>) {
    let server = Arc::new(Server {
        router: super::router(&app),
        http: http(&app),
        header_timeout: app.config.http.header_timeout_seconds.duration(),
        write_timeout: app.config.http.write_timeout_seconds.duration(),
        cut: CancellationToken::new(),
        app: Arc::clone(&app),
    });
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(app.config.limits.connections.size()));
    let accepting = accept_all(&listener, &server, &connections, &places);
    tokio::select! {
        () = accepting => {}
        () = app.shutdown.closing() => {}
    }
    for (stream, peer) in backlog(listener) {
        connections.spawn(Arc::clone(&server).connection(stream, peer, None));
    }
    connections.close();
    if timeout(CUT_AFTER, connections.wait()).await.is_err() {
        server.cut.cancel();
        connections.wait().await;
    }
}

/// Clients that are connected, as far as they know, but not accepted yet. The operating system is asked
/// itself: the runtime may not have heard of them, and makes a task pause that accepts many.
fn backlog(listener: TcpListener) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
    let listener = listener.into_std().ok();
    std::iter::from_fn(move || {
        loop {
            match listener.as_ref()?.accept() {
                Ok((stream, peer)) => {
                    stream.set_nonblocking(true).ok()?;
                    return Some((TcpStream::from_std(stream).ok()?, peer));
                }
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(_) => return None,
            }
        }
    })
}

async fn accept_all(
    listener: &TcpListener,
    server: &Arc<Server>,
    connections: &TaskTracker,
    places: &Arc<Semaphore>,
) {
    while let Ok(place) = Arc::clone(places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let connection = Arc::clone(server).connection(stream, peer, Some(place));
                connections.spawn(connection);
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

fn http(app: &App) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(app.config.http.header_timeout_seconds.duration())
        .max_buf_size(HEAD_BYTES);
    http
}

struct Server {
    router: Router,
    http: http1::Builder,
    header_timeout: Duration,
    write_timeout: Duration,
    /// Cancelled when requests that have not arrived whole are given up.
    cut: CancellationToken,
    app: Arc<App>,
}

impl Server {
    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        _place: Option<OwnedSemaphorePermit>,
    ) {
        let open = gauge!("chatserver_connections");
        open.increment(1);
        self.serve(stream, peer).await;
        open.decrement(1);
    }

    async fn serve(&self, stream: TcpStream, peer: SocketAddr) {
        // Answers are written whole: waiting for more to send would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before it was served");
            return;
        }
        if !self.speaks(&stream).await {
            return;
        }
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.write_timeout));
        let received = Arc::new(AtomicBool::new(false));
        let connection = Connection { peer, received: Arc::clone(&received) };
        let service = service_fn(|mut request: Request<Incoming>| {
            received.store(false, Ordering::Relaxed);
            request.extensions_mut().insert(connection.clone());
            self.router.clone().call(request)
        });
        let http = self.http.serve_connection(TokioIo::new(Box::pin(stream)), service);
        let mut http = pin!(http.with_upgrades());
        let served = tokio::select! {
            // A request that has come before the end is begun before the end.
            biased;
            served = &mut http => served,
            () = self.app.shutdown.closing() => {
                http.as_mut().graceful_shutdown();
                tokio::select! {
                    served = &mut http => served,
                    () = self.cut.cancelled() => {
                        if !received.load(Ordering::Relaxed) {
                            return;
                        }
                        http.await
                    }
                }
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, %peer, "a connection ended early");
        }
    }

    /// Waits for the first byte. hyper must not be asked to end a connection of which it has read
    /// nothing: it closes it at once, with the request that is already there.
    async fn speaks(&self, stream: &TcpStream) -> bool {
        let first_byte = timeout(self.header_timeout, async { stream.peek(&mut [0]).await });
        let too_late = async {
            self.app.shutdown.closing().await;
            sleep(BEGIN_WITHIN).await;
        };
        tokio::select! {
            biased;
            first_byte = first_byte => matches!(first_byte, Ok(Ok(1))),
            () = too_late => false,
        }
    }
}
