//! The dispatch table: every API, and every action of each with its handler.

use std::pin::Pin;
use std::sync::Arc;

use super::{
    availability, blocklist, conversation, friends, login, notification, reports, workspace,
};
use crate::app::App;
use crate::domain::{Availability, Parse, Property, ReportType};
use crate::envelope::Reply;
use crate::error::Error;
use crate::fields::Fields;
use crate::users::Caller;

/// The service and the name of an API, as the query of a request carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    /// `srv`
    pub srv: &'static str,
    /// `api`
    pub name: &'static str,
    pub(super) auth: AuthScheme,
    /// Maximum bytes of a body; `limits.body_bytes` may be less.
    pub max_body: usize,
}

/// How requests of an API are authenticated (docs/protocol.md#2-who-calls).
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

/// Maximum bytes of the body of a login, which carries an API key.
const LOGIN_BODY: usize = 4 * 1024;

/// Maximum bytes of a body whose fields are ids and short texts.
const SHORT_BODY: usize = 16 * 1024;

/// Maximum bytes of a body of 1,000 message IDs.
const REPORTS_BODY: usize = 128 * 1024;

const LOGIN: Api = chatserver("chatlogin", AuthScheme::ApiKey, LOGIN_BODY);
const FRIENDS: Api = chatserver("chatfriends", AuthScheme::Signature, SHORT_BODY);
const BLOCKLIST: Api = chatserver("chatblocklist", AuthScheme::Signature, SHORT_BODY);
/// Its messages may be as large as `limits.body_bytes` lets them.
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

/// An authenticated request, and all that its handler may use.
pub(super) struct Request<'a> {
    pub(super) app: &'a Arc<App>,
    pub(super) caller: Caller,
    /// A handler takes what it needs of them before it awaits anything.
    pub(super) fields: Fields<'a>,
}

type Handling<'a> = Pin<Box<dyn Future<Output = Result<Reply, Error>> + Send + 'a>>;

/// One action of an API.
#[derive(Clone, Copy, Debug)]
pub struct Action {
    /// The API.
    pub api: Api,
    /// `action`, in the body.
    pub name: &'static str,
    pub(super) handler: for<'a> fn(Request<'a>) -> Handling<'a>,
}

/// A row of the table: the API, the name of the action, and the call of its handler.
macro_rules! action {
    ($api:ident, $name:literal, $module:ident :: $handler:ident ( $($argument:expr),* )) => {
        Action {
            api: $api,
            name: $name,
            handler: |request| Box::pin($module::$handler(request, $($argument),*)),
        }
    };
}

/// Every action that the server speaks. There is no other way to reach a handler.
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

/// The action of this API that a body names.
pub(super) fn action_of(api: Api, fields: &Fields<'_>) -> Result<&'static Action, Error> {
    let name: ActionName = fields.required("action")?;
    let actions = || ACTIONS.iter().filter(|action| action.api == api);
    let action = actions().find(|action| action.name == name.0);
    action.ok_or_else(|| {
        let known: Vec<_> = actions().map(|action| action.name).collect();
        Error::UnknownAction { known: known.join(", ") }
    })
}

/// Any text: whether an API has the action is looked up in the table.
pub(super) struct ActionName(pub(super) String);

impl Parse for ActionName {
    const EXPECTED: &'static str = "the name of an action of this API";

    fn parse(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }
}
