//! Bad input does no harm: every request is refused as the protocol says, nothing hangs, and no user's data
//! changes.

mod bodies;
mod fields;
mod garbage;
mod headers;
mod mistakes;
mod order;
mod parsers;
mod settings;
mod wire;

use chatserver::api::{ACTIONS, Action};
use proptest::strategy::Strategy;
use serde_json::{Value, json};

use crate::harness::person::{Answer, Person, Prepared, message_with_id};
use crate::harness::random::{holds, runtime};
use crate::harness::reports::settled;
use crate::harness::world::World;

/// Refusals that a client can cause (docs/protocol.md#table-c).
const REFUSALS: &[(u16, &str)] = &[
    (400, "bad_request"),
    (400, "unknown_action"),
    (400, "invalid_field"),
    (401, "invalid_credentials"),
    (401, "invalid_signature"),
    (401, "timestamp_out_of_range"),
    (403, "not_friends"),
    (404, "conversation_not_found"),
    (404, "unknown_api"),
    (405, "method_not_allowed"),
    (409, "instance_changed"),
    (409, "message_conflict"),
    (409, "replayed"),
    (413, "too_large"),
    (415, "unsupported_media_type"),
];

/// Asserts that this is a refusal in the protocol's envelope. Returns its code.
#[track_caller]
fn refusal(status: u16, request_id: Option<&str>, text: &str) -> String {
    let shown = || format!("{status}: {}", text.chars().take(300).collect::<String>());
    assert!(text.starts_with(r#"{"status":"ERROR","errormessage":"#), "{}", shown());
    let json: Value = serde_json::from_str(text).unwrap();
    let code = json["errorcode"].as_str().unwrap();
    assert!(REFUSALS.contains(&(status, code)), "{}", shown());
    // The message is one clear sentence, however long the request was.
    assert!((1..500).contains(&json["errormessage"].as_str().unwrap().len()), "{}", shown());
    assert!(request_id.is_some_and(|id| uuid::Uuid::parse_str(id).is_ok()), "{}", shown());
    code.to_owned()
}

/// Returns `None` for a success, else the code of the refusal.
#[track_caller]
fn outcome(answer: &Answer) -> Option<String> {
    if answer.status.is_success() {
        answer.ok();
        return None;
    }
    let id = answer.headers.get("x-request-id").map(|id| id.to_str().unwrap());
    Some(refusal(answer.status.as_u16(), id, &answer.text))
}

/// Alice and Bob, with data that bad input could damage.
struct Stage {
    world: World,
    alice: Person,
    bob: Person,
    /// ID of a message from Bob that Alice has not viewed.
    unread: String,
}

impl Stage {
    async fn set() -> Self {
        Self::with(&[]).await
    }

    async fn with(settings: &[(&str, &str)]) -> Self {
        // Turn off the limit on failures, so that each wrong signature gets its own refusal and never
        // `rate_limited`.
        let mut all = vec![("limits.failures_per_minute", "0")];
        all.extend_from_slice(settings);
        let world = World::with(&all).await;
        let (alice, bob) = world.alice_and_bob().await;
        alice.sends("hello").await;
        let unread = bob.sends("hi").await;
        Self { world, alice, bob, unread }
    }

    /// Returns everything that Alice and Bob can see, byte for byte.
    async fn everything(&self) -> String {
        let mut all = settled(&self.alice, &self.bob).await;
        for person in [&self.alice, &self.bob] {
            all += &person.asks("list", json!({})).await.text;
            for (api, action) in [
                ("chatfriends", "list"),
                ("chatfriends", "requests"),
                ("chatblocklist", "blocklist"),
            ] {
                all += &person.prepares(api, action, &json!({})).sent().await.text;
            }
        }
        all
    }

    /// Asserts that two results of [`Stage::everything`] are equal.
    #[track_caller]
    fn assert_unchanged(before: &str, after: &str, why: &str) {
        assert!(before == after, "{why} changed the data\nfrom {before}\nto   {after}");
    }

    /// Returns a valid body from Alice for this action.
    async fn right(&self, action: &Action) -> Value {
        let mut body = json!({ "action": action.name, "clientversioncode": 3 });
        let fields = body.as_object_mut().unwrap();
        if action.name == "login" {
            fields.insert("apikey".to_owned(), json!(self.alice.api_key.as_str()));
            return body;
        }
        let date = self.world.clock.date();
        fields.insert("timestamp".to_owned(), json!(date));
        fields.insert("nonce".to_owned(), json!(uuid::Uuid::new_v4().to_string()));
        let id = uuid::Uuid::new_v4().to_string();
        for name in fields_of(action) {
            let value = match *name {
                "conversationid" => json!(self.alice.conversation),
                "instance" => json!(self.alice.instance().await),
                "message" => message_with_id(&id, "again", &date),
                "color" => json!("#bae1ff"),
                "hideid" => json!("a;b"),
                "limit" => json!(10),
                "extended" => json!(true),
                "ack" => json!(0),
                "friend" => json!("carol@example.com"),
                "workspacename" => json!("alice.ozeki.chat"),
                "friendid" | "userid" => json!("00000000000000000000000000000000"),
                "messageids" => json!([self.unread]),
                name if name.ends_with("date") => json!(date),
                _ => json!(id),
            };
            fields.insert((*name).to_owned(), value);
        }
        body
    }

    fn prepares(&self, action: &Action, body: impl Into<Vec<u8>>) -> Prepared {
        self.alice.prepares_bytes_for(action.api.srv, action.api.name, body.into())
    }
}

/// Returns the actions of users. `tests/it/invitations.rs` is about those of people who are no users yet.
fn user_actions() -> Vec<Action> {
    ACTIONS.iter().filter(|action| action.api.name != "chatregister").copied().collect()
}

/// Returns the fields of an action, without those that every action has (docs/protocol.md#7-actions).
fn fields_of(action: &Action) -> &'static [&'static str] {
    match action.name {
        "list" if action.api.name == "chatconversation" => &["extended"],
        "list" | "login" | "requests" | "blocklist" => &[],
        _ if action.api.name == "chatavailability" => &[],
        "download" if action.api.name == "chatnotification" => &["ack"],
        "add" if action.api.name == "chatfriends" => &["friend"],
        "accept" | "decline" | "remove" => &["friendid"],
        "block" | "unblock" => &["userid"],
        "workspaceregister" => &["workspacename"],
        "add" => &["conversationid", "instance", "message"],
        "clear" => &["conversationid", "instance"],
        "download" => &[
            "conversationid",
            "instance",
            "firstmessagedate",
            "firstmessageid",
            "firstreportdate",
            "firstreportid",
            "extended",
        ],
        "downloadpartial" => &[
            "conversationid",
            "instance",
            "lastmessagedate",
            "lastmessageid",
            "lastreportdate",
            "lastreportid",
            "limit",
            "extended",
        ],
        "show" => &["conversationid", "extended"],
        "delivered" | "viewed" => &["conversationid", "instance", "messageids"],
        "setlistitembackgroundcolor" => &["conversationid", "color"],
        "hide" => &["conversationid", "hideid"],
        _ => &["conversationid"],
    }
}

/// Runs a property against one shared stage. Starting a server for each case would take most of the time.
fn for_all<S: Strategy>(
    number: u32,
    settings: &[(&str, &str)],
    strategy: &S,
    property: &impl AsyncFn(&Stage, S::Value),
) {
    let runtime = runtime();
    let stage = runtime.block_on(Stage::with(settings));
    holds(&runtime, number, strategy, async |value| property(&stage, value).await);
}
