//! The dispatch table: every API, and each API's actions with their handlers.

use std::pin::Pin;

use super::request::Request;
use super::{
    availability, blocklist, conversation, friends, login, notification, reports, workspace,
};
use crate::domain::{Availability, Parse, Property, ReportType};
use crate::envelope::Reply;
use crate::error::Error;
use crate::fields::Fields;

/// An API: its service and name in the query of a request, its authentication and its body limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    /// The query parameter `srv`.
    pub srv: &'static str,
    /// The query parameter `api`.
    pub name: &'static str,
    pub(super) auth: AuthScheme,
    /// Maximum bytes of a body. The lower of this and `limits.body_bytes` applies.
    pub max_body: usize,
}

/// The way an API authenticates its requests (docs/protocol.md#2-who-calls).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthScheme {
    /// The API key itself, and a station.
    ApiKey,
    /// A signature, a station and a timestamp.
    Signature,
    /// A signature; a station and a timestamp are optional.
    SignatureAlone,
    /// A station; a signature is optional.
    Station,
}

/// Maximum bytes of a login's body, which carries an API key.
const LOGIN_BODY: usize = 4 * 1024;

/// Maximum bytes of a body whose fields are ids and short texts.
const SHORT_BODY: usize = 16 * 1024;

/// Maximum bytes of a body with 1,000 message IDs.
const REPORTS_BODY: usize = 128 * 1024;

const LOGIN: Api = chatserver("chatlogin", AuthScheme::ApiKey, LOGIN_BODY);
const FRIENDS: Api = chatserver("chatfriends", AuthScheme::Signature, SHORT_BODY);
const BLOCKLIST: Api = chatserver("chatblocklist", AuthScheme::Signature, SHORT_BODY);
/// Has no maximum of its own: `limits.body_bytes` bounds its messages.
const CONVERSATION: Api = chatserver("chatconversation", AuthScheme::Signature, usize::MAX);
const REPORTS: Api = chatserver("chatreports", AuthScheme::Signature, REPORTS_BODY);
const AVAILABILITY: Api = chatserver("chatavailability", AuthScheme::Signature, SHORT_BODY);
const NOTIFICATION: Api = chatserver("chatnotification", AuthScheme::Station, SHORT_BODY);
const WORKSPACE: Api = Api {
    srv: "chatowner",
    name: "workspace",
    auth: AuthScheme::SignatureAlone,
    max_body: SHORT_BODY,
};

const fn chatserver(name: &'static str, auth: AuthScheme, max_body: usize) -> Api {
    Api { srv: "chatserver", name, auth, max_body }
}

type Handling<'a> = Pin<Box<dyn Future<Output = Result<Reply, Error>> + Send + 'a>>;

/// An action of an API, and its handler.
#[derive(Clone, Copy, Debug)]
pub struct Action {
    /// The API that the action belongs to.
    pub api: Api,
    /// The value of the body field `action`.
    pub name: &'static str,
    pub(super) handler: for<'a> fn(Request<'a>) -> Handling<'a>,
}

/// Builds a row of the table from the API, the action's name and the call of its handler.
macro_rules! action {
    ($api:ident, $name:literal, $module:ident :: $handler:ident ( $($argument:expr),* )) => {
        Action {
            api: $api,
            name: $name,
            handler: |request| Box::pin($module::$handler(request, $($argument),*)),
        }
    };
}

/// Every action that the server supports. A handler can only be reached through this table.
pub const ACTIONS: &[Action] = &[
    action!(LOGIN, "login", login::login()),
    action!(FRIENDS, "list", friends::list()),
    action!(FRIENDS, "requests", friends::requests()),
    action!(FRIENDS, "add", friends::add()),
    action!(FRIENDS, "accept", friends::accept()),
    action!(FRIENDS, "decline", friends::decline()),
    action!(FRIENDS, "remove", friends::remove()),
    action!(BLOCKLIST, "blocklist", blocklist::list()),
    action!(BLOCKLIST, "block", blocklist::change(true)),
    action!(BLOCKLIST, "unblock", blocklist::change(false)),
    action!(CONVERSATION, "list", conversation::list()),
    action!(CONVERSATION, "show", conversation::show()),
    action!(CONVERSATION, "download", conversation::download()),
    action!(CONVERSATION, "downloadpartial", conversation::download_partial()),
    action!(CONVERSATION, "add", conversation::add()),
    action!(CONVERSATION, "clear", conversation::clear()),
    action!(CONVERSATION, "favorite", conversation::change(Property::Favorite(true))),
    action!(CONVERSATION, "unfavorite", conversation::change(Property::Favorite(false))),
    action!(CONVERSATION, "mute", conversation::change(Property::Muted(true))),
    action!(CONVERSATION, "unmute", conversation::change(Property::Muted(false))),
    action!(CONVERSATION, "setlistitembackgroundcolor", conversation::set_background_color()),
    action!(CONVERSATION, "hide", conversation::hide()),
    action!(CONVERSATION, "unhide", conversation::change(Property::Shown)),
    action!(REPORTS, "delivered", reports::report(ReportType::Delivered)),
    action!(REPORTS, "viewed", reports::report(ReportType::Viewed)),
    action!(AVAILABILITY, "useravailable", availability::choose(Availability::Available)),
    action!(AVAILABILITY, "useraway", availability::choose(Availability::Away)),
    action!(AVAILABILITY, "userbusy", availability::choose(Availability::Busy)),
    action!(AVAILABILITY, "useroffline", availability::choose(Availability::Offline)),
    action!(NOTIFICATION, "download", notification::download()),
    action!(WORKSPACE, "workspaceregister", workspace::register()),
];

/// Returns the action of this API that the body names. The error for an unknown name lists the known ones.
pub(super) fn action_of(api: Api, fields: &Fields<'_>) -> Result<&'static Action, Error> {
    let name: ActionName = fields.required("action")?;
    let actions = || ACTIONS.iter().filter(|action| action.api == api);
    let action = actions().find(|action| action.name == name.0);
    action.ok_or_else(|| {
        let known: Vec<_> = actions().map(|action| action.name).collect();
        Error::UnknownAction { known: known.join(", ") }
    })
}

/// The name of an action. Any text parses: [`action_of`] checks that the API has such an action.
pub(super) struct ActionName(pub(super) String);

impl Parse for ActionName {
    const EXPECTED: &'static str = "the name of an action of this API";

    fn parse(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }
}
