//! Handlers of `chatconversation` (docs/protocol.md#7-actions): conversations, their messages, and how they are listed.

use schemars::JsonSchema;
use serde::Serialize;

use super::request::Request;
use crate::app::App;
use crate::config::Limits;
use crate::conversations;
use crate::domain::{
    Color, ConversationId, Cursor, Data, Direction, HideId, Instance, Kind, Message, MessageId,
    PageForm, PageQuery, Parse, Property, Refusal, Timestamp, UserId,
};
use crate::envelope::Reply;
use crate::error::Error;
use crate::fields::Fields;
use crate::messages;
use crate::store::{AddMessage, ChangeProperty, Clear, WireText, WriteError};
use crate::users::Caller;

/// Entries that `downloadpartial` returns by default.
const LIMIT: u32 = 50;
/// Maximum entries that `downloadpartial` returns.
const LARGEST_LIMIT: u32 = 500;

/// The field that asks for the extended answer (docs/protocol.md#extended-answers-c).
pub(crate) const EXTENDED: &str = "extended";

pub(crate) async fn list(request: Request<'_>) -> Result<Reply, Error> {
    let is_extended = request.fields.take(|fields| fields.flag(EXTENDED))?;
    let (store, user) = (&request.app.store, request.caller.user);
    let conversations = if is_extended {
        store.conversations_with_unread(user).await?
    } else {
        store.conversations(user).await?
    };
    Ok(Reply::ok().with_entries("conversations", &conversations))
}

pub(crate) async fn show(request: Request<'_>) -> Result<Reply, Error> {
    let (conversation, is_extended) = request.fields.take(show_fields)?;
    let (store, user) = (&request.app.store, request.caller.user);
    let object = if is_extended {
        store.conversation_with_unread(conversation, user).await?
    } else {
        store.conversation(conversation, user).await?
    };
    let object = object.ok_or(Refusal::ConversationNotFound)?;
    Ok(Reply::ok().with_written("conversation", &object))
}

pub(crate) fn show_fields(fields: &Fields<'_>) -> Result<(ConversationId, bool), Error> {
    Ok((fields.required("conversationid")?, fields.flag(EXTENDED)?))
}

pub(crate) async fn download(request: Request<'_>) -> Result<Reply, Error> {
    let (app, caller) = (request.app, &request.caller);
    let read = |fields: &_| download_fields(&app.config.limits, caller.user, fields);
    let (query, instance) = request.fields.take(read)?;
    page(app, caller, &query, instance).await
}

pub(crate) fn download_fields(
    limits: &Limits,
    user: UserId,
    fields: &Fields<'_>,
) -> Result<(PageQuery, Option<Instance>), Error> {
    let query = PageQuery {
        conversation: fields.required("conversationid")?,
        user,
        cursor: cursor(fields, "firstmessageid", "firstmessagedate")?,
        report_cursor: cursor(fields, "firstreportid", "firstreportdate")?,
        entries: limits.download_messages.get(),
        bytes: limits.download_bytes.get(),
        direction: Direction::Forward,
        form: form(fields, false)?,
    };
    Ok((query, fields.optional("instance")?))
}

pub(crate) async fn download_partial(request: Request<'_>) -> Result<Reply, Error> {
    let (app, caller) = (request.app, &request.caller);
    let read = |fields: &_| download_partial_fields(&app.config.limits, caller.user, fields);
    let (query, instance) = request.fields.take(read)?;
    page(app, caller, &query, instance).await
}

pub(crate) fn download_partial_fields(
    limits: &Limits,
    user: UserId,
    fields: &Fields<'_>,
) -> Result<(PageQuery, Option<Instance>), Error> {
    let limit = fields.count("limit")?;
    let limit = limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX));
    let is_clients_limit = limit.is_some_and(|limit| limit <= LARGEST_LIMIT);
    let query = PageQuery {
        conversation: fields.required("conversationid")?,
        user,
        cursor: cursor(fields, "lastmessageid", "lastmessagedate")?,
        report_cursor: cursor(fields, "lastreportid", "lastreportdate")?,
        entries: limit.unwrap_or(LIMIT).min(LARGEST_LIMIT),
        bytes: limits.download_bytes.get(),
        direction: Direction::Backward,
        form: form(fields, is_clients_limit)?,
    };
    Ok((query, fields.optional("instance")?))
}

fn form(fields: &Fields<'_>, is_clients_limit: bool) -> Result<PageForm, Error> {
    let extended = PageForm::Extended { is_clients_limit };
    Ok(if fields.flag(EXTENDED)? { extended } else { PageForm::Documented })
}

fn cursor(fields: &Fields<'_>, id: &'static str, date: &'static str) -> Result<Cursor, Error> {
    Ok(Cursor { id: fields.optional(id)?, date: fields.optional(date)? })
}

async fn page(
    app: &App,
    caller: &Caller,
    query: &PageQuery,
    instance: Option<Instance>,
) -> Result<Reply, Error> {
    let admit = |bytes| app.admit_large_read(caller.owner(), bytes);
    let now = app.clock.now();
    let downloaded = messages::download(&app.store, caller, query, instance, now, admit).await?;
    let (page, permit) = downloaded;
    let reply = Reply::ok()
        .holding(permit)
        .with_entries("messages", &page.messages)
        .with_entries("reports", &page.reports);
    Ok(match query.form {
        PageForm::Documented if page.more => reply.with("more", &true),
        PageForm::Documented => reply,
        PageForm::Extended { .. } => {
            let unknown = page.unknown.names();
            let reply =
                if unknown.is_empty() { reply } else { reply.with("unknowncursor", &unknown) };
            reply.with("more", &page.more)
        }
    })
}

/// An added message in the reply to its sender: everything but the data.
#[derive(JsonSchema, Serialize)]
#[schemars(rename = "AddedMessage")]
#[serde(rename_all = "PascalCase")]
pub(super) struct Accepted<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    r#type: &'a str,
    created: String,
    valid_until: &'a str,
}

pub(crate) async fn add(request: Request<'_>) -> Result<Reply, Error> {
    let (app, caller) = (request.app, &request.caller);
    let read = |fields: &_| add_fields(&app.config.limits, fields);
    let (conversation, instance, message) = request.fields.take(read)?;
    let reply = Reply::ok().with(
        "message",
        &Accepted {
            id: message.id.as_str(),
            r#type: &message.kind,
            created: message.created.to_string(),
            valid_until: &message.valid_until,
        },
    );
    let add = AddMessage {
        conversation,
        sender: caller.user,
        station: caller.station,
        instance,
        message,
        now: app.clock.now(),
    };
    match app.store.add_message(add).await {
        Ok(()) => Ok(reply),
        Err(error) => Err(conversations::refused(&app.store, caller, conversation, error).await),
    }
}

pub(crate) fn add_fields(
    limits: &Limits,
    fields: &Fields<'_>,
) -> Result<(ConversationId, Instance, Message), Error> {
    let conversation = fields.required("conversationid")?;
    let instance = fields.required("instance")?;
    Ok((conversation, instance, message(limits, fields)?))
}

/// Reads `message`: an object, or a string that contains one. `message.Data` is at most `limits.message_bytes`.
pub fn message(limits: &Limits, fields: &Fields<'_>) -> Result<Message, Error> {
    let most = limits.message_bytes.size();
    fields.object("message", "message.", |fields| message_fields(&fields, most))
}

/// Reads the five fields of a message. All are strings and required (docs/protocol.md#add).
fn message_fields(fields: &Fields<'_>, most: usize) -> Result<Message, Error> {
    let id: MessageId = fields.required("ID")?;
    let kind: Kind = fields.required("Type")?;
    let created: Timestamp = fields.required("Created")?;
    let valid_until: Until = fields.present("ValidUntil")?;
    let data: Data = fields.present("Data")?;
    let data = data.into_string();
    if data.len() > most {
        return Err(Error::DataTooLarge { bytes: data.len(), limit: most });
    }
    Ok(Message { id, kind: kind.into_string(), created, valid_until: valid_until.0, data })
}

struct Until(String);

impl Parse for Until {
    const EXPECTED: &'static str =
        "a date such as 2024-03-08 14:12:48, in UTC on the 24-hour clock, or the empty string";

    fn parse(text: &str) -> Option<Self> {
        let well_formed = text.is_empty() || Timestamp::parse(text).is_some();
        well_formed.then(|| Self(text.to_owned()))
    }
}

pub(crate) async fn clear(request: Request<'_>) -> Result<Reply, Error> {
    let (conversation, instance) = request.fields.take(|fields| {
        let conversation: ConversationId = fields.required("conversationid")?;
        let instance: Instance = fields.required("instance")?;
        Ok((conversation, instance))
    })?;
    let caller = &request.caller;
    let clear = Clear {
        conversation,
        user: caller.user,
        station: caller.station,
        instance,
        next: Instance::generate(),
    };
    let cleared = request.app.store.write(clear).await;
    changed(request.app, caller, conversation, cleared).await
}

pub(crate) async fn change(request: Request<'_>, property: Property) -> Result<Reply, Error> {
    let conversation = request.fields.take(|fields| fields.required("conversationid"))?;
    let caller = &request.caller;
    let change =
        ChangeProperty { conversation, property, station: caller.station, replay: caller.replay };
    let set = request.app.store.change_property(change).await;
    changed(request.app, caller, conversation, set).await
}

/// Returns the reply to a change of a conversation: the conversation's new state.
async fn changed(
    app: &App,
    caller: &Caller,
    conversation: ConversationId,
    changed: Result<WireText, WriteError>,
) -> Result<Reply, Error> {
    match changed {
        Ok(object) => Ok(Reply::ok().with_written("conversation", &object)),
        Err(error) => Err(conversations::refused(&app.store, caller, conversation, error).await),
    }
}

pub(crate) async fn set_background_color(request: Request<'_>) -> Result<Reply, Error> {
    let color: Color = request.fields.required("color")?;
    change(request, color.into_property()).await
}

pub(crate) async fn hide(request: Request<'_>) -> Result<Reply, Error> {
    let hide_id: Option<HideId> = request.fields.optional("hideid")?;
    change(request, hide_id.map_or(Property::Hidden, HideId::into_property)).await
}
