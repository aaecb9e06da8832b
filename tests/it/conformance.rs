//! Sends every documented request as documented and compares every reply with the documented one, key by key in
//! order. `documented.json` holds both, as the public documentation prints them.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chatserver::domain::{Instance, Parse as _, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::person::{Answer, Person, message_with_id};
use crate::harness::world::{World, until};

/// Ids in the documented examples.
const ALICE: &str = "aa68d2204cb2bb85f2de3b9aad0d86d7";
const ADMIN: &str = "d574638619cbff603bf857164c47e850";
const CONVERSATION: &str = "8ca16186c36a4e0a1ef2096e6c60b613";

/// Returns the documented request and reply of an article.
fn documented(article: &str) -> (Value, Value) {
    let all: Vec<Value> = serde_json::from_str(include_str!("documented.json")).unwrap();
    let one = all.into_iter().find(|one| one["article"] == article).unwrap();
    (one["request"].clone(), one["response"].clone())
}

/// Two users in place of the documented ones. Their ids sort in the same order.
struct Stage {
    world: World,
    alice: Person,
    admin: Person,
}

impl Stage {
    async fn set() -> Self {
        let world = World::start().await;
        world.clock.shows("2024-03-04 13:00:00");
        let mut alice = world.person("Alice").await;
        let mut admin = world.person_at("admin@ozeki.hu", "Administrator").await;
        assert_eq!(admin.user.as_str(), ADMIN);
        assert!(alice.user < admin.user);
        world.befriends(&mut alice, &mut admin).await;
        Self { world, alice, admin }
    }

    /// Sends the documented request of an article at its documented time and compares the reply.
    async fn plays(&self, article: &str, api: &str, person: &Person) -> Answer {
        let (request, response) = documented(article);
        let instance = person.instance().await;
        let mut request = self.translate(&request);
        if let Some(date) = request["timestamp"].as_str() {
            self.world.clock.shows(date);
        }
        if request.get("instance").is_some() {
            request["instance"] = json!(instance);
        }
        if request.get("message").is_some() {
            let message = request["message"].as_str().unwrap();
            request["message"] = json!(message.replace("<base64>", &BASE64.encode("hello")));
        }
        if request["action"] == "hide" {
            request["hideid"] = json!(format!("{instance};"));
        }
        let sent = person.prepares_bytes(api, request.to_string().into_bytes()).sent().await;
        let reply = sent.ok();
        let mut response = self.translate(&response);
        if response.get("status").is_none() {
            let mut begun = json!({ "status": "OK", "errormessage": "" });
            begun.as_object_mut().unwrap().extend(response.as_object().unwrap().clone());
            response = begun;
        }
        let hide_id = request["hideid"].as_str().unwrap_or_default();
        Comparison { article, hide_id }.same("", &response, &reply);
        sent
    }

    /// Has this person download everything until the newest message is reported as delivered.
    async fn delivers(&self, person: &Person) {
        let sees = person.sees().await;
        until("it is delivered", async || {
            let told = person.told().await;
            person.downloads().await.ok();
            told.last().is_some_and(|(_, id)| sees["lastmessageid"] == *id)
        })
        .await;
    }

    /// Replaces the documented ids by those of this stage.
    fn translate(&self, documented: &Value) -> Value {
        let text = documented.to_string();
        let text = text.replace(ALICE, self.alice.user.as_str());
        serde_json::from_str(&text.replace(CONVERSATION, &self.alice.conversation)).unwrap()
    }
}

struct Comparison<'a> {
    article: &'a str,
    hide_id: &'a str,
}

impl Comparison<'_> {
    /// Asserts that the reply has the documented keys in the documented order. Each value must equal the
    /// documented one, or have the same form if it varies.
    fn same(&self, at: &str, documented: &Value, reply: &Value) {
        let Self { article, .. } = self;
        match (documented, reply) {
            (Value::Object(documented), Value::Object(reply)) => {
                // The documentation shortens the reports.
                let shown = if at.starts_with(".reports") { documented.len() } else { reply.len() };
                let keys: Vec<_> = documented.keys().collect();
                assert_eq!(keys, reply.keys().take(shown).collect::<Vec<_>>(), "{article} {at}");
                for (key, value) in documented {
                    self.same(&format!("{at}.{key}"), value, &reply[key]);
                }
            }
            (Value::Array(documented), Value::Array(reply)) => {
                assert_eq!(documented.len(), reply.len(), "{article} {at}: {reply:?}");
                for (index, (documented, reply)) in documented.iter().zip(reply).enumerate() {
                    self.same(&format!("{at}[{index}]"), documented, reply);
                }
            }
            _ => self.same_leaf(at, documented, reply),
        }
    }

    fn same_leaf(&self, at: &str, documented: &Value, reply: &Value) {
        let Self { article, .. } = self;
        let key = at.rsplit('.').next().unwrap();
        let form = forms().remove(key);
        let text = reply.as_str().unwrap_or_default();
        let same = match (key, form) {
            ("hideid", _) => text == self.hide_id || documented == reply,
            ("ID", _) if at.starts_with(".reports") => Uuid::parse_str(text).is_ok(),
            ("lastreportid", _) if documented == "" => text.is_empty(),
            ("lastmessageid", _) => text.is_empty() == (documented == ""),
            (_, Some(form)) => form(reply),
            _ => documented == reply,
        };
        assert!(same, "{article} {at}: documented {documented}, replied {reply}");
    }
}

type Form = fn(&Value) -> bool;

/// Returns a check of the form for each key whose value varies.
fn forms() -> HashMap<&'static str, Form> {
    let forms: [(&str, Form); 8] = [
        ("displayname", is_wrapped),
        ("secret", is_wrapped),
        ("publickey", is_base64),
        ("Data", is_base64),
        ("lastaccess", Value::is_i64),
        ("instance", |value| value.as_str().and_then(Instance::parse).is_some()),
        ("ValidUntil", |value| value.as_str().and_then(Timestamp::parse).is_some()),
        ("lastreportid", |value| value.as_str().is_some_and(is_bare)),
    ];
    HashMap::from(forms)
}

fn is_base64(value: &Value) -> bool {
    value.as_str().is_some_and(|text| BASE64.decode(text).is_ok_and(|bytes| !bytes.is_empty()))
}

/// Tests for the ID of a report without hyphens.
fn is_bare(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Tests for base64 of 256 bytes, one block of RSA-2048.
fn is_wrapped(value: &Value) -> bool {
    value.as_str().is_some_and(|text| BASE64.decode(text).is_ok_and(|bytes| bytes.len() == 256))
}

#[tokio::test]
async fn the_documented_requests_of_two_users_have_the_documented_replies() {
    let stage = Stage::set().await;
    let Stage { world, alice, admin } = &stage;
    for (date, id) in [
        ("2024-03-04 13:30:36", "e64fa984-9b2c-4d32-a965-a1faca1d5b83"),
        ("2024-03-04 13:46:59", "3f80d821-e105-4089-95b4-0acf0642a047"),
    ] {
        world.clock.shows(date);
        let mut message = message_with_id(id, "earlier", date);
        message["ValidUntil"] = json!("2024-03-11 13:30:36");
        admin.adds(&message).await.ok();
        stage.delivers(alice).await;
    }
    stage.plays("p_7202", "chatconversation", alice).await;
    stage.plays("p_8072", "chatconversation", alice).await;
    stage.plays("p_8073", "chatconversation", alice).await;
    stage.plays("p_8036", "chatreports", admin).await;
    assert_eq!(alice.told().await.last().unwrap().0, "viewed");
    let before = alice.sees().await;
    let cleared = stage.plays("p_4857", "chatconversation", alice).await.conversation();
    assert_ne!(before["instance"], cleared["instance"]);
    for kept in ["secret", "lastaccess", "displayname"] {
        assert_eq!(before[kept], cleared[kept], "{kept} survives a clear");
    }
    stage.plays("p_4858", "chatconversation", alice).await;
    for (date, until, id, delivered) in [
        (
            "2024-03-08 15:37:00",
            "2024-03-08 15:38:00",
            "dbe07fce-f6c7-43bb-8860-1dac3ed0cf77",
            Some("2024-03-08 15:37:02"),
        ),
        (
            "2024-03-11 07:23:46",
            "2024-03-18 07:23:46",
            "470fa27b-7ecb-4cde-9b49-173c0fca14cb",
            None,
        ),
    ] {
        world.clock.shows(date);
        let mut message = message_with_id(id, "later", date);
        message["ValidUntil"] = json!(until);
        alice.adds(&message).await.ok();
        if let Some(date) = delivered {
            world.clock.shows(date);
            stage.delivers(admin).await;
        }
    }
    stage.plays("p_4859", "chatconversation", admin).await;
    stage.plays("p_4860", "chatconversation", admin).await;
    stage.plays("p_4861", "chatconversation", admin).await;
    admin.clears().await.ok();
    for article in ["p_4862", "p_4863", "p_4864", "p_4865"] {
        stage.plays(article, "chatconversation", admin).await;
    }
}

#[tokio::test]
async fn availability_and_friends_have_the_documented_replies() {
    let stage = Stage::set().await;
    stage.plays("p_7106", "chatavailability", &stage.admin).await;
    stage.plays("p_7201", "chatfriends", &stage.alice).await;
}

#[tokio::test]
async fn a_notification_has_the_documented_reply() {
    let stage = Stage::set().await;
    let Stage { world, alice, admin } = &stage;
    let (request, response) = documented("p_8037");
    world.clock.shows(request["timestamp"].as_str().unwrap());
    alice.logs_in().await.ok();
    alice.is_notified().await;
    admin.sends("hi").await;
    // The documented request carries a station, but neither a user nor a signature.
    let sent = alice.prepares_bytes("chatnotification", request.to_string().into_bytes());
    let sent = sent.without_header("ozeki-user").without_header("ozeki-signature").sent().await;
    sent.ok();
    assert_eq!(sent.text, stage.translate(&response).to_string());
}

#[tokio::test]
async fn the_block_list_has_the_documented_reply() {
    let stage = Stage::set().await;
    stage.plays("p_4866", "chatblocklist", &stage.alice).await;
}

#[tokio::test]
async fn a_workspace_has_the_documented_reply() {
    let stage = Stage::set().await;
    let (request, response) = documented("p_4974");
    // The documented request carries a user and a signature, but neither a station nor a time.
    let sent = stage.alice.prepares_without_station("chatowner", "workspace", &request);
    assert_eq!(sent.sent().await.ok(), response);
}

#[tokio::test]
async fn a_login_has_the_documented_reply() {
    let stage = Stage::set().await;
    let reply = stage.alice.logs_in().await.ok();
    let (_, documented) = documented("p_7105");
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&documented), keys(&reply));
    assert_eq!(keys(&documented["listeners"]), keys(&reply["listeners"]));
    // The documentation breaks off within `urls`, before the value of `notification`.
    let rest = ["notification", "reports", "workspace"].map(str::to_owned);
    assert_eq!([keys(&documented["urls"]), rest.to_vec()].concat(), keys(&reply["urls"]));

    let base = format!("http://{}/", stage.world.address);
    assert_eq!(reply["server"], env!("CARGO_PKG_VERSION"));
    let listener = format!("ws://{}/ws", stage.world.address);
    assert_eq!(reply["listeners"], json!({ "udp": "", "ws": listener, "wss": "" }));
    assert_eq!(reply["registration"], "false");
    assert_eq!(reply["userid"], stage.alice.user.as_str());
    assert_eq!(reply["fullname"], "Ozeki Alice");
    assert_eq!(reply["nick"], "Alice");
    for (name, url) in reply["urls"].as_object().unwrap() {
        let expected = match name.as_str() {
            "login" | "conversation" | "blocklist" | "friends" | "reports" | "availability"
            | "notification" => {
                format!("{base}?srv=chatserver&api=chat{name}")
            }
            "workspace" => format!("{base}?srv=chatowner&api=workspace"),
            _ => String::new(),
        };
        assert_eq!(url, &json!(expected), "{name}");
    }
    let key = reply["rsakey"].as_str().unwrap();
    let begin =
        "-----BEGIN RSA PRIVATE KEY-----\r\nProc-Type: 4,ENCRYPTED\r\nDEK-Info: AES-256-CFB,";
    assert!(key.starts_with(begin) && key.ends_with("-----END RSA PRIVATE KEY-----\r\n"), "{key}");
}

#[tokio::test]
async fn user_and_conversation_ids_are_the_documented_digests() {
    let world = World::start().await;
    let admin = world.person_at(" Admin@OZEKI.hu ", "Administrator").await;
    assert_eq!(admin.user.as_str(), "d574638619cbff603bf857164c47e850");
    let alice = chatserver::domain::UserId::parse(ALICE).unwrap();
    let conversation = chatserver::domain::ConversationId::one_to_one(admin.user, alice);
    assert_eq!(conversation.as_str(), CONVERSATION);
}

#[tokio::test]
async fn a_message_is_downloaded_byte_for_byte_as_it_was_sent() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let instance = alice.instance().await;
    let date = "2024-03-08 12:00:00";
    let text = r#"{"ID":"m-1","Type":"Me\"ss\\age é","Created":"2024-03-08 12:00:00","ValidUntil":"","Data":"AAEC\/w=="}"#;
    let fields = json!({ "instance": instance, "message": text });
    let added = alice.does("add", fields).await;
    added.ok();
    let accepted = r#""message":{"ID":"m-1","Type":"Me\"ss\\age é","Created":"2024-03-08 12:00:00","ValidUntil":""}}"#;
    assert_eq!(added.text, format!(r#"{{"status":"OK","errormessage":"",{accepted}"#));
    let plain = message_with_id("m-2", "", date);
    alice.does("add", json!({ "instance": instance, "message": plain })).await.ok();
    assert_eq!(
        bob.downloads().await.text,
        concat!(
            r#"{"status":"OK","errormessage":"","messages":["#,
            r#"{"ID":"m-1","Type":"Me\"ss\\age é","Created":"2024-03-08 12:00:00","ValidUntil":"","Data":"AAEC/w=="},"#,
            r#"{"ID":"m-2","Type":"Message","Created":"2024-03-08 12:00:00","ValidUntil":"","Data":""}],"reports":[]}"#,
        )
    );
}
