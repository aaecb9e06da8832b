//! Entry points of the HTTP edge for fuzz targets, see [`crate::fuzzing`].

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::actions::{ACTIONS, Action, ActionName};
use super::client::Peer;
use super::{api_of, auth, client, conversation, is_json, registration};
use crate::config::{Config, Limits, Network};
use crate::domain::{
    Color, ConversationId, HideId, Instance, Message, MessageId, Parse, Signature, StationId,
    Timestamp, UserId, WorkspaceName,
};
use crate::error::Error;
use crate::fields::Fields;
use crate::friends::Addressee;
use crate::reports;

static LIMITS: LazyLock<Limits> =
    LazyLock::new(|| Config::load(None, [], &[]).expect("the defaults are right").limits);

/// Reads a body once for each API that has the named action. Returns the names of the APIs and actions whose fields are
/// all well-formed.
#[must_use]
pub fn request(body: &[u8]) -> Vec<&'static str> {
    let Ok(fields) = Fields::of_body(body) else { return Vec::new() };
    let Ok(name) = fields.required::<ActionName>("action") else { return Vec::new() };
    let named = ACTIONS.iter().filter(|action| action.name == name.0);
    let read = named.filter(|action| read(action, &fields).is_ok());
    read.flat_map(|action| [action.api.name, action.name]).collect()
}

/// Reads the fields of an action as its handler does.
fn read(action: &Action, fields: &Fields<'_>) -> Result<(), Error> {
    let user = UserId::parse(&"0".repeat(32)).expect("32 hexadecimal characters");
    fields.optional::<Timestamp>("timestamp")?;
    match (action.api.name, action.name) {
        ("chatlogin", _) => fields.optional::<ActionName>("apikey").map(drop),
        ("chatregister", "invitation") => registration::token(fields).map(drop),
        ("chatregister", _) => {
            registration::token(fields)?;
            registration::new_account(fields).map(drop)
        }
        ("chatnotification", _) => fields.optional_number("ack").map(drop),
        ("chatfriends", "add") => fields.required::<Addressee>("friend").map(drop),
        ("chatfriends", "accept" | "decline" | "remove") => {
            fields.required::<UserId>("friendid").map(drop)
        }
        ("chatblocklist", "block" | "unblock") => fields.required::<UserId>("userid").map(drop),
        ("chatconversation", "download") => {
            conversation::download_fields(&LIMITS, user, fields).map(drop)
        }
        ("chatconversation", "downloadpartial") => {
            conversation::download_partial_fields(&LIMITS, user, fields).map(drop)
        }
        ("chatconversation", "add") => conversation::add_fields(&LIMITS, fields).map(drop),
        ("chatconversation", "list") => fields.flag(conversation::EXTENDED).map(drop),
        ("chatconversation", "show") => conversation::show_fields(fields).map(drop),
        ("chatconversation", _) => {
            fields.required::<ConversationId>("conversationid")?;
            match action.name {
                "clear" => fields.required::<Instance>("instance").map(drop),
                "setlistitembackgroundcolor" => fields.required::<Color>("color").map(drop),
                "hide" => fields.optional::<HideId>("hideid").map(drop),
                _ => Ok(()),
            }
        }
        ("chatreports", _) => {
            fields.required::<ConversationId>("conversationid")?;
            fields.optional::<Instance>("instance")?;
            fields.list::<MessageId>("messageids", reports::MOST).map(drop)
        }
        ("workspace", _) => fields.required::<WorkspaceName>("workspacename").map(drop),
        // The other actions have no fields of their own.
        _ => Ok(()),
    }
}

/// Reads the query of a request from the first line, and one header from each further line. Returns the API's name and
/// the names of the well-formed headers.
#[must_use]
pub fn headers(head: &[u8]) -> Vec<&'static str> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let query = lines.next().unwrap_or_default();
    let mut read = Vec::new();
    if let Ok(uri) = Uri::try_from([b"/?", query].concat()) {
        read.extend(api_of(&uri).map(|api| api.name));
    }
    let headers: HeaderMap = lines.filter_map(header).collect();
    read.extend(is_json(&headers).then_some("content-type"));
    let station = auth::header::<StationId>(&headers, &auth::STATION);
    read.extend(station.is_ok().then_some("ozeki-station"));
    let user = auth::header::<UserId>(&headers, &auth::USER);
    read.extend(user.is_ok().then_some("ozeki-user"));
    let signature = auth::header::<Signature>(&headers, &auth::SIGNATURE);
    read.extend(signature.is_ok().then_some("ozeki-signature"));
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let trusted = ["127.0.0.0/8", "10.0.0.0/8", "::1", "fc00::/7"];
    let trusted: Vec<Network> = trusted.iter().filter_map(|text| Network::parse(text)).collect();
    let is_proxy = trusted.iter().any(|network| network.0.contains(&peer));
    let address = client::behind_proxies(Peer { address: peer, is_proxy }, &headers, &trusted);
    assert_eq!(address, address.to_canonical(), "one client has one address");
    read.extend((address != peer).then_some("x-forwarded-for"));
    read
}

fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = HeaderName::from_bytes(&line[..colon]).ok()?;
    Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
}

/// Reads the JSON of a message that a request embeds as a string. Where the text is a JSON object, reads it as a plain
/// object too, and asserts that both give the same. Returns `message` if it is well-formed.
#[must_use]
pub fn message(text: &[u8]) -> Vec<&'static str> {
    let Ok(text) = str::from_utf8(text) else { return Vec::new() };
    let embedded = read_message(&serde_json::Value::from(text).to_string());
    let is_object = text.starts_with('{') && text.ends_with('}');
    if is_object && serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok() {
        let plain = read_message(text);
        assert_eq!(plain, embedded, "a plain object is read as one in a string");
    }
    if let Ok(message) = &embedded {
        assert!(message.data.len() <= LIMITS.message_bytes.size());
        assert_eq!(Timestamp::parse(&message.created.to_string()), Some(message.created));
    }
    embedded.map(|_| "message").into_iter().collect()
}

fn read_message(value: &str) -> Result<Message, String> {
    let body = format!("{{\"message\":{value}}}");
    let read = |fields| conversation::message(&LIMITS, &fields);
    Fields::of_body(body.as_bytes()).and_then(read).map_err(|error| error.to_string())
}
