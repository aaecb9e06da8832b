//! What operators and load balancers ask: is it alive, is it ready, and the metrics.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use metrics::counter;
use tokio::net::TcpListener;
use url::{Host, Url};

use super::server::{self, Bounds};
use super::stream::Timeouts;
use crate::app::App;
use crate::store::NotReady;
use crate::telemetry::{Logging, Metrics};

/// The process runs.
pub async fn alive() -> &'static str {
    "OK\n"
}

/// The server takes requests: the database answers, changes can be made, and it is not stopping.
pub async fn ready(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    if app.shutdown.is_stopping() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    }
    if app.store.is_damaged() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the database is damaged, see the log\n");
    }
    match app.store.ready().await {
        // Another server would have no more space, and reads, deletions and logins go on.
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

/// How many scrapes are served at a time, and how slow they may be. Others wait.
const BOUNDS: Bounds = Bounds {
    name: "connections to http.metrics_listen",
    connections: 64,
    // Health must be seen when the API's clients have used up the count of their address, which may be the monitor's, too.
    per_address: false,
    timeouts: Timeouts {
        header: Duration::from_secs(10),
        keep_alive: Duration::from_secs(75),
        write: Duration::from_secs(30),
    },
};

/// Serves `/metrics`, `/healthz` and `/readyz` until the server closes.
pub async fn serve_metrics(
    listener: TcpListener,
    app: Arc<App>,
    metrics: Metrics,
    logging: Arc<Logging>,
) {
    let is_local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
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

/// Refuses what a page of a browser asks in the name of another host: its script could read what is meant for this
/// machine alone.
async fn refuse_foreign_host(request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).map(|host| host.to_str().unwrap_or_default());
    if host.is_none_or(is_loopback) {
        return next.run(request).await;
    }
    let sentence = "Host must be localhost or a loopback address\n";
    (StatusCode::MISDIRECTED_REQUEST, sentence).into_response()
}

/// Whether a value of `Host` names this machine from within.
fn is_loopback(host: &str) -> bool {
    match Url::parse(&format!("http://{host}/")).as_ref().map(Url::host) {
        Ok(Some(Host::Domain(name))) => name == "localhost",
        Ok(Some(Host::Ipv4(address))) => address.is_loopback(),
        Ok(Some(Host::Ipv6(address))) => address.is_loopback(),
        _ => false,
    }
}
