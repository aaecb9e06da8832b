//! A request that is wrong in every way: its mistakes are reported one by one, in the order of the protocol.

use serde_json::{Value, json};

use super::Stage;
use super::wire::Written;
use crate::harness::person::message;

/// A request from Alice that is corrected step by step.
struct Mending<'a> {
    stage: &'a Stage,
    request: Written,
    body: Value,
}

impl Mending<'_> {
    /// Asserts the status, the code and the beginning of the message of the next refusal.
    async fn objection(&self, status: u16, code: &str, sentence: &str) {
        let heard = self.request.heard(&self.stage.world).await;
        assert_eq!((heard.status, heard.outcome().as_deref()), (status, Some(code)), "{heard:?}");
        let said = format!(r#"{{"status":"ERROR","errormessage":"{sentence}"#);
        assert!(heard.body.starts_with(&said), "{sentence}: {heard:?}");
    }

    /// Corrects a header.
    fn header(&mut self, name: &str, value: &str) {
        self.request = self.request.clone().with_header(name, &[value.as_bytes()]);
    }

    /// Sets this body and signs it.
    fn signs(&mut self, body: &str) {
        let api = "chatconversation";
        let signed = self.stage.alice.prepares_bytes(api, body.as_bytes().to_vec());
        let signature = signed.headers["ozeki-signature"].to_str().unwrap().to_owned();
        self.header("ozeki-signature", &signature);
        self.request.body = body.into();
    }

    /// Corrects a field of the body and signs it again.
    fn field(&mut self, name: &str, value: Value) {
        self.body[name] = value;
        self.signs(&self.body.to_string());
    }
}

#[tokio::test]
async fn several_mistakes_are_refused_one_by_one_in_a_fixed_order() {
    let stage =
        Stage::with(&[("limits.body_bytes", "2048"), ("limits.message_bytes", "1024")]).await;
    let (alice, bob) = (&stage.alice, &stage.bob);
    let carol = stage.world.person("Carol").await;
    let carols = chatserver::domain::ConversationId::one_to_one(bob.user, carol.user).to_string();
    // Delivery must be reported now. After the friendship ends it no longer is.
    stage.everything().await;
    stage.world.parts(alice, bob).await;
    let before = stage.everything().await;

    let mut request = Written::of(&alice.prepares_bytes("chatconversation", vec![b'x'; 2049]));
    "DELETE".clone_into(&mut request.method);
    "/nowhere?srv=chatserver&api=chatnothing".clone_into(&mut request.target);
    let mut mending = Mending { stage: &stage, request, body: json!({}) };
    for (name, value) in [
        ("content-type", "text/plain"),
        ("ozeki-station", "here"),
        ("ozeki-user", "me"),
        ("ozeki-signature", "mine"),
    ] {
        mending.header(name, value);
    }

    mending.objection(404, "unknown_api", "unknown API").await;
    "/?srv=chatserver&api=chatnothing".clone_into(&mut mending.request.target);
    mending.objection(405, "method_not_allowed", "the method must be POST").await;
    "POST".clone_into(&mut mending.request.method);
    mending.objection(404, "unknown_api", "unknown API").await;
    "/?srv=chatserver&api=chatconversation".clone_into(&mut mending.request.target);
    let media = "Content-Type must be application/json";
    mending.objection(415, "unsupported_media_type", media).await;
    mending.header("content-type", "application/json");
    let large = "the body exceeds the limit of 2048 bytes";
    mending.objection(413, "too_large", large).await;
    mending.request.is_chunked = true;
    mending.objection(413, "too_large", large).await;
    mending.request.is_chunked = false;
    mending.request.body.pop();
    mending.objection(401, "invalid_signature", "Ozeki-Station must be 32 ").await;
    mending.header("ozeki-station", alice.station.as_str());
    mending.objection(401, "invalid_signature", "Ozeki-User must be 32 ").await;
    mending.header("ozeki-user", alice.user.as_str());
    mending.objection(401, "invalid_signature", "Ozeki-Signature must be 64 ").await;
    mending.header("ozeki-signature", &"0".repeat(64));
    mending.objection(401, "invalid_signature", "Ozeki-Signature does not verify").await;

    mending.signs("x");
    mending.objection(400, "bad_request", "the body must be one JSON object").await;
    mending.signs("{}");
    mending.objection(400, "invalid_field", "timestamp is missing").await;
    mending.field("timestamp", json!("now"));
    mending.objection(400, "invalid_field", "timestamp must be ").await;
    mending.field("timestamp", json!("2024-03-08 12:05:01"));
    mending
        .objection(
            401,
            "timestamp_out_of_range",
            "timestamp is 301 s away from servertime; the limit is 300",
        )
        .await;
    mending.field("timestamp", json!("2024-03-08 12:05:00"));
    mending.objection(400, "invalid_field", "action is missing").await;
    mending.field("action", json!("sing"));
    mending.objection(400, "unknown_action", "action ").await;
    mending.field("action", json!("add"));
    mending.objection(400, "invalid_field", "conversationid is missing").await;
    mending.field("conversationid", json!(carols));
    mending.objection(400, "invalid_field", "instance is missing").await;
    mending.field("instance", json!("0000000000"));
    mending.objection(400, "invalid_field", "message is missing").await;
    mending.field("message", message("hi", "2024-03-08 12:00:00"));
    mending.objection(404, "conversation_not_found", "there is no such conversation").await;
    mending.field("conversationid", json!(alice.conversation));
    mending.objection(409, "instance_changed", "instance is outdated").await;
    mending.field("instance", json!(alice.instance().await));
    mending.objection(403, "not_friends", "you and the other participant are not friends").await;

    Stage::assert_unchanged(&before, &stage.everything().await, "a wrong request");
    let (mut alice, mut bob) = (alice.clone(), bob.clone());
    stage.world.befriends(&mut alice, &mut bob).await;
    let heard = mending.request.heard(&stage.world).await;
    assert_eq!(heard.outcome(), None);
    assert_eq!(bob.reads().await.last().unwrap(), "hi");
}

#[tokio::test]
async fn the_rate_of_a_user_is_checked_after_the_freshness_and_before_the_action() {
    let limits = [("limits.requests_per_second", "1"), ("limits.requests_burst", "20")];
    let stage = Stage::with(&limits).await;
    let signs =
        |body: Value| stage.alice.prepares_bytes("chatconversation", body.to_string().into());
    let old = signs(json!({ "action": "sing", "timestamp": "2024-03-08 11:00:00" }));
    let undated = signs(json!({ "action": "sing" }));
    let unknown = signs(json!({ "action": "sing", "timestamp": "2024-03-08 12:00:00" }));
    while unknown.sent().await.status != 429 {}
    old.sent().await.refused(401, "timestamp_out_of_range");
    undated.sent().await.refused(400, "invalid_field");
    stage
        .alice
        .prepares_bytes("chatconversation", b"{".to_vec())
        .sent()
        .await
        .refused(400, "bad_request");
}

#[tokio::test]
async fn the_freshness_is_checked_before_the_replay() {
    let stage = Stage::set().await;
    let fields = json!({ "conversationid": stage.alice.conversation, "color": "#123456" });
    let api = "chatconversation";
    let request = stage.alice.prepares(api, "setlistitembackgroundcolor", &fields);
    request.sent().await.ok();
    request.sent().await.refused(409, "replayed");
    stage.world.clock.advances(301);
    request.sent().await.refused(401, "timestamp_out_of_range");
}
