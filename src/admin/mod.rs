//! The admin page: what an operator sees and changes in a browser, on an address that only this machine reaches.
//!
//! `chatserver admin link` prints a link that works once (`admin_links.rs`). It opens a session in the memory of this process
//! ([`session`]). A handler of a page takes an [`Operator`](session::Operator), a handler of a change takes a [`Form`](form::Form). Nothing
//! else makes these, so a handler can't forget to check. The page needs no JavaScript, and its policy allows none.

mod audit;
mod chart;
mod entry;
mod field;
mod figures;
mod form;
mod health;
mod invitations;
mod page;
mod problem;
mod retention;
mod session;
mod table;
mod usage;
mod user_changes;
mod users;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tower_http::catch_panic::CatchPanicLayer;

use crate::api::{self, Bounds, Timeouts};
use crate::app::App;
use crate::limits::Rates;
use crate::listen::Listener;
use problem::Problem;
use session::Sessions;

const STYLE: &str = include_str!("admin.css");

const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; \
     frame-ancestors 'none'; base-uri 'none'";

/// Headers of every answer.
///
/// The referrer policy is not `no-referrer`: with that, a browser sends `Origin: null` with each form, and the check of
/// the origin could not tell the page's own forms. The page links nowhere else, so no other site gets a referrer.
const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "same-origin"),
    (CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Maximum wrong links that are answered as such each minute. A token has 160 bits, so the bound keeps the log short
/// rather than guesses out.
const WRONG_LINKS_PER_MINUTE: u32 = 10;

/// A browser opens some six connections.
const CONNECTIONS: usize = 64;

/// Maximum time in which a connection sends nothing. Other programs of this machine can open all connections; they can't keep
/// an operator out for longer than that.
const IDLE: Duration = Duration::from_secs(5);

/// Maximum large reads at a time: exports, searches and sums. Each takes a reader that clients could use, and some memory.
const LARGE_READS: usize = 2;

/// State that the requests of the admin page share.
struct Admin {
    app: Arc<App>,
    sessions: Sessions,
    wrong_links: Rates<()>,
    turns: Arc<Semaphore>,
    /// The monotonic clock when the page was first served.
    started: Duration,
}

impl Admin {
    fn new(app: Arc<App>) -> Self {
        Self {
            started: app.clock.read().monotonic,
            sessions: Sessions::new(app.clock.clone()),
            wrong_links: Rates::per_minute(WRONG_LINKS_PER_MINUTE),
            turns: Arc::new(Semaphore::new(LARGE_READS)),
            app,
        }
    }

    /// Takes a turn at reading much. Dropping it ends the turn.
    fn turn(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.turns).try_acquire_owned().map_err(|_| {
            let sentence =
                "Other large reads of the admin page are running. Try again when they have ended.";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, sentence)
        })
    }
}

/// Serves the admin page until the server closes.
///
/// On an address, a `Host` that is not of this machine is refused, against DNS rebinding. On a Unix socket any `Host` is
/// served: no web page can connect to it. A browser reaches it through a forwarded port, or through a proxy that
/// may have a name of its own. A page that rebinds its name to the forwarded port gets no cookie, because cookies belong
/// to a host.
pub(crate) async fn serve(listener: Listener, app: Arc<App>) {
    let http = &app.config.http;
    let bounds = Bounds {
        name: "connections to admin.listen",
        connections: CONNECTIONS,
        // An operator gets in when clients have used up the count of their address.
        per_address: false,
        timeouts: Timeouts {
            header: http.header_timeout_seconds.duration().min(IDLE),
            keep_alive: http.keep_alive_seconds.duration().min(IDLE),
            write: http.write_timeout_seconds.duration(),
        },
    };
    let router = router(&Arc::new(Admin::new(Arc::clone(&app))));
    let router = match listener.address().ip() {
        Some(_) => router.layer(from_fn(api::refuse_foreign_host)),
        None => router,
    };
    let router = router.layer(map_response(with_headers));
    api::serve_beside(listener, router, bounds, app).await;
}

fn router(admin: &Arc<Admin>) -> Router {
    Router::new()
        .route("/", get(health::show))
        .route("/admin.css", get(async || ([(CONTENT_TYPE, "text/css; charset=utf-8")], STYLE)))
        .route("/enter", get(entry::offer).post(entry::enter))
        .route("/leave", post(entry::leave))
        .route("/audit", get(audit::list))
        .route("/users", get(users::list))
        .route("/users/{id}", get(users::show))
        .route("/users/{id}/disable", post(user_changes::disable))
        .route("/users/{id}/enable", post(user_changes::enable))
        .route("/users/{id}/export", post(user_changes::export))
        .route("/users/{id}/delete", get(user_changes::confirm).post(user_changes::delete))
        .route("/users/{id}/stations/revoke", post(users::revoke_station))
        .route("/invitations", get(invitations::list).post(invitations::invite))
        .route("/invitations/revoke", post(invitations::revoke))
        .route("/usage", get(usage::show))
        .route("/retention", get(retention::show))
        .route("/retention/preview", post(retention::preview))
        .route("/retention/rule", post(retention::set_rule))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "There is no such page."))
        .method_not_allowed_fallback(async || {
            let sentence = "This address takes another method.";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, sentence)
        })
        .layer(from_fn_with_state(Arc::clone(admin), in_time))
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            tracing::error!("request of the admin page ended by a panic");
            let sentence = "The server has a defect; its log has the cause.";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, sentence).into_response()
        }))
        .with_state(Arc::clone(admin))
}

/// Bounds the time for the body and for the work.
async fn in_time(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let http = &admin.app.config.http;
    let most = http.body_timeout_seconds.duration() + http.request_timeout_seconds.duration();
    timeout(most, next.run(request)).await.unwrap_or_else(|_| {
        let sentence = "The server did not finish in time. A change may still be made.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, sentence).into_response()
    })
}

async fn with_headers(mut response: Response) -> Response {
    if response.status().is_client_error() {
        // A refused program keeps no connection.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
