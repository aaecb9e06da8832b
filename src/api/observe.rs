//! Gives each request one id, one log line and one count.

use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Response, Uri};
use axum::middleware::Next;
use tokio::time::Instant;
use uuid::Uuid;

use super::client;
use crate::app::App;
use crate::domain::UserId;
use crate::error::Error;
use crate::telemetry;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Label for unknown APIs and actions. It bounds the metrics' cardinality to the dispatch table.
const OTHER: &str = "other";

/// The outcome of a request, for the log and the metrics.
#[derive(Clone)]
pub(crate) struct RequestOutcome {
    pub(crate) api: &'static str,
    pub(crate) action: &'static str,
    pub(crate) user: Option<UserId>,
    outcome: &'static str,
    /// The cause of a failure of the store or the server. It is logged, never sent to the client.
    cause: Option<String>,
}

impl Default for RequestOutcome {
    fn default() -> Self {
        Self { api: OTHER, action: OTHER, user: None, outcome: "ok", cause: None }
    }
}

impl RequestOutcome {
    /// Returns the outcome `ok` for this API and action.
    pub(crate) fn of(api: &'static str, action: &'static str) -> Self {
        Self { api, action, ..Self::default() }
    }

    /// Records a refusal or failure: its code, and up to two levels of its cause.
    pub(crate) fn refused(mut self, error: &Error) -> Self {
        self.outcome = error.code();
        self.cause = error.source().map(|source| {
            let deeper = source.source().map(|deeper| format!(": {deeper}"));
            format!("{source}{}", deeper.unwrap_or_default())
        });
        self
    }

    /// Records that the body did not arrive in time.
    pub(crate) fn late(mut self) -> Self {
        self.outcome = "late";
        self
    }

    /// Attaches the outcome to the answer, where [`observe`] finds it.
    pub(crate) fn on(self, mut response: Response<Body>) -> Response<Body> {
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives a request its id, and logs and counts its outcome. As the outermost layer it sees every answer.
pub(crate) async fn observe(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    client::find(&mut head, &app.config.http.trusted_proxies.0);
    let mut request = Observed {
        id: Uuid::new_v4().hyphenated().to_string(),
        started: Instant::now(),
        client: client::address(&head),
        uri: head.uri.clone(),
        answered: false,
    };
    let mut response = next.run(Request::from_parts(head, body)).await;
    request.answered = true;
    let status = response.status().as_u16();
    if let Some(outcome) = response.extensions_mut().remove::<RequestOutcome>() {
        request.log(&outcome, Some(status));
    } else {
        tracing::debug!(request = request.id, uri = %request.uri, status, "answered");
    }
    if let Ok(id) = HeaderValue::from_str(&request.id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// A request in progress. Dropping it unanswered logs that the client went away. That ends the work on the request, but
/// not a change that has begun, so the log must show the request.
struct Observed {
    id: String,
    started: Instant,
    client: Option<IpAddr>,
    uri: Uri,
    answered: bool,
}

impl Drop for Observed {
    fn drop(&mut self) {
        if !self.answered {
            let api = super::api_of(&self.uri).map_or(OTHER, |api| api.name);
            self.log(&RequestOutcome { api, outcome: "gone", ..RequestOutcome::default() }, None);
        }
    }
}

impl Observed {
    fn log(&self, outcome: &RequestOutcome, status: Option<u16>) {
        let RequestOutcome { api, action, user, outcome, cause } = outcome;
        let took = self.started.elapsed();
        telemetry::count_request(api, action, outcome, took);
        let (id, user) = (&self.id, user.as_ref().map(UserId::as_str));
        let client = self.client.map(tracing::field::display);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(cause) = cause {
            tracing::error!(request = id, api, action, outcome, cause, "request failed");
        }
        let told = if status.is_some() { "answered" } else { "the client went away" };
        tracing::info!(request = id, client, user, api, action, outcome, status, micros, "{told}");
    }
}
