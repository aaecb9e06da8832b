//! What operators and load balancers ask: is it alive, is it ready, and the metrics.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use metrics::{counter, gauge};
use tokio::net::TcpListener;

use crate::app::App;
use crate::telemetry::{Logging, Metrics};

/// The process runs.
pub async fn alive() -> &'static str {
    "OK\n"
}

/// The server takes requests: the store answers, and it is not stopping.
pub async fn ready(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    if app.shutdown.is_stopping() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    }
    match app.store.ping().await {
        Ok(()) => (StatusCode::OK, "OK\n"),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the store is not ready");
            (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n")
        }
    }
}

/// Serves `GET /metrics` until the server closes.
///
/// # Errors
///
/// Where the listener fails.
pub async fn serve_metrics(
    listener: TcpListener,
    app: Arc<App>,
    metrics: Metrics,
    logging: Arc<Logging>,
) -> std::io::Result<()> {
    let closing = app.shutdown.clone();
    let render = move || {
        gauge!("chatserver_store_queue_depth").set(number(app.store.queue_depth()));
        counter!("chatserver_log_lines_dropped_total").absolute(logging.dropped_lines());
        let text = metrics.render();
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text) }
    };
    let router = Router::new().route("/metrics", get(render));
    // Nobody waits for a scrape that has not arrived when the server closes.
    tokio::select! {
        served = axum::serve(listener, router).into_future() => served,
        () = closing.closing() => Ok(()),
    }
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
