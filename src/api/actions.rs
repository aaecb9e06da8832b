//! The dispatch table: every API, and each API's actions with their handlers and schemas.

use std::pin::Pin;

use schemars::{JsonSchema as _, Schema, SchemaGenerator};

use super::openapi::{answers, requests};
use super::request::Request;
use super::{
    availability, blocklist, conversation, friends, login, notification, registration, reports,
    workspace,
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
    /// The token of an invitation in the body.
    Invitation,
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
const REGISTER: Api = chatserver("chatregister", AuthScheme::Invitation, SHORT_BODY);
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
    /// Schema of the body's own fields.
    pub(super) request: fn(&mut SchemaGenerator) -> Schema,
    /// Schema of the answer's own fields.
    pub(super) answer: fn(&mut SchemaGenerator) -> Schema,
}

/// Builds a row of the table from the API, the action's name, the call of its handler, and the types that describe the
/// body and the answer.
macro_rules! action {
    ($api:ident, $name:literal, $module:ident :: $handler:ident ( $($argument:expr),* ), $request:ident => $answer:ident) => {
        Action {
            api: $api,
            name: $name,
            handler: |request| Box::pin($module::$handler(request, $($argument),*)),
            request: requests::$request::json_schema,
            answer: answers::$answer::json_schema,
        }
    };
}

/// Every action that the server supports. A handler can only be reached through this table.
pub const ACTIONS: &[Action] = &[
    action!(LOGIN, "login", login::login(), Login => Login),
    action!(REGISTER, "invitation", registration::show(), Invitation => Invitation),
    action!(REGISTER, "register", registration::register(), Register => Registered),
    action!(FRIENDS, "list", friends::list(), Nothing => Friends),
    action!(FRIENDS, "requests", friends::requests(), Nothing => FriendRequests),
    action!(FRIENDS, "add", friends::add(), Addressee => Nothing),
    action!(FRIENDS, "accept", friends::accept(), FriendId => Nothing),
    action!(FRIENDS, "decline", friends::decline(), FriendId => Nothing),
    action!(FRIENDS, "remove", friends::remove(), FriendId => Nothing),
    action!(BLOCKLIST, "blocklist", blocklist::list(), Nothing => BlockList),
    action!(BLOCKLIST, "block", blocklist::change(true), OtherUser => Nothing),
    action!(BLOCKLIST, "unblock", blocklist::change(false), OtherUser => Nothing),
    action!(CONVERSATION, "list", conversation::list(), List => Conversations),
    action!(CONVERSATION, "show", conversation::show(), Show => OneConversation),
    action!(CONVERSATION, "download", conversation::download(), Download => Page),
    action!(CONVERSATION, "downloadpartial", conversation::download_partial(), DownloadPartial => Page),
    action!(CONVERSATION, "add", conversation::add(), Add => Added),
    action!(CONVERSATION, "clear", conversation::clear(), Clear => OneConversation),
    action!(CONVERSATION, "favorite", conversation::change(Property::Favorite(true)), OneConversation => OneConversation),
    action!(CONVERSATION, "unfavorite", conversation::change(Property::Favorite(false)), OneConversation => OneConversation),
    action!(CONVERSATION, "mute", conversation::change(Property::Muted(true)), OneConversation => OneConversation),
    action!(CONVERSATION, "unmute", conversation::change(Property::Muted(false)), OneConversation => OneConversation),
    action!(CONVERSATION, "setlistitembackgroundcolor", conversation::set_background_color(), SetColor => OneConversation),
    action!(CONVERSATION, "hide", conversation::hide(), Hide => OneConversation),
    action!(CONVERSATION, "unhide", conversation::change(Property::Shown), OneConversation => OneConversation),
    action!(REPORTS, "delivered", reports::report(ReportType::Delivered), Report => Nothing),
    action!(REPORTS, "viewed", reports::report(ReportType::Viewed), Report => Nothing),
    action!(AVAILABILITY, "useravailable", availability::choose(Availability::Available), Nothing => Nothing),
    action!(AVAILABILITY, "useraway", availability::choose(Availability::Away), Nothing => Nothing),
    action!(AVAILABILITY, "userbusy", availability::choose(Availability::Busy), Nothing => Nothing),
    action!(AVAILABILITY, "useroffline", availability::choose(Availability::Offline), Nothing => Nothing),
    action!(NOTIFICATION, "download", notification::download(), Poll => Notification),
    action!(WORKSPACE, "workspaceregister", workspace::register(), Workspace => Nothing),
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
