//! Invalid headers, and bodies around the size limit. Each request arrives completely and gets an answer.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::wire::{Heard, Written};
use super::{Stage, for_all};
use crate::harness::person::message;

const HEADERS: [&str; 4] = ["content-type", "ozeki-station", "ozeki-user", "ozeki-signature"];

/// Small limits, so that the tests reach them quickly.
const SMALL: &[(&str, &str)] = &[("limits.body_bytes", "4096"), ("limits.message_bytes", "1000")];

impl Stage {
    /// Returns a valid request from Alice that only reads.
    fn lists(&self) -> Written {
        Written::of(&self.alice.prepares("chatconversation", "list", &json!({})))
    }

    /// Returns a valid request from Alice with a body of this length. It changes what she sees.
    fn mutes(&self, length: usize) -> Written {
        let fields = json!({ "conversationid": self.alice.conversation });
        let mut body = self.alice.prepares("chatconversation", "mute", &fields).body;
        body.resize(length, b' ');
        Written::of(&self.alice.prepares_bytes("chatconversation", body))
    }
}

/// How a header is altered.
#[derive(Clone, Debug)]
enum Made {
    Right,
    Absent,
    Upper,
    Twice,
    Of(Vec<u8>),
}

fn made() -> impl Strategy<Value = Made> {
    let byte = prop_oneof![any::<u8>(), 0x20..0x7f_u8]
        .prop_filter("ends the line", |byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f));
    prop_oneof![
        4 => Just(Made::Right),
        1 => Just(Made::Absent),
        1 => Just(Made::Upper),
        1 => Just(Made::Twice),
        2 => prop::collection::vec(byte, 0..80).prop_map(Made::Of),
        1 => "[0-9a-f]{32}|[0-9a-f]{64}|application/[a-z]{4}".prop_map(|text| Made::Of(text.into())),
    ]
}

#[test]
fn headers_of_any_content_are_accepted_or_refused_by_their_rules() {
    let strategy = [made(), made(), made(), made()];
    for_all(500, &[], &strategy, &async |stage, all| {
        let mut request = stage.lists();
        let mut expected = None;
        for (name, made) in HEADERS.into_iter().zip(all) {
            let (_, right) = request.headers.iter().find(|(known, _)| known == name).unwrap();
            let right = right.clone();
            let upper = right.to_ascii_uppercase();
            let (values, is_right) = match &made {
                Made::Right => (vec![&right], true),
                Made::Absent => (vec![], false),
                // A media type is case-insensitive. A value of digits alone has no case.
                Made::Upper => (vec![&upper], name == "content-type" || upper == right),
                // The first media type counts.
                Made::Twice => (vec![&right, &right], name == "content-type"),
                Made::Of(value) => (vec![value], *value == right),
            };
            if !is_right && expected.is_none() {
                let is_type = name == "content-type";
                expected =
                    Some(if is_type { "unsupported_media_type" } else { "invalid_signature" });
            }
            let values: Vec<_> = values.into_iter().map(Vec::as_slice).collect();
            request = request.with_header(name, &values);
        }
        let heard = request.heard(&stage.world).await;
        assert_eq!(heard.outcome().as_deref(), expected, "{:?}: {heard:?}", request.headers);
    });
}

/// Percent-encodes some characters of the text. `which` repeats to its length.
fn encoded(text: &str, which: &[bool]) -> String {
    let encode = |(byte, encode): (u8, &bool)| {
        if *encode { format!("%{byte:02X}") } else { char::from(byte).to_string() }
    };
    text.bytes().zip(which.iter().cycle()).map(encode).collect()
}

#[test]
fn queries_of_any_content_are_accepted_or_refused_by_their_rules() {
    let name = select(vec!["srv", "api", "api", "Srv", "x", ""]);
    let value = select(vec![
        "chatserver",
        "chatconversation",
        "chatconversation",
        "chatfriends",
        "chatowner",
        "Chatserver",
        "chatconversation ",
        "workspace",
        "",
        "\0",
        "%",
    ]);
    let pair = (name, value, prop::collection::vec(any::<bool>(), 1..20));
    let known = prop::collection::vec(pair, 0..6);
    let strategy = (known, "[!$-;=?-~]{0,20}|(%[0-9a-f]{0,3}){0,9}");
    for_all(500, &[], &strategy, &async |stage, (pairs, tail)| {
        let first = |name: &str| pairs.iter().find(|(known, ..)| *known == name).map(|pair| pair.1);
        let expected = match (first("srv"), first("api")) {
            (Some("chatserver"), Some("chatconversation")) => None,
            // The signature covers the service and the API.
            (Some("chatserver"), Some("chatfriends")) | (Some("chatowner"), Some("workspace")) => {
                Some("invalid_signature")
            }
            _ => Some("unknown_api"),
        };
        let mut request = stage.lists();
        request.target = "/?".to_owned();
        for (name, value, which) in &pairs {
            // Characters with a meaning in a query are always encoded.
            let value = value.replace('%', "%25").replace(' ', "+").replace('\0', "%00");
            let value = if value.contains(['%', '+']) { value } else { encoded(&value, which) };
            request.target += &[&encoded(name, which), "=", &value, "&"].concat();
        }
        request.target += "z=";
        request.target += &tail;
        let heard = request.heard(&stage.world).await;
        assert_eq!(heard.outcome().as_deref(), expected, "{}", request.target);
    });
}

#[tokio::test]
async fn wrong_paths_and_methods_are_refused() {
    let stage = Stage::set().await;
    let long = format!("/{}", "x".repeat(8000));
    let query = "srv=chatserver&api=chatconversation";
    for path in
        ["/nowhere", "//", "/INDEX.php", "/ozeki", "/index.php/", "/%2e", "/../x", "/;", &long]
    {
        for method in ["POST", "GET"] {
            let mut request = stage.lists();
            method.clone_into(&mut request.method);
            request.target = format!("{path}?{query}");
            let heard = request.heard(&stage.world).await;
            assert_eq!(heard.outcome().as_deref(), Some("unknown_api"), "{path}: {heard:?}");
        }
    }
    for path in ["/", "/index.php", "/ozeki/", "/ozeki/index.php"] {
        for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "post", "X"] {
            let mut request = stage.lists();
            method.clone_into(&mut request.method);
            request.target = format!("{path}?{query}");
            let heard = request.heard(&stage.world).await;
            assert_eq!(heard.outcome().as_deref(), Some("method_not_allowed"), "{method}");
        }
        let mut request = stage.lists();
        request.target = format!("{path}?{query}");
        assert_eq!(request.heard(&stage.world).await.outcome(), None, "{path}");
    }
    // The answer to HEAD has no body, whatever its headers say.
    let mut request = stage.lists();
    "HEAD".clone_into(&mut request.method);
    let heard = request.heard(&stage.world).await;
    assert_eq!((heard.status, heard.body.as_str()), (405, ""));
}

#[tokio::test]
async fn only_json_content_types_are_accepted() {
    let stage = Stage::set().await;
    for (value, is_right) in [
        ("application/json", true),
        ("Application/JSON; charset=utf-8", true),
        ("application/json ;x", true),
        ("application/json;charset=utf-16", true),
        ("application/jsonx", false),
        ("application/json, text/plain", false),
        ("application/problem+json", false),
        ("application/x-www-form-urlencoded", false),
        ("multipart/form-data; boundary=application/json", false),
        ("\"application/json\"", false),
        ("", false),
        (";", false),
    ] {
        let request = stage.lists().with_header("content-type", &[value.as_bytes()]);
        let expected = (!is_right).then_some("unsupported_media_type");
        assert_eq!(request.heard(&stage.world).await.outcome().as_deref(), expected, "{value}");
    }
    let right: &[u8] = b"application/json";
    for values in [&[][..], &[b"text/plain", right], &[b"\xff"]] {
        let heard = stage.lists().with_header("content-type", values).heard(&stage.world).await;
        assert_eq!(heard.outcome().as_deref(), Some("unsupported_media_type"), "{values:?}");
    }
}

#[tokio::test]
async fn bodies_are_accepted_up_to_their_limit() {
    let stage = Stage::with(SMALL).await;
    for is_chunked in [false, true] {
        for (length, is_right) in
            [(4095, true), (4096, true), (4097, false), (5000, false), (200_000, false)]
        {
            let before = stage.everything().await;
            let mut request = stage.mutes(length);
            request.is_chunked = is_chunked;
            let heard: Heard = request.heard(&stage.world).await;
            let expected = (!is_right).then_some("too_large");
            assert_eq!(heard.outcome().as_deref(), expected, "{length} {is_chunked}: {heard:?}");
            if !is_right {
                assert!(
                    heard.body.contains("the body exceeds the limit of 4096 bytes"),
                    "{heard:?}"
                );
                Stage::assert_unchanged(&before, &stage.everything().await, "a large body");
            }
        }
    }
    // With `expect: 100-continue`, the server answers before the client sends the body.
    let mut request = stage.mutes(4096).with_header("expect", &[b"100-continue"]);
    request.headers.push(("x-body".to_owned(), b"4096".to_vec()));
    assert_eq!(request.heard(&stage.world).await.outcome(), None);
}

#[tokio::test]
async fn payloads_are_accepted_up_to_their_limit() {
    let stage = Stage::with(SMALL).await;
    let instance = stage.alice.instance().await;
    for (length, is_right) in [(996, true), (1000, true), (1004, false), (3000, false)] {
        let before = stage.everything().await;
        let mut message = message("", &stage.world.clock.date());
        message["Data"] = json!("A".repeat(length));
        for message in [message.clone(), json!(message.to_string())] {
            let fields = json!({ "instance": instance, "message": message });
            let sent = stage.alice.does("add", fields).await;
            if is_right {
                sent.ok();
            } else {
                let refused = sent.refused(413, "too_large");
                let sentence = format!("message.Data is {length} bytes; the limit is 1000");
                assert_eq!(refused["errormessage"], sentence);
                Stage::assert_unchanged(&before, &stage.everything().await, "a large payload");
            }
        }
    }
}
