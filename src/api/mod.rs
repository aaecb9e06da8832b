//! The HTTP edge: every path, and every action of every API, in one readable table.

mod availability;
mod blocklist;
mod body;
mod caller;
mod client;
mod conversation;
mod friends;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod health;
mod listener;
mod login;
mod notification;
mod observe;
mod reports;
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
use crate::fields;
use crate::id::Parse;
use crate::limits::{AddressPermit, Owner};
use crate::store::{Availability, Property, ReportType};
use crate::users::Caller;
use body::Received;
use envelope::Reply;
use fields::Fields;
use observe::Seen;

pub use health::serve_metrics;
pub use server::serve;

/// The service and the name of an API, as the query of a request carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    /// `srv`
    pub srv: &'static str,
    /// `api`
    pub name: &'static str,
    shows: Shows,
    /// Maximum bytes of a body; `limits.body_bytes` may be less.
    pub max_body: usize,
}

/// Maximum bytes of the body of a login, which carries an API key.
const LOGIN_BODY: usize = 4 * 1024;

/// Maximum bytes of a body whose fields are ids and short texts.
const SHORT_BODY: usize = 16 * 1024;

/// Maximum bytes of a body of 1,000 message IDs.
const REPORTS_BODY: usize = 128 * 1024;

/// What a request of an API must show of who makes it (protocol, section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    /// The API key itself, and a station.
    ApiKey,
    /// A signature, a station and a timestamp.
    Signature,
    /// A signature; a station and a timestamp are optional.
    SignatureAlone,
    /// A station; a signature is optional.
    Station,
}

const LOGIN: Api = chatserver("chatlogin", Shows::ApiKey, LOGIN_BODY);
const FRIENDS: Api = chatserver("chatfriends", Shows::Signature, SHORT_BODY);
const BLOCKLIST: Api = chatserver("chatblocklist", Shows::Signature, SHORT_BODY);
/// Its messages may be as large as `limits.body_bytes` lets them.
const CONVERSATION: Api = chatserver("chatconversation", Shows::Signature, usize::MAX);
const REPORTS: Api = chatserver("chatreports", Shows::Signature, REPORTS_BODY);
const AVAILABILITY: Api = chatserver("chatavailability", Shows::Signature, SHORT_BODY);
const NOTIFICATION: Api = chatserver("chatnotification", Shows::Station, SHORT_BODY);
const WORKSPACE: Api =
    Api { srv: "chatowner", name: "workspace", shows: Shows::SignatureAlone, max_body: SHORT_BODY };

const fn chatserver(name: &'static str, shows: Shows, max_body: usize) -> Api {
    Api { srv: "chatserver", name, shows, max_body }
}

/// One action of an API.
#[derive(Clone, Copy, Debug)]
pub struct Action {
    /// The API.
    pub api: Api,
    /// `action`, in the body.
    pub name: &'static str,
    /// What it does where a signature is demanded. The other two have no choice of actions.
    act: Option<Act>,
}

/// What a signed action does: each has its arm in [`perform`].
#[derive(Clone, Copy, Debug)]
enum Act {
    ListFriends,
    ListRequests,
    AddFriend,
    AcceptFriend,
    DeclineFriend,
    RemoveFriend,
    ListBlocks,
    Block(bool),
    List,
    Download,
    DownloadPartial,
    Add,
    Clear,
    Favorite(bool),
    Mute(bool),
    SetListItemBackgroundColor,
    Hide,
    Unhide,
    Report(ReportType),
    Choose(Availability),
    RegisterWorkspace,
}

/// Every action that the server speaks. There is no other way to reach a handler.
pub const ACTIONS: &[Action] = &[
    Action { api: LOGIN, name: "login", act: None },
    signed(FRIENDS, "list", Act::ListFriends),
    signed(FRIENDS, "requests", Act::ListRequests),
    signed(FRIENDS, "add", Act::AddFriend),
    signed(FRIENDS, "accept", Act::AcceptFriend),
    signed(FRIENDS, "decline", Act::DeclineFriend),
    signed(FRIENDS, "remove", Act::RemoveFriend),
    signed(BLOCKLIST, "blocklist", Act::ListBlocks),
    signed(BLOCKLIST, "block", Act::Block(true)),
    signed(BLOCKLIST, "unblock", Act::Block(false)),
    signed(CONVERSATION, "list", Act::List),
    signed(CONVERSATION, "download", Act::Download),
    signed(CONVERSATION, "downloadpartial", Act::DownloadPartial),
    signed(CONVERSATION, "add", Act::Add),
    signed(CONVERSATION, "clear", Act::Clear),
    signed(CONVERSATION, "favorite", Act::Favorite(true)),
    signed(CONVERSATION, "unfavorite", Act::Favorite(false)),
    signed(CONVERSATION, "mute", Act::Mute(true)),
    signed(CONVERSATION, "unmute", Act::Mute(false)),
    signed(CONVERSATION, "setlistitembackgroundcolor", Act::SetListItemBackgroundColor),
    signed(CONVERSATION, "hide", Act::Hide),
    signed(CONVERSATION, "unhide", Act::Unhide),
    signed(REPORTS, "delivered", Act::Report(ReportType::Delivered)),
    signed(REPORTS, "viewed", Act::Report(ReportType::Viewed)),
    signed(AVAILABILITY, "useravailable", Act::Choose(Availability::Available)),
    signed(AVAILABILITY, "useraway", Act::Choose(Availability::Away)),
    signed(AVAILABILITY, "userbusy", Act::Choose(Availability::Busy)),
    signed(AVAILABILITY, "useroffline", Act::Choose(Availability::Offline)),
    Action { api: NOTIFICATION, name: "download", act: None },
    signed(WORKSPACE, "workspaceregister", Act::RegisterWorkspace),
];

const fn signed(api: Api, name: &'static str, act: Act) -> Action {
    Action { api, name, act: Some(act) }
}

async fn perform(act: Act, app: &App, caller: &Caller, fields: Fields<'_>) -> Result<Reply, Error> {
    match act {
        Act::ListFriends => {
            drop(fields);
            friends::list(app, caller).await
        }
        Act::ListRequests => {
            drop(fields);
            friends::requests(app, caller).await
        }
        Act::AddFriend => friends::add(app, caller, fields).await,
        Act::AcceptFriend => friends::accept(app, caller, fields).await,
        Act::DeclineFriend => friends::decline(app, caller, fields).await,
        Act::RemoveFriend => friends::remove(app, caller, fields).await,
        Act::ListBlocks => {
            drop(fields);
            blocklist::list(app, caller).await
        }
        Act::Block(blocked) => blocklist::change(app, caller, fields, blocked).await,
        Act::List => {
            drop(fields);
            conversation::list(app, caller).await
        }
        Act::Download => conversation::download(app, caller, fields).await,
        Act::DownloadPartial => conversation::download_partial(app, caller, fields).await,
        Act::Add => conversation::add(app, caller, fields).await,
        Act::Clear => conversation::clear(app, caller, fields).await,
        Act::Favorite(favorite) => {
            conversation::change(app, caller, fields, Property::Favorite(favorite)).await
        }
        Act::Mute(muted) => conversation::change(app, caller, fields, Property::Muted(muted)).await,
        Act::SetListItemBackgroundColor => {
            conversation::set_background_color(app, caller, fields).await
        }
        Act::Hide => conversation::hide(app, caller, fields).await,
        Act::Unhide => conversation::change(app, caller, fields, Property::Shown).await,
        Act::Report(report_type) => reports::report(app, caller, fields, report_type).await,
        Act::Choose(chosen) => {
            drop(fields);
            availability::choose(app, caller, chosen).await
        }
        Act::RegisterWorkspace => workspace::register(app, caller, fields).await,
    }
}

/// All routes of the server.
pub fn router(app: &Arc<App>) -> Router {
    let error_status = app.config.http.error_status;
    let mut router = Router::new();
    for path in ["/", "/index.php", "/ozeki/", "/ozeki/index.php"] {
        router = router.route(path, any(call));
    }
    let router = router
        .route("/ws", get(listener::upgrade))
        .route("/ozeki/ws", get(listener::upgrade))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(move |_: Box<dyn std::any::Any + Send>| {
            tracing::error!("a request was ended by a panic");
            let seen = Seen::default().refused(&Error::Internal);
            seen.on(response::refusal(&Error::Internal, error_status))
        }));
    let origins = &app.config.http.cors_origins.0;
    let router = if origins.is_empty() { router } else { router.layer(cors(origins)) };
    router.layer(from_fn_with_state(Arc::clone(app), observe::observe)).with_state(Arc::clone(app))
}

/// What browser clients of these origins may do.
fn cors(origins: &[AllowedOrigin]) -> CorsLayer {
    let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(&origin.0).ok());
    CorsLayer::new()
        .allow_origin(origins.collect::<Vec<_>>())
        .allow_methods([Method::POST])
        .allow_headers([CONTENT_TYPE, caller::STATION, caller::USER, caller::SIGNATURE])
        .expose_headers([observe::REQUEST_ID, RETRY_AFTER])
        .max_age(Duration::from_hours(1))
}

/// Any request to a path of the API.
async fn call(State(app): State<Arc<App>>, request: Request<Body>) -> Response<Body> {
    let error_status = app.config.http.error_status;
    let (head, body) = request.into_parts();
    let mut seen = Seen::default();
    let client = client::address(&head);
    let received = match admit(&app, &head, &mut seen) {
        Ok(admitted) => {
            let received = body::receive(&app, &head, body, admitted.max_body, client).await;
            received.map(|received| (admitted, received))
        }
        Err(error) => Err(body::refuse(&app, &head, body, error).await),
    };
    let answered = match received {
        Ok((admitted, mut received)) => {
            let limit = app.config.http.request_timeout_seconds.duration();
            let answer = answer(&app, &head, admitted.api, &mut received, &mut seen);
            let answered = tokio::time::timeout(limit, answer).await;
            answered.unwrap_or(Err(Error::TimedOut))
        }
        Err(body::Unreceived::Refused(error)) => Err(error),
        Err(body::Unreceived::Late) => return seen.late().on(body::late()),
    };
    let owner = Owner { user: seen.user, client };
    let response = match answered.and_then(|reply| response::success(&app, reply, owner)) {
        Ok(response) => response,
        Err(error) => {
            seen = seen.refused(&error);
            response::refusal(&error, error_status)
        }
    };
    seen.on(response)
}

/// A request whose body may be received.
struct Admitted {
    api: Api,
    max_body: usize,
    /// Counts the request as a connection of a client behind a trusted proxy.
    _counted: Option<AddressPermit>,
}

/// Everything that can be said of a request before its body is read.
fn admit(app: &App, head: &Parts, seen: &mut Seen) -> Result<Admitted, Error> {
    if head.method != Method::POST {
        return Err(Error::MethodNotAllowed { allowed: "POST" });
    }
    let api = api_of(&head.uri).ok_or(Error::UnknownApi)?;
    seen.api = api.name;
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

/// Looks at a request in the order of section 1 of the protocol, and does what it asks for.
async fn answer(
    app: &Arc<App>,
    head: &Parts,
    api: Api,
    received: &mut Received,
    seen: &mut Seen,
) -> Result<Reply, Error> {
    let (body, memory) = received.parts();
    if api.shows == Shows::ApiKey {
        let station = caller::station_of_login(&head.headers)?;
        let fields = Fields::of_body(body)?;
        seen.action = action_of(api, &fields)?.name;
        return login::login(app, head, station, fields, seen).await;
    }
    let (signer, fields) = caller::verify(app, head, api, body, seen).await?;
    app.charge_body(memory, signer.user())?;
    let action = action_of(api, &fields)?;
    if let Some(act) = action.act {
        let caller = signer.caller(app)?;
        let reply = perform(act, app, &caller, fields).await?;
        if let Some(station) = caller.station {
            // What was carried out was a use of its station, which a refusal is not.
            app.station_used_meanwhile(caller.user, station);
        }
        Ok(reply)
    } else {
        let asker = signer.asker(app, body)?;
        notification::download(app, &asker, fields).await
    }
}

fn action_of(api: Api, fields: &Fields<'_>) -> Result<&'static Action, Error> {
    let name: ActionName = fields.required("action")?;
    let actions = || ACTIONS.iter().filter(|action| action.api == api);
    let action = actions().find(|action| action.name == name.0);
    action.ok_or_else(|| {
        let known: Vec<_> = actions().map(|action| action.name).collect();
        Error::UnknownAction { known: known.join(", ") }
    })
}

struct ActionName(String);

impl Parse for ActionName {
    const EXPECTED: &'static str = "the name of an action of this API";

    fn parse(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }
}

async fn no_such_path(State(app): State<Arc<App>>, request: Request<Body>) -> Response<Body> {
    refuse_unread(&app, request, Error::UnknownApi).await
}

async fn wrong_method(State(app): State<Arc<App>>, request: Request<Body>) -> Response<Body> {
    refuse_unread(&app, request, Error::MethodNotAllowed { allowed: "GET" }).await
}

/// Refuses what is no call of the API, whose refusals alone `http.error_status` concerns.
async fn refuse_unread(app: &App, request: Request<Body>, error: Error) -> Response<Body> {
    let (head, body) = request.into_parts();
    let seen = Seen::default().refused(&error);
    match body::refuse(app, &head, body, error).await {
        body::Unreceived::Refused(error) => seen.on(response::refusal(&error, ErrorStatus::Real)),
        body::Unreceived::Late => seen.late().on(body::late()),
    }
}
