//! Handler of `chatlogin` (docs/protocol.md#4-login): the user's private key and names, and the URLs of all APIs.

use schemars::JsonSchema;
use serde::Serialize;

use super::actions::ACTIONS;
use super::request::Request;
use crate::app::App;
use crate::envelope::Reply;
use crate::error::Error;

/// The URLs of the listeners that notify clients of changes. An empty one is not offered.
#[derive(JsonSchema, Serialize)]
pub(super) struct Listeners {
    udp: &'static str,
    ws: String,
    wss: String,
}

/// The URL of each API, empty for an API that this server does not serve.
#[derive(JsonSchema, Serialize)]
pub(super) struct Urls {
    login: String,
    availability: String,
    conversation: String,
    conversationgroup: String,
    blocklist: String,
    fileserver: String,
    friends: String,
    notification: String,
    reports: String,
    workspace: String,
}

pub(crate) async fn login(request: Request<'_>) -> Result<Reply, Error> {
    drop(request.fields);
    let (app, user) = (request.app, request.caller.user);
    // A user may have been disabled since the key was looked up.
    let login = app.store.login(user).await?.ok_or(Error::InvalidCredentials)?;
    Ok(Reply::ok()
        .with("server", &env!("CARGO_PKG_VERSION"))
        .with("listeners", &listeners(app))
        .with("registration", &"false")
        .with("rsakey", &login.private_key)
        .with("userid", &user.as_str())
        .with("fullname", &login.full_name)
        .with("nick", &login.nick)
        .with("urls", &urls(app)))
}

/// Returns the listener's URL. It is beside the API and uses the transport of the public URL.
fn listeners(app: &App) -> Listeners {
    let mut url = app.public_url.join("ws").unwrap_or_else(|_| app.public_url.clone());
    let is_secure = url.scheme() == "https";
    let changed = url.set_scheme(if is_secure { "wss" } else { "ws" });
    changed.expect("an http URL may become one of a WebSocket");
    let (ws, wss) =
        if is_secure { (String::new(), url.into()) } else { (url.into(), String::new()) };
    Listeners { udp: "", ws, wss }
}

fn urls(app: &App) -> Urls {
    let chatserver = |name| url(app, "chatserver", name);
    Urls {
        login: chatserver("chatlogin"),
        availability: chatserver("chatavailability"),
        conversation: chatserver("chatconversation"),
        conversationgroup: chatserver("chatconversationgroup"),
        blocklist: chatserver("chatblocklist"),
        fileserver: chatserver("chatfileserver"),
        friends: chatserver("chatfriends"),
        notification: chatserver("chatnotification"),
        reports: chatserver("chatreports"),
        workspace: url(app, "chatowner", "workspace"),
    }
}

fn url(app: &App, srv: &str, name: &str) -> String {
    let is_served = ACTIONS.iter().any(|action| action.api.srv == srv && action.api.name == name);
    if is_served { format!("{}?srv={srv}&api={name}", app.public_url) } else { String::new() }
}
