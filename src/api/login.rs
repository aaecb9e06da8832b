//! `chatlogin` (protocol, section 2.1).

use std::sync::Arc;

use axum::http::request::Parts;
use serde::Serialize;

use super::envelope::Reply;
use super::fields::Fields;
use super::observe::Seen;
use super::{ACTIONS, caller};
use crate::app::App;
use crate::error::Error;
use crate::id::{Parse, StationId};
use crate::users;

/// Text that is looked up, whatever it looks like: a malformed key is a wrong key.
struct Presented(String);

impl Parse for Presented {
    const EXPECTED: &'static str = "the API key, 64 lower-case hexadecimal characters";

    fn parse(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }
}

/// The listeners that tell a client of changes.
#[derive(Serialize)]
struct Listeners {
    udp: &'static str,
    ws: String,
    wss: String,
}

/// Where each API is reached; empty for one that this server does not serve.
#[derive(Serialize)]
struct Urls {
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

pub async fn login(
    app: &Arc<App>,
    head: &Parts,
    station: StationId,
    fields: Fields<'_>,
    seen: &mut Seen,
) -> Result<Reply, Error> {
    let api_key: Presented = fields.take(|fields| fields.required("apikey"))?;
    let login = users::login(&app.store, &api_key.0).await;
    let login = login.map_err(|error| caller::count_failure(app, head, error))?;
    seen.user = Some(login.user);
    app.charge(login.user)?;
    app.station_used_meanwhile(login.user, station);
    app.presence.sign(login.user);
    Ok(Reply::ok()
        .with("server", &env!("CARGO_PKG_VERSION"))
        .with("listeners", &listeners(app))
        .with("registration", &"false")
        .with("rsakey", &login.private_key)
        .with("userid", &login.user.as_str())
        .with("fullname", &login.full_name)
        .with("nick", &login.nick)
        .with("urls", &urls(app)))
}

/// The listener is beside the API, with the transport of the public URL.
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
