//! The HTTP edge: every path, and the way of a request from its first byte to its answer.

mod actions;
mod auth;
mod availability;
mod blocklist;
pub(crate) mod body;
mod client;
mod conversation;
mod friends;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod health;
mod listener;
mod login;
mod notification;
mod observe;
pub(crate) mod openapi;
mod registration;
mod reports;
mod request;
mod response;
mod server;
mod stream;
mod workspace;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{any, get};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::CorsLayer;
use url::form_urlencoded;

use crate::app::App;
use crate::config::{AllowedOrigin, ErrorStatus};
use crate::envelope;
use crate::error::Error;
use crate::limits::{AddressPermit, Owner};
use crate::users::Caller;
use crate::web;
use actions::AuthScheme;
use body::Received;
use envelope::Reply;
use observe::RequestOutcome;

pub use actions::{ACTIONS, Action, Api};

pub(crate) use health::{readiness, refuse_foreign_host, serve_metrics};
pub(crate) use response::status;
pub(crate) use server::{Bounds, serve, serve_beside};
pub(crate) use stream::Timeouts;

/// Returns the server's routes, with the layers that catch panics, answer CORS and observe each request.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let error_status = app.config.http.error_status;
    let mut router = Router::new();
    for path in ["/", "/index.php", "/ozeki/", "/ozeki/index.php"] {
        router = router.route(path, any(call));
    }
    if app.config.http.web.is_on() {
        router = router
            .route("/app", get(async || web::to_client("/app")))
            .route("/app/", get(web_client))
            .route("/app/{*path}", get(web_client));
    }
    let router = router
        .route("/ws", get(listener::upgrade))
        .route("/ozeki/ws", get(listener::upgrade))
        .route("/openapi.json", get(openapi::serve))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(move |_: Box<dyn std::any::Any + Send>| {
            tracing::error!("request ended by a panic");
            let outcome = RequestOutcome::default().refused(&Error::Internal);
            outcome.on(response::refusal(&Error::Internal, error_status))
        }));
    let origins = &app.config.http.cors_origins.0;
    let router = if origins.is_empty() { router } else { router.layer(cors(origins)) };
    router.layer(from_fn_with_state(Arc::clone(app), observe::observe)).with_state(Arc::clone(app))
}

fn cors(origins: &[AllowedOrigin]) -> CorsLayer {
    let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(&origin.0).ok());
    CorsLayer::new()
        .allow_origin(origins.collect::<Vec<_>>())
        .allow_methods([Method::POST])
        .allow_headers([CONTENT_TYPE, auth::STATION, auth::USER, auth::SIGNATURE])
        .expose_headers([observe::REQUEST_ID, RETRY_AFTER])
        .max_age(Duration::from_hours(1))
}

/// Handles any request to a path of the API.
async fn call(State(app): State<Arc<App>>, request: Request<Body>) -> Response<Body> {
    let error_status = app.config.http.error_status;
    let (head, body) = request.into_parts();
    if app.config.http.web.is_on() && web::is_browser(&head.method, &head.headers) {
        return web::to_client(head.uri.path());
    }
    let mut outcome = RequestOutcome::default();
    let client = client::address(&head);
    let received = match admit(&app, &head, &mut outcome) {
        Ok(admitted) => {
            let received = body::receive(&app, &head, body, admitted.max_body, client).await;
            received.map(|received| (admitted, received))
        }
        Err(error) => Err(body::refuse(&app, &head, body, error).await),
    };
    let answered = match received {
        Ok((admitted, mut received)) => {
            let limit = app.config.http.request_timeout_seconds.duration();
            let answer = answer(&app, &head, admitted.api, &mut received, &mut outcome);
            let answered = tokio::time::timeout(limit, answer).await;
            answered.unwrap_or(Err(Error::TimedOut))
        }
        Err(body::Unreceived::Refused(error)) => Err(error),
        Err(body::Unreceived::Late) => return outcome.late().on(body::late()),
    };
    let owner = Owner { user: outcome.user, client };
    let response = match answered.and_then(|reply| response::success(&app, reply, owner)) {
        Ok(response) => response,
        Err(error) => {
            outcome = outcome.refused(&error);
            response::refusal(&error, error_status)
        }
    };
    outcome.on(response)
}

/// A request whose body may be received.
struct Admitted {
    api: Api,
    max_body: usize,
    /// Counts the request as a connection of a client behind a trusted proxy.
    _counted: Option<AddressPermit>,
}

/// Checks all that can be checked before the body is read: method, API, media type, announced length and connections.
fn admit(app: &App, head: &Parts, outcome: &mut RequestOutcome) -> Result<Admitted, Error> {
    if head.method != Method::POST {
        return Err(Error::MethodNotAllowed { allowed: "POST" });
    }
    let api = api_of(&head.uri).ok_or(Error::UnknownApi)?;
    outcome.api = api.name;
    if !is_json(&head.headers) {
        return Err(Error::UnsupportedMediaType);
    }
    let max_body = api.max_body.min(app.config.limits.body_bytes.size());
    body::refuse_announced(&head.headers, max_body)?;
    Ok(Admitted { api, max_body, _counted: client::count_behind_proxy(app, head)? })
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next()).map(str::trim);
    essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"))
}

fn api_of(uri: &Uri) -> Option<Api> {
    let (mut srv, mut name) = (None, None);
    for (key, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        match &*key {
            "srv" => srv = srv.or(Some(value)),
            "api" => name = name.or(Some(value)),
            _ => {}
        }
    }
    let (srv, name) = (srv?, name?);
    let mut apis = ACTIONS.iter().map(|action| action.api);
    apis.find(|api| api.name == name && api.srv == srv)
}

async fn answer(
    app: &Arc<App>,
    head: &Parts,
    api: Api,
    received: &mut Received,
    outcome: &mut RequestOutcome,
) -> Result<Reply, Error> {
    let (action, request) = auth::authenticate(app, head, api, received.parts(), outcome).await?;
    let Caller { user, station, .. } = request.caller;
    let reply = (action.handler)(request).await?;
    // A refused request is not a use of its station. The handler of `AuthScheme::Station` records the use itself.
    if let Some(station) = station
        && api.auth != AuthScheme::Station
    {
        app.station_used_meanwhile(user, station);
    }
    Ok(reply)
}

/// Serves the file of the web client that the path names. No name has a character that is percent-encoded.
async fn web_client(State(app): State<Arc<App>>, request: Request<Body>) -> Response<Body> {
    let name = request.uri().path().strip_prefix("/app/").unwrap_or_default();
    match web::find(name) {
        Some((file, caching)) => file.respond(request.headers(), caching),
        None => refuse_unread(&app, request, Error::UnknownApi).await,
    }
}

async fn no_such_path(State(app): State<Arc<App>>, request: Request<Body>) -> Response<Body> {
    refuse_unread(&app, request, Error::UnknownApi).await
}

async fn wrong_method(State(app): State<Arc<App>>, request: Request<Body>) -> Response<Body> {
    refuse_unread(&app, request, Error::MethodNotAllowed { allowed: "GET" }).await
}

/// Refuses a request that is not a call of the API. `http.error_status` applies to refused calls of the API alone.
async fn refuse_unread(app: &App, request: Request<Body>, error: Error) -> Response<Body> {
    let (head, body) = request.into_parts();
    let outcome = RequestOutcome::default().refused(&error);
    match body::refuse(app, &head, body, error).await {
        body::Unreceived::Refused(error) => {
            outcome.on(response::refusal(&error, ErrorStatus::Real))
        }
        body::Unreceived::Late => outcome.late().on(body::late()),
    }
}
