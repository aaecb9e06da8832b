//! The message of a refusal names the field and says what is expected.

use std::collections::BTreeSet;

use chatserver::api::{ACTIONS, Action};
use serde_json::{Value, json};

use super::{Stage, fields_of, user_actions};
use crate::harness::process::Workplace;

/// A field, the description of its values, and a value of the right type that it refuses.
struct Field {
    name: &'static str,
    expected: &'static str,
    wrong: &'static str,
    actions: &'static [&'static str],
    is_required: bool,
}

const HEX: &str = "32 lower-case hexadecimal characters";
const DATE: &str = "a date such as 2024-03-08 14:12:48, in UTC on the 24-hour clock";
const MESSAGE_ID: &str = "1 to 64 characters of A-Z, a-z, 0-9 and -";
const INSTANCE: &str = "10 characters of A-Z, a-z and 0-9";
const WITH_CONVERSATION: &[&str] = &[
    "show",
    "download",
    "downloadpartial",
    "add",
    "clear",
    "favorite",
    "unfavorite",
    "mute",
    "unmute",
    "setlistitembackgroundcolor",
    "hide",
    "unhide",
    "chatreports/delivered",
    "chatreports/viewed",
];

const fn required(
    name: &'static str,
    expected: &'static str,
    wrong: &'static str,
    actions: &'static [&'static str],
) -> Field {
    Field { name, expected, wrong, actions, is_required: true }
}

const fn optional(
    name: &'static str,
    expected: &'static str,
    wrong: &'static str,
    actions: &'static [&'static str],
) -> Field {
    Field { name, expected, wrong, actions, is_required: false }
}

const FIELDS: &[Field] = &[
    required("conversationid", HEX, "8CA16186C36A4E0A1EF2096E6C60B613", WITH_CONVERSATION),
    required("instance", INSTANCE, "PqjfKSn7V", &["add", "clear"]),
    optional(
        "instance",
        INSTANCE,
        "PqjfKSn7V88",
        &["download", "downloadpartial", "chatreports/delivered", "chatreports/viewed"],
    ),
    required("color", "a colour such as #bae1ff", "bae1ff", &["setlistitembackgroundcolor"]),
    optional("hideid", "at most 256 bytes without control characters", "a\nb", &["hide"]),
    optional("firstmessageid", MESSAGE_ID, "a b", &["download"]),
    optional("firstmessagedate", DATE, "2024-03-08", &["download"]),
    optional("firstreportid", MESSAGE_ID, "a_b", &["download"]),
    optional("firstreportdate", DATE, "2024-03-08T14:12:48", &["download"]),
    optional("lastmessageid", MESSAGE_ID, "é", &["downloadpartial"]),
    optional("lastmessagedate", DATE, "2024-02-30 00:00:00", &["downloadpartial"]),
    optional("lastreportid", MESSAGE_ID, "{}", &["downloadpartial"]),
    optional("lastreportdate", DATE, "2024-03-08 24:00:00", &["downloadpartial"]),
    required("message.ID", MESSAGE_ID, "", &["add"]),
    required("message.Type", "1 to 32 characters, none a control character", "\u{7f}", &["add"]),
    required("message.Created", DATE, "+10000-01-01 00:00:00", &["add"]),
    required(
        "message.ValidUntil",
        "a date such as 2024-03-08 14:12:48, in UTC on the 24-hour clock, or the empty string",
        " ",
        &["add"],
    ),
    required("message.Data", "padded standard base64 (RFC 4648, section 4)", "AA=A", &["add"]),
    required(
        "friend",
        "the e-mail address or the user id of another user",
        "carol",
        &["chatfriends/add"],
    ),
    required(
        "workspacename",
        "a DNS name such as alice.ozeki.chat: at most 253 bytes, at least two labels, \
         each 1 to 63 of A-Z, a-z, 0-9 and -, without - at its ends",
        "alice-.ozeki.chat",
        &["workspace/workspaceregister"],
    ),
    required("userid", HEX, "bob@example.com", &["chatblocklist/block", "chatblocklist/unblock"]),
    required(
        "friendid",
        HEX,
        "carol@example.com",
        &["chatfriends/accept", "chatfriends/decline", "chatfriends/remove"],
    ),
];

/// Sets a field, or removes it if `value` is `None`.
fn put(body: &mut Value, name: &str, value: Option<Value>) {
    let (object, name) = match name.split_once('.') {
        Some((outer, name)) => (&mut body[outer], name),
        None => (body, name),
    };
    match value {
        Some(value) => object[name] = value,
        None => drop(object.as_object_mut().unwrap().remove(name)),
    }
}

/// Returns the action of this name. Its API is `chatconversation` unless the name has an API as its prefix.
fn action(name: &str) -> &'static Action {
    let (api, name) = name.split_once('/').unwrap_or(("chatconversation", name));
    ACTIONS.iter().find(|action| (action.api.name, action.name) == (api, name)).unwrap()
}

async fn said(stage: &Stage, name_of_action: &str, name: &str, value: Option<Value>) -> Value {
    let action = action(name_of_action);
    let mut body = stage.right(action).await;
    put(&mut body, name, value);
    let refused =
        stage.prepares(action, body.to_string()).sent().await.refused(400, "invalid_field");
    refused["errormessage"].clone()
}

#[tokio::test]
async fn refusals_name_each_field_of_each_action_and_what_it_must_be() {
    let stage = Stage::set().await;
    let before = stage.everything().await;
    for Field { name, expected, wrong, actions, is_required } in FIELDS {
        for action in *actions {
            let missing = format!("{name} is missing; it must be {expected}");
            let malformed = format!("{name} must be {expected}");
            let of_another_type = format!("{name} must be a string: {expected}");
            if *is_required {
                assert_eq!(said(&stage, action, name, None).await, missing);
                assert_eq!(said(&stage, action, name, Some(Value::Null)).await, missing);
            }
            let is_missing = wrong.is_empty();
            let expected = if is_missing { &missing } else { &malformed };
            assert_eq!(said(&stage, action, name, Some(json!(wrong))).await, *expected);
            for value in [json!(1), json!(true), json!([]), json!({})] {
                assert_eq!(said(&stage, action, name, Some(value)).await, of_another_type);
            }
        }
    }
    Stage::assert_unchanged(&before, &stage.everything().await, "a wrong field");
}

#[tokio::test]
async fn refusals_name_action_timestamp_message_limit_and_key_and_what_they_must_be() {
    let stage = Stage::set().await;
    let count = "a whole number of at least 1";
    let number = "a whole number of at least 0";
    let fraction = "it is written with a fraction or an exponent, and must be digits alone";
    let object = "a JSON object or a string that contains one";
    let key = "the API key, 64 lower-case hexadecimal characters";
    for (action, name, value, sentence) in [
        ("list", "action", None, "is missing; it must be the name of an action of this API"),
        (
            "list",
            "action",
            Some(json!("")),
            "is missing; it must be the name of an action of this API",
        ),
        ("list", "action", Some(json!(1)), "must be a string: the name of an action of this API"),
        ("list", "timestamp", None, &format!("is missing; it must be {DATE}")),
        ("list", "timestamp", Some(json!("now")), &format!("must be {DATE}")),
        ("list", "timestamp", Some(json!(1_709_907_168)), &format!("must be a string: {DATE}")),
        ("add", "message", None, &format!("is missing; it must be {object}")),
        ("add", "message", Some(json!([])), &format!("must be {object}")),
        ("add", "message", Some(json!(1)), &format!("must be {object}")),
        ("downloadpartial", "limit", Some(json!(0)), &format!("must be {count}")),
        ("downloadpartial", "limit", Some(json!(-1)), &format!("must be {count}")),
        ("downloadpartial", "limit", Some(json!(2.0)), &format!("must be {count}; {fraction}")),
        (
            "downloadpartial",
            "limit",
            Some(json!("50")),
            &format!("must be {count}; it is a string"),
        ),
        ("chatnotification/download", "ack", Some(json!(-1)), &format!("must be {number}")),
        (
            "chatnotification/download",
            "ack",
            Some(json!(1.0)),
            &format!("must be {number}; {fraction}"),
        ),
        (
            "chatnotification/download",
            "ack",
            Some(json!(1e30)),
            &format!("must be {number}; {fraction}"),
        ),
        (
            "chatnotification/download",
            "ack",
            Some(json!("")),
            &format!("must be {number}; it is a string"),
        ),
        ("chatlogin/login", "apikey", None, &format!("is missing; it must be {key}")),
        ("chatlogin/login", "apikey", Some(json!({})), &format!("must be a string: {key}")),
    ] {
        assert_eq!(said(&stage, action, name, value).await, format!("{name} {sentence}"));
    }
}

#[tokio::test]
async fn refusals_name_extended_and_what_it_must_be() {
    let stage = Stage::set().await;
    for action in ["list", "show", "download", "downloadpartial"] {
        for value in [json!("true"), json!(1), json!(""), json!([]), json!({})] {
            let said = said(&stage, action, "extended", Some(value)).await;
            assert_eq!(said, "extended must be true or false");
        }
    }
}

#[tokio::test]
async fn refusals_name_the_ids_of_a_report_and_what_they_must_be() {
    let stage = Stage::set().await;
    let before = stage.everything().await;
    let unread = &stage.unread;
    let expected = format!("an array of at most 1000 strings, each {MESSAGE_ID}");
    for action in ["chatreports/delivered", "chatreports/viewed"] {
        for value in [None, Some(Value::Null)] {
            let missing = format!("messageids is missing; it must be {expected}");
            assert_eq!(said(&stage, action, "messageids", value).await, missing);
        }
        for value in [
            json!(unread),
            json!({ "0": unread }),
            json!([unread, 1]),
            json!([unread, null]),
            json!([unread, ""]),
            json!([unread, "a_b"]),
            json!([unread, "x".repeat(65)]),
            json!([[unread]]),
            json!(vec![unread; 1001]),
        ] {
            let malformed = format!("messageids must be {expected}");
            let said = said(&stage, action, "messageids", Some(value.clone())).await;
            assert_eq!(said, malformed, "{value}");
        }
    }
    Stage::assert_unchanged(&before, &stage.everything().await, "a wrong report");
}

#[tokio::test]
async fn the_openapi_document_has_the_fields_of_each_action() {
    let stage = Stage::set().await;
    let url = format!("http://{}/openapi.json", stage.world.address);
    let served = reqwest::get(url).await.unwrap();
    assert_eq!(served.headers()["content-type"], "application/json");
    let served = served.text().await.unwrap();
    let place = Workplace::new();
    let printed = String::from_utf8(place.runs(&["openapi"]).stdout).unwrap();
    assert_eq!(printed.trim_end(), served);
    let document: Value = serde_json::from_str(&served).unwrap();
    for action in &user_actions() {
        let name = format!("{}.{}", action.api.name, action.name);
        let body = &document["components"]["schemas"][&name]["properties"];
        let documented: BTreeSet<_> =
            body.as_object().unwrap().keys().map(String::as_str).collect();
        let right = stage.right(action).await;
        let known = right.as_object().unwrap().keys().map(String::as_str);
        assert_eq!(documented, known.filter(|name| *name != "nonce").collect(), "{name}");
        assert!(fields_of(action).iter().all(|field| documented.contains(field)), "{name}");
    }
}
