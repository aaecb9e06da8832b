//! Endpoints for operators and load balancers: liveness, readiness and metrics.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use metrics::counter;
use url::{Host, Url};

use super::client;
use super::server::{self, Bounds};
use super::stream::Timeouts;
use crate::app::App;
use crate::listen::Listener;
use crate::store::{self, NotReady};
use crate::telemetry::{Logging, Metrics};

/// Answers that the process runs, with the address of the client, so that an operator can check the proxy in between.
pub(crate) async fn alive(request: Request) -> Response {
    let (head, _) = request.into_parts();
    let address = client::address(&head).map(|address| [(CLIENT_ADDRESS, address.to_string())]);
    (address, "OK\n").into_response()
}

/// Answers whether the server takes requests, see [`readiness`].
pub(crate) async fn ready(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    readiness(&app).await
}

/// Returns whether the server takes requests: the database answers, changes can be made and the server is not stopping.
pub(crate) async fn readiness(app: &App) -> (StatusCode, &'static str) {
    if app.shutdown.is_stopping() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    }
    if store::is_damaged() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the database is damaged, see the log\n");
    }
    match app.store.ready().await {
        // Stays ready: another server would have no more space, and reads, deletions and logins still work.
        Ok(()) if app.store.is_storage_full() => {
            (StatusCode::OK, "storage_full: what grows the data is refused\n")
        }
        Ok(()) => (StatusCode::OK, "OK\n"),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the store is not ready");
            let body = match error {
                NotReady::Unread(_) => "the store does not answer\n",
                _ => "no change can be made\n",
            };
            (StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

/// The header with the address of the client, as the server sees it.
const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("x-client-address");

/// Limits on the number of scrapes at a time, and on how slow each may be. Further connections wait.
const BOUNDS: Bounds = Bounds {
    name: "connections to http.metrics_listen",
    connections: 64,
    // Health checks must work when API clients have used up the count of their address, which may be the monitor's too.
    per_address: false,
    timeouts: Timeouts {
        header: Duration::from_secs(10),
        keep_alive: Duration::from_secs(75),
        write: Duration::from_secs(30),
    },
};

/// Serves `/metrics`, `/healthz` and `/readyz` until the server closes.
pub(crate) async fn serve_metrics(
    listener: Listener,
    app: Arc<App>,
    metrics: Metrics,
    logging: Arc<Logging>,
) {
    let is_local = listener.address().is_local();
    let measured = Arc::clone(&app);
    let render = move || {
        counter!("chatserver_log_lines_dropped_total").absolute(logging.dropped_lines());
        let text = metrics.render(&measured.store);
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text) }
    };
    let router = Router::new()
        .route("/metrics", get(render))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .with_state(Arc::clone(&app));
    let router = if is_local { router.layer(from_fn(refuse_foreign_host)) } else { router };
    server::serve_beside(listener, router, BOUNDS, app).await;
}

/// Refuses a request whose `Host` is foreign, against DNS rebinding. Otherwise the script of a web page could read what
/// is meant for this machine alone.
pub(crate) async fn refuse_foreign_host(request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).map(|host| host.to_str().unwrap_or_default());
    if host.is_none_or(is_loopback) {
        return next.run(request).await;
    }
    let sentence = "Host must be localhost or a loopback address\n";
    (StatusCode::MISDIRECTED_REQUEST, sentence).into_response()
}

/// Returns whether a value of `Host` is `localhost` or a loopback address.
fn is_loopback(host: &str) -> bool {
    if host.contains(['@', '/', '\\', '?', '#']) {
        return false;
    }
    match Url::parse(&format!("http://{host}/")).as_ref().map(Url::host) {
        Ok(Some(Host::Domain(name))) => name == "localhost",
        Ok(Some(Host::Ipv4(address))) => address.is_loopback(),
        Ok(Some(Host::Ipv6(address))) => address.is_loopback(),
        _ => false,
    }
}
