//! One id, one line of the log and one count for each request.

use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Response};
use axum::middleware::Next;
use tokio::time::Instant;
use uuid::Uuid;

use super::client;
use crate::app::App;
use crate::error::Error;
use crate::id::UserId;
use crate::telemetry;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The name of what is none of the API's own: the label stays within the dispatch table.
const OTHER: &str = "other";

/// What became known of a request on its way.
#[derive(Clone)]
pub struct Seen {
    pub api: &'static str,
    pub action: &'static str,
    pub user: Option<UserId>,
    outcome: &'static str,
    /// Why the store or the server failed. It goes to the log, never to the client.
    cause: Option<String>,
}

impl Default for Seen {
    fn default() -> Self {
        Self { api: OTHER, action: OTHER, user: None, outcome: "ok", cause: None }
    }
}

impl Seen {
    /// The request was refused, or failed.
    pub fn refused(mut self, error: &Error) -> Self {
        self.outcome = error.code();
        self.cause = error.source().map(|source| {
            let deeper = source.source().map(|deeper| format!(": {deeper}"));
            format!("{source}{}", deeper.unwrap_or_default())
        });
        self
    }

    /// The request did not arrive in time.
    pub fn late(mut self) -> Self {
        self.outcome = "late";
        self
    }

    /// Leaves it on the answer, where [`observe`] finds it.
    pub fn on(self, mut response: Response<Body>) -> Response<Body> {
        response.extensions_mut().insert(self);
        response
    }
}

/// The outermost layer: it sees every answer.
pub async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response<Body> {
    let started = Instant::now();
    let id = Uuid::new_v4().hyphenated().to_string();
    let (head, body) = request.into_parts();
    let method = head.method.clone();
    let path = head.uri.path().to_owned();
    let client = client::address(&head, &app.config.http.trusted_proxies.0);
    let mut response = next.run(Request::from_parts(head, body)).await;
    let took = started.elapsed();
    let seen = response.extensions_mut().remove::<Seen>();
    let status = response.status().as_u16();
    if let Some(seen) = seen {
        telemetry::count_request(seen.api, seen.action, seen.outcome, took);
        log(&seen, &id, status, took, client);
    } else {
        tracing::debug!(request = id, %method, path, status, "answered");
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn log(seen: &Seen, id: &str, status: u16, took: Duration, client: Option<IpAddr>) {
    let Seen { api, action, user, outcome, cause } = seen;
    let user = user.as_ref().map(UserId::as_str);
    let client = client.map(tracing::field::display);
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if let Some(cause) = cause {
        tracing::error!(
            request = id,
            client,
            user,
            api,
            action,
            outcome,
            status,
            micros,
            cause,
            "answered"
        );
    } else {
        tracing::info!(
            request = id,
            client,
            user,
            api,
            action,
            outcome,
            status,
            micros,
            "answered"
        );
    }
}
