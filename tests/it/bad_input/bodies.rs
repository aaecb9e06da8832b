//! Bodies with a valid signature and invalid content.

use chatserver::api::{ACTIONS, Action};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::{Stage, fields_of, for_all, outcome, user_actions};

/// Nesting depth that would overflow any stack if a parser recursed.
const LEVELS: usize = 100_000;

fn nested_array() -> String {
    "[".repeat(LEVELS) + &"]".repeat(LEVELS)
}

/// Builds a JSON object from these fields, in this order. The values are raw JSON.
fn object<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let fields = fields.into_iter().map(|(name, value)| format!("{}:{value}", json!(name)));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

fn raw_fields(body: &Value) -> Vec<(&str, String)> {
    let fields = body.as_object().unwrap().iter();
    fields.map(|(name, value)| (name.as_str(), value.to_string())).collect()
}

/// Returns the body with the raw value of one field replaced, or with the field removed.
fn with_value(body: &Value, field: &str, value: Option<&str>) -> String {
    let mut fields = raw_fields(body);
    match value {
        Some(value) => fields.iter_mut().filter(|(name, _)| *name == field).for_each(|one| {
            value.clone_into(&mut one.1);
        }),
        None => fields.retain(|(name, _)| *name != field),
    }
    object(fields)
}

/// Returns raw JSON values, one for each kind of mistake.
fn values() -> Vec<String> {
    let plain = [
        "null",
        "true",
        "false",
        "0",
        "-1",
        "1.5",
        "1e999",
        "-1e-999",
        "99999999999999999999",
        "[]",
        "{}",
        r#"["x"]"#,
        r#"{"a":{"a":1}}"#,
        r#""""#,
        r#"" ""#,
        r#""\u0000""#,
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        r#""{""#,
        r#""[]""#,
        r#""null""#,
        r#""é""#,
    ];
    let mut values: Vec<_> = plain.map(str::to_owned).to_vec();
    // Base64 cannot have this length.
    values.push(format!("\"{}\"", "x".repeat(100_001)));
    values.push("9".repeat(100_000));
    values.push(nested_array());
    values.push(format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000)));
    values
}

fn is_cursor(field: &str) -> bool {
    field.starts_with("first") || field.starts_with("last")
}

/// Returns the codes with which this value of the field may be refused, or `None` if it is accepted.
fn expected(action: &str, field: &str, value: Option<&str>) -> Option<&'static [&'static str]> {
    const REFUSED: &[&str] = &["invalid_field", "unknown_action", "bad_request"];
    let is_empty = matches!(value, None | Some("null" | "\"\""));
    let is_text = value.is_some_and(|value| value.starts_with('"') && !value.contains("\\ud800"));
    match field {
        "clientversioncode" | "nonce" => None,
        "timestamp" if is_empty && action == "workspaceregister" => None,
        "limit" | "ack" if matches!(value, None | Some("null")) => None,
        "ack" if value == Some("0") => None,
        "extended" if matches!(value, None | Some("null" | "true" | "false")) => None,
        // A number too large for any integer type is still a large number.
        "limit" | "ack" if value.is_some_and(|value| value.starts_with('9')) => None,
        "hideid"
            if is_empty
                || matches!(
                    value,
                    Some(r#"" ""# | r#""{""# | r#""[]""# | r#""null""# | r#""é""#)
                ) =>
        {
            None
        }
        "instance"
            if is_empty
                && (action.starts_with("download")
                    || ["delivered", "viewed"].contains(&action)) =>
        {
            None
        }
        "messageids" if matches!(value, Some("[]" | r#"["x"]"#)) => None,
        // Any text of the permitted characters is a valid ID. This one is unknown to the server.
        name if is_cursor(name) && name.ends_with("id") && value == Some(r#""null""#) => None,
        name if is_cursor(name) && is_empty => None,
        "apikey" if is_text && !is_empty => Some(&["invalid_credentials"]),
        _ => Some(REFUSED),
    }
}

#[tokio::test]
async fn the_valid_requests_of_these_tests_succeed() {
    let stage = Stage::set().await;
    for action in &user_actions() {
        let body = stage.right(action).await;
        for field in fields_of(action) {
            assert!(body.get(*field).is_some(), "{} {field}", action.name);
        }
        stage.prepares(action, body.to_string()).sent().await.ok();
    }
}

#[tokio::test]
async fn a_wrong_value_in_any_field_of_any_action_is_refused_by_name() {
    let stage = Stage::set().await;
    let values = values();
    for action in &user_actions() {
        let mut before = stage.everything().await;
        let mut body = stage.right(action).await;
        for field in raw_fields(&body.clone()).into_iter().map(|(name, _)| name) {
            for value in values.iter().map(|value| Some(value.as_str())).chain([None]) {
                let what = format!(
                    "{} with {field} = {:.60}",
                    action.name,
                    value.unwrap_or("nothing at all")
                );
                if field == "nonce" || field == "clientversioncode" {
                    // The server ignores this field. Another field must differ, or the second request would be
                    // a replay.
                    body["other"] = json!(uuid::Uuid::new_v4().to_string());
                }
                if body.get("instance").is_some() {
                    body["instance"] = json!(stage.alice.instance().await);
                }
                let spoilt = with_value(&body, field, value);
                let is_too_large = spoilt.len() > action.api.max_body;
                let sent = stage.prepares(action, spoilt).sent().await;
                let said = outcome(&sent);
                if is_too_large {
                    assert_eq!(said.as_deref(), Some("too_large"), "{what}: {sent:?}");
                    continue;
                }
                match (expected(action.name, field, value), said) {
                    (None, None) => before = stage.everything().await,
                    (Some(expected), Some(said)) => {
                        assert!(expected.contains(&said.as_str()), "{what}: {sent:?}");
                        let sentence = sent.json()["errormessage"].as_str().unwrap().to_owned();
                        let is_named = sentence.starts_with(field) || said == "invalid_credentials";
                        assert!(is_named, "{what}: {sentence:.300}");
                    }
                    (_, said) => panic!("{what}: {said:?}"),
                }
            }
            Stage::assert_unchanged(&before, &stage.everything().await, field);
        }
    }
}

#[tokio::test]
async fn a_wrong_value_in_any_field_of_a_message_is_refused_by_name() {
    let stage = Stage::set().await;
    let add = ACTIONS.iter().find(|action| fields_of(action).contains(&"message")).unwrap();
    let right = stage.right(add).await;
    let before = stage.everything().await;
    for field in ["ID", "Type", "Created", "ValidUntil", "Data"] {
        for value in values().iter().map(|value| Some(value.as_str())).chain([None]) {
            let is_right = match (field, value) {
                ("ID" | "Data", Some("\"null\"")) | ("ValidUntil" | "Data", Some("\"\"")) => true,
                ("Type", Some(value)) => {
                    value.starts_with('"')
                        && (3..20).contains(&value.len())
                        && !value.contains("\\u")
                }
                _ => false,
            };
            if is_right {
                continue;
            }
            let message = with_value(&right["message"], field, value);
            for message in [message.clone(), json!(message).to_string()] {
                let body = with_value(&right, "message", Some(&message));
                let sent = stage.prepares(add, body).sent().await;
                let what = format!("message.{field} = {:.60}", value.unwrap_or("nothing at all"));
                let said = outcome(&sent).expect(&what);
                assert!(said == "invalid_field" || said == "bad_request", "{what}: {sent:?}");
                let sentence = sent.json()["errormessage"].as_str().unwrap().to_owned();
                assert!(
                    sentence.starts_with(&format!("message.{field} ")),
                    "{what}: {sentence:.300}"
                );
            }
        }
    }
    Stage::assert_unchanged(&before, &stage.everything().await, "a wrong message");
}

#[tokio::test]
async fn duplicate_keys_are_refused() {
    let stage = Stage::set().await;
    for action in &user_actions() {
        let body = stage.right(action).await;
        let before = stage.everything().await;
        let fields = raw_fields(&body);
        let text = object(fields.clone());
        for (name, value) in fields.iter().chain(&[("unknown", "1".to_owned())]) {
            let escaped: Vec<_> =
                name.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            let escaped = escaped.concat();
            let begin = text.strip_suffix('}').unwrap();
            let own =
                if body.get(name).is_none() { format!(",\"{name}\":1") } else { String::new() };
            for twice in [
                format!("{begin}{own},\"{name}\":{value}}}"),
                format!("{begin}{own},\"{escaped}\":null}}"),
            ] {
                let refused =
                    stage.prepares(action, twice).sent().await.refused(400, "bad_request");
                let sentence = "a key occurs twice in the body or in message";
                assert_eq!(refused["errormessage"], sentence);
            }
        }
        if let Some(message) = body.get("message") {
            for (name, value) in raw_fields(message) {
                let twice = message.to_string().replace('{', &format!("{{\"{name}\":{value},"));
                for message in [twice.clone(), json!(twice).to_string()] {
                    let body = with_value(&body, "message", Some(&message));
                    let sent = stage.prepares(action, body).sent().await;
                    let sentence = "a key occurs twice in the body or in message";
                    assert_eq!(sent.refused(400, "bad_request")["errormessage"], sentence);
                }
            }
        }
        Stage::assert_unchanged(&before, &stage.everything().await, action.name);
    }
}

#[tokio::test]
async fn bodies_other_than_one_object_are_refused() {
    let stage = Stage::set().await;
    for action in &user_actions() {
        let right = stage.right(action).await.to_string();
        let before = stage.everything().await;
        let mut bodies: Vec<Vec<u8>> = values().into_iter().map(String::into_bytes).collect();
        // Objects parse as a body and fail later, because they have no action.
        bodies.retain(|body| body[0] != b'{');
        for wrong in ["", " ", "{", "}", "[", "\u{feff}{}", "{\"a\"}", "{a:1}", "{'a':1}", "{,}"] {
            bodies.push(wrong.into());
        }
        for tail in ["}", "x", ",", "{}", "\0", "\u{a0}", "//", &nested_array()] {
            bodies.push(format!("{right}{tail}").into());
        }
        bodies.push(right.replace('"', "'").into());
        bodies.push([right.as_bytes(), b"\xff"].concat());
        bodies.push(
            right.replacen('"', "\"\u{e9}", 1).encode_utf16().flat_map(u16::to_be_bytes).collect(),
        );
        bodies.push([b"{\"\xc3\x28\":1,", &right.as_bytes()[1..]].concat());
        for body in bodies {
            let shown = body[..body.len().min(80)].escape_ascii().to_string();
            let is_too_large = body.len() > action.api.max_body;
            let expected = if is_too_large { "too_large" } else { "bad_request" };
            let sent = stage.prepares(action, body).sent().await;
            let said = outcome(&sent);
            assert_eq!(said.as_deref(), Some(expected), "{} {shown}", action.name);
        }
        Stage::assert_unchanged(&before, &stage.everything().await, action.name);
    }
}

/// Generates bytes that replace a part of a body.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<Vec<u8>>(),
        any::<u8>().prop_map(|byte| vec![byte]),
        select(values().into_iter().filter(|value| value.len() < 100).collect::<Vec<_>>())
            .prop_map(String::into_bytes),
        Just(Vec::new()),
        Just(b",\"timestamp\":\"2024-03-08 12:00:00\"".to_vec()),
    ]
}

#[test]
fn refused_bodies_of_any_content_change_nothing() {
    let slips = prop::collection::vec((any::<Index>(), 0..6_usize, piece()), 1..4);
    let anything = prop_oneof![9 => Just(None), 1 => any::<Vec<u8>>().prop_map(Some)];
    let strategy = (select(user_actions()), anything, slips);
    for_all(500, &[], &strategy, &async |stage, (action, anything, slips): (Action, _, _)| {
        let mut body = stage.right(&action).await.to_string().into_bytes();
        for (at, length, piece) in slips {
            let from = at.index(body.len() + 1);
            let to = body.len().min(from + length);
            body.splice(from..to, piece);
        }
        let before = stage.everything().await;
        let body = anything.unwrap_or(body);
        let shown = body.escape_ascii().to_string();
        // A replacement may leave the body valid. Then the request is carried out.
        if outcome(&stage.prepares(&action, body).sent().await).is_some() {
            Stage::assert_unchanged(&before, &stage.everything().await, &shown);
        }
    });
}
