//! Common mistakes are refused with a sentence that names the mistake.

use serde_json::{Value, json};

use super::Stage;
use crate::harness::person::message;
use crate::harness::process::Workplace;

/// Sends these bytes and returns the message of the refusal.
async fn said(stage: &Stage, body: &[u8]) -> String {
    let sent = stage.alice.prepares_bytes("chatconversation", body.to_vec()).sent().await;
    sent.refused(400, "bad_request")["errormessage"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused_with_the_mistake_and_its_place() {
    let stage = Stage::set().await;
    for (body, what) in [
        (&b"{\"action\":\"list\",\n  \"timestamp\" \"now\"}"[..], "line 2 column 15"),
        (b"{\"action\":\"list\"", "line 1 column 16"),
        (b"{\"action\":\"list\"} {", "line 1 column 19"),
        (b"{'action':'list'}", "line 1 column 2"),
        (b"\xef\xbb\xbf{\"action\":\"list\"}", "byte order mark"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "gzip"),
        (b"\xff\xfe{\x00}\x00", "UTF-16"),
        (b"{\"action\":\"\xe9\"}", "not valid UTF-8 from byte 11"),
        (b"[1]", "an array at line 1"),
        (b"\n\"list\"", "a string at line 2"),
        (b"17", "a number at line 1"),
        (b"null", "null"),
        (b"", "line 1 column 0"),
    ] {
        let sentence = said(&stage, body).await;
        assert!(sentence.contains(what), "{}: {sentence}", body.escape_ascii());
    }
    let secret = said(&stage, b"\"d040b0a1d040b0a1\"").await;
    assert!(!secret.contains("d040b0a1"), "what was sent is not repeated: {secret}");
}

#[tokio::test]
async fn a_message_in_a_string_is_refused_with_the_place_of_its_mistake() {
    let stage = Stage::set().await;
    let fields = json!({ "instance": stage.alice.instance().await, "message": "{\n\"ID\" 1}" });
    let refused = stage.alice.does("add", fields).await.refused(400, "invalid_field");
    let sentence = refused["errormessage"].as_str().unwrap();
    assert!(sentence.starts_with("message ") && sentence.contains("line 2 column 6"), "{sentence}");
}

#[tokio::test]
async fn refusals_of_another_base64_alphabet_say_what_is_wrong() {
    let stage = Stage::set().await;
    for (data, what) in [
        ("SGVs\nbG8=", "line breaks"),
        ("SGVs\r\nbG8=\r\n", "line breaks"),
        ("SGVs bG8=", "blanks"),
        ("-_8=", "base64url"),
        ("SGVsbG8", "padding"),
    ] {
        let mut message = message("", &stage.alice.date());
        message["Data"] = json!(data);
        let refused = stage.alice.adds(&message).await.refused(400, "invalid_field");
        let sentence = refused["errormessage"].as_str().unwrap();
        assert!(sentence.starts_with("message.Data must be padded"), "{sentence}");
        assert!(sentence.contains(what), "{data:?}: {sentence}");
    }
}

#[tokio::test]
async fn refusals_of_numbers_dates_and_addresses_say_what_is_wrong() {
    let stage = Stage::set().await;
    let alice = &stage.alice;
    for (action, fields, what) in [
        (
            "downloadpartial",
            json!({ "limit": 17.0 }),
            "limit must be a whole number of at least 1; it is written with a fraction",
        ),
        ("downloadpartial", json!({ "limit": 1e30 }), "exponent"),
        ("downloadpartial", json!({ "limit": "17" }), "it is a string"),
        ("list", json!({ "timestamp": "2024-03-08 12:00:00 PM" }), "in UTC on the 24-hour clock"),
    ] {
        let refused = alice.does(action, fields).await.refused(400, "invalid_field");
        let sentence = refused["errormessage"].as_str().unwrap();
        assert!(sentence.contains(what), "{sentence}");
    }
    let late = alice.asks("list", json!({ "timestamp": "2024-03-08 13:00:00" })).await;
    let late = late.refused(401, "timestamp_out_of_range");
    assert!(
        late["errormessage"].as_str().unwrap().contains("in UTC, on the 24-hour clock"),
        "{late}"
    );
    for (friend, what) in [
        ("carol@exämple.com", "beyond ASCII"),
        ("<carol@example.com>", "bare address"),
        ("mailto:carol@example.com", "bare address"),
    ] {
        let add = alice.prepares("chatfriends", "add", &json!({ "friend": friend })).sent().await;
        let refused = add.refused(400, "invalid_field");
        assert!(refused["errormessage"].as_str().unwrap().contains(what), "{refused}");
    }
}

#[tokio::test]
async fn a_header_that_was_sent_twice_is_refused_as_such() {
    let stage = Stage::set().await;
    for name in ["ozeki-station", "ozeki-user", "ozeki-signature"] {
        let mut list = stage.alice.prepares("chatconversation", "list", &json!({}));
        let value = list.headers[name].clone();
        list.headers.append(name, value);
        let refused = list.sent().await.refused(401, "invalid_signature");
        let sentence = refused["errormessage"].as_str().unwrap();
        assert!(sentence.contains("was sent 2 times: it must be sent once"), "{name}: {sentence}");
    }
}

#[tokio::test]
async fn ids_of_messages_are_compared_as_exact_text() {
    let stage = Stage::set().await;
    let mut message = message("one", &stage.alice.date());
    for id in ["a1", "A1", "a-1"] {
        message["ID"] = json!(id);
        stage.alice.adds(&message).await.ok();
    }
    let ids = stage.bob.downloads().await.message_ids();
    assert_eq!(ids[ids.len() - 3..], ["a1", "A1", "a-1"]);
}

#[test]
fn invisible_names_and_decorated_addresses_are_refused() {
    let place = Workplace::new();
    let add = |email: &str, nick: &str, full_name: &str| {
        place.runs(&["user", "add", email, "--nick", nick, "--fullname", full_name])
    };
    for blank in [
        "\u{200b}",
        "\u{2800}\u{2800}",
        "\u{3164}",
        "\u{e0041}\u{e0042}",
        "\u{ad}\u{feff}",
        "a\u{2028}b",
        "a\u{2029}b",
    ] {
        for (nick, full_name, named) in [(blank, "", "--nick"), ("Alice", blank, "--fullname")] {
            let refused = add("alice@example.com", nick, full_name);
            let error = String::from_utf8(refused.stderr).unwrap();
            assert_eq!(refused.status.code(), Some(1), "{blank:?}: {error}");
            assert!(error.contains(named) && error.contains("visible"), "{blank:?}: {error}");
        }
    }
    for email in [
        "<alice@example.com>",
        "mailto:alice@example.com",
        "alice@example.com,bob@example.com",
        "\"alice\"@example.com",
        "alice@example.com;",
    ] {
        let refused = add(email, "Alice", "");
        let error = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(1), "{email}: {error}");
        assert!(error.contains("EMAIL must be an e-mail address"), "{email}: {error}");
    }
    // Emoji of a family and of a flag join visible characters with invisible ones.
    for nick in [
        "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
        "\u{1f3f4}\u{e0067}\u{e0062}\u{e007f}",
        "\u{645}\u{6cc}\u{200c}\u{62e}",
    ] {
        let added = add(&format!("{}@example.com", nick.len()), nick, "");
        assert!(added.status.success(), "{nick}: {added:?}");
    }
}

#[test]
fn refusals_do_not_repeat_settings_that_may_hold_a_secret() {
    let place = Workplace::new();
    let checks = |name: &str, value: &str| -> String {
        let checked = place.runs_with(&["check-config"], "", &[(name, value)]);
        assert_eq!(checked.status.code(), Some(1), "{checked:?}");
        String::from_utf8(checked.stderr).unwrap()
    };
    for (name, value) in [
        ("CHATSERVER_DATABASE__URL", "mysql://chat:hunter2@db/chat"),
        ("CHATSERVER_DATABASE__URL", "postgres://chat:hunter2/chat"),
        ("CHATSERVER_DATABASE__URL", "host=db password=hunter2"),
        ("CHATSERVER_HTTP__PUBLIC_URL", "https://chat:hunter2@chat.example.com/"),
        ("CHATSERVER_HTTP__CORS_ORIGINS", "https://a.b,https://chat:hunter2@chat.example.com"),
        ("CHATSERVER_SMTP__LOGIN", "hunter2"),
    ] {
        let error = checks(name, value);
        assert!(!error.contains("hunter2"), "{error}");
        let setting = name.trim_start_matches("CHATSERVER_").to_lowercase().replace("__", ".");
        assert!(error.contains(&setting), "{error}");
    }
    let file = place.path().join("chat.toml");
    std::fs::write(&file, "[database]\nurl = \"postgres://chat:hunter2@db/chat\nx = 1\n").unwrap();
    let error = place.fails(&["check-config", "--config", "chat.toml"]);
    assert!(error.contains("chat.toml") && error.contains("line 2"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    let error = checks("CHATSERVER_DATABASE__URL", "sqlite://chat.db?mode=rwc");
    assert!(error.contains("its path holds ? or #"), "{error}");
}

#[test]
fn the_limit_of_a_message_must_fit_into_the_limit_of_a_body() {
    let place = Workplace::new();
    let message = ("CHATSERVER_LIMITS__MESSAGE_BYTES", "1048577");
    let checked = place.runs_with(&["check-config"], "", &[message]);
    let error = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(checked.status.code(), Some(1), "{error}");
    for part in ["limits.message_bytes = 1048577", "limits.body_bytes = 1048576"] {
        assert!(error.contains(part), "{error}");
    }
    let body = ("CHATSERVER_LIMITS__BODY_BYTES", "1048577");
    assert!(place.runs_with(&["check-config"], "", &[message, body]).status.success());
}

/// A database of an earlier version may hold an address that is refused now.
#[tokio::test]
async fn an_address_of_an_earlier_version_still_loads() {
    let stage = Stage::set().await;
    let mut connection = stage.world.opens_database().await;
    let rename = "UPDATE users SET email = '<bob@example.com>' WHERE email = 'bob@example.com'";
    connection.runs(rename).await;
    connection.closes().await;
    let users = stage.world.app().store.users().await.unwrap();
    assert!(users.iter().any(|user| user.email.as_str() == "<bob@example.com>"));
    assert_eq!(stage.world.app().store.friendships().await.unwrap().len(), 1);
    let bob: Value = stage.bob.sees().await;
    assert_eq!(bob["id"], stage.bob.conversation);
}
