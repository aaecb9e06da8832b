//! Rate limits per user and per failing client address, and which proxies may name the client.

use chatserver::domain::ApiKey;
use reqwest::header::HeaderValue;
use serde_json::json;

use crate::harness::person::{Answer, Person};
use crate::harness::world::{World, until};
use crate::harness::ws_client::WsClient;

/// Sends a request signed with a wrong key, for a client at this address behind a proxy.
async fn fails(person: &Person, address: &str) -> Answer {
    let mallory = person.with_key(ApiKey::generate());
    let mut forgery = mallory.prepares("chatconversation", "list", &json!({}));
    forgery.headers.insert("x-forwarded-for", HeaderValue::from_bytes(address.as_bytes()).unwrap());
    forgery.sent().await
}

#[tokio::test]
async fn a_rate_limit_affects_only_its_own_user() {
    let limits = [("limits.requests_per_second", "1"), ("limits.requests_burst", "5")];
    let world = World::with(&limits).await;
    let (alice, bob) = world.alice_and_bob().await;
    for _ in 0..5 {
        alice.asks("list", json!({})).await.ok();
    }
    let shed = alice.asks("list", json!({})).await;
    shed.refused(429, "rate_limited");
    assert_eq!(shed.headers["retry-after"], "1");
    alice.elsewhere().asks("list", json!({})).await.refused(429, "rate_limited");
    bob.asks("list", json!({})).await.ok();
    // A login counts as a request of its user, too.
    alice.logs_in().await.refused(429, "rate_limited");
    bob.logs_in().await.ok();
}

#[tokio::test]
async fn logins_count_against_their_user() {
    let limits = [("limits.requests_per_second", "1"), ("limits.requests_burst", "5")];
    let world = World::with(&limits).await;
    let (alice, bob) = world.alice_and_bob().await;
    let mallory = alice.with_key(ApiKey::generate());
    for _ in 0..5 {
        mallory.logs_in().await.refused(401, "invalid_credentials");
        alice.elsewhere().logs_in().await.ok();
    }
    until("she is above her rate", async || alice.elsewhere().logs_in().await.status == 429).await;
    alice.logs_in().await.refused(429, "rate_limited");
    bob.logs_in().await.ok();
}

#[tokio::test]
async fn captured_requests_do_not_consume_the_rate_of_their_owner() {
    let limits = [
        ("limits.requests_per_second", "1"),
        ("limits.requests_burst", "5"),
        ("limits.failures_per_minute", "20"),
    ];
    let world = World::with(&limits).await;
    let alice = world.person("Alice").await;
    let captured = alice.prepares("chatconversation", "list", &json!({}));
    let frame = alice.subscription();
    let malformed = alice.prepares_bytes("chatconversation", b"{}".to_vec());
    world.clock.advances(1000);
    for _ in 0..6 {
        captured.sent().await.refused(401, "timestamp_out_of_range");
        malformed.sent().await.refused(400, "invalid_field");
        let mut listener = WsClient::opens(world.address).await;
        listener.says(&frame).await;
        listener.is_refused("timestamp_out_of_range").await;
    }
    for _ in 0..5 {
        alice.lists().await;
    }
    // Each of these 18 requests counts as a failure of its client address.
    until("there are too many of them", async || captured.sent().await.status == 429).await;
    captured.sent().await.refused(429, "rate_limited");
}

#[tokio::test]
async fn replays_without_a_timestamp_have_a_rate_of_their_own() {
    let limits = [("limits.requests_per_second", "1"), ("limits.requests_burst", "5")];
    let world = World::with(&limits).await;
    let alice = world.person("Alice").await;
    let body = json!({ "action": "workspaceregister", "workspacename": "alice.ozeki.chat" });
    let captured = alice.prepares_bytes_for("chatowner", "workspace", body.to_string().into());
    until("their rate is used up", async || captured.sent().await.status == 429).await;
    for _ in 0..5 {
        alice.lists().await;
    }
    until("hers is used up, too", async || alice.asks("list", json!({})).await.status == 429).await;
}

#[tokio::test]
async fn an_address_with_too_many_failures_is_limited_but_verified_requests_pass() {
    let world = World::with(&[("limits.failures_per_minute", "3")]).await;
    let (alice, _bob) = world.alice_and_bob().await;
    let mallory = alice.with_key(ApiKey::generate());
    mallory.asks("list", json!({})).await.refused(401, "invalid_signature");
    mallory.logs_in().await.refused(401, "invalid_credentials");
    mallory.asks("list", json!({})).await.refused(401, "invalid_signature");
    let shed = mallory.asks("list", json!({})).await;
    shed.refused(429, "rate_limited");
    let seconds: u64 = shed.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=20).contains(&seconds), "{seconds}");
    mallory.logs_in().await.refused(429, "rate_limited");
    alice.asks("list", json!({})).await.ok();
    alice.logs_in().await.ok();
}

#[tokio::test]
async fn only_a_trusted_proxy_names_the_client() {
    let limits =
        [("limits.failures_per_minute", "1"), ("http.trusted_proxies", "127.0.0.1, 10.0.0.0/8")];
    let world = World::with(&limits).await;
    let alice = world.person("Alice").await;
    fails(&alice, "192.0.2.1").await.refused(401, "invalid_signature");
    fails(&alice, "192.0.2.1").await.refused(429, "rate_limited");
    fails(&alice, "192.0.2.2").await.refused(401, "invalid_signature");
    // Entries that the client put before those of the proxies are ignored.
    fails(&alice, "198.51.100.7, 192.0.2.1, 10.1.2.3").await.refused(429, "rate_limited");
    // An IPv6 subscriber has a whole /64, so it shares one limit.
    fails(&alice, "2001:db8:0:1::1").await.refused(401, "invalid_signature");
    fails(&alice, "2001:db8:0:1:ffff::2").await.refused(429, "rate_limited");
    fails(&alice, "2001:db8:0:2::1").await.refused(401, "invalid_signature");

    let world = World::with(&[("limits.failures_per_minute", "1")]).await;
    let alice = world.person("Alice").await;
    fails(&alice, "192.0.2.1").await.refused(401, "invalid_signature");
    fails(&alice, "192.0.2.2").await.refused(429, "rate_limited");
}

#[tokio::test]
async fn each_element_of_x_forwarded_for_is_judged_by_itself() {
    let limits = [
        ("limits.failures_per_minute", "1"),
        ("http.trusted_proxies", "::ffff:127.0.0.1, 10.0.0.0/8"),
    ];
    let world = World::with(&limits).await;
    let alice = world.person("Alice").await;
    for (forms, other) in [
        (["203.0.113.8:51234", "203.0.113.8"], "203.0.113.9:51234"),
        (["[2001:db8::1]:443", "2001:db8::1"], "[2001:db8:1::1]:443"),
        (["[2001:db8:2::1]", "\"[2001:db8:2::1]:80\""], "[2001:db8:3::1]"),
        (["\"203.0.113.11\"", "::ffff:203.0.113.11"], "\"203.0.113.12\""),
        (["caf\u{e9}, 203.0.113.13", "\u{e9},203.0.113.13 , "], "caf\u{e9}, 203.0.113.14"),
        (["unknown, 203.0.113.15, 10.1.2.3:80", "203.0.113.15"], "203.0.113.16, 10.1.2.3"),
    ] {
        fails(&alice, forms[0]).await.refused(401, "invalid_signature");
        fails(&alice, forms[1]).await.refused(429, "rate_limited");
        fails(&alice, other).await.refused(401, "invalid_signature");
    }
}

#[tokio::test]
async fn a_setting_answers_refusals_with_200() {
    let world = World::with(&[("http.error_status", "always_200")]).await;
    let (alice, _bob) = world.alice_and_bob().await;
    alice.does("clear", json!({ "instance": "0123456789" })).await.refused(200, "instance_changed");
    let nothing = alice.prepares_bytes("chatconversation", b"{".to_vec()).sent().await;
    nothing.refused(200, "bad_request");
    let mallory = alice.with_key(ApiKey::generate());
    mallory.logs_in().await.refused(200, "invalid_credentials");
    // Requests outside the API keep their HTTP status.
    let http = reqwest::Client::new();
    let elsewhere = http.post(format!("http://{}/elsewhere", world.address)).send().await.unwrap();
    Answer::of(elsewhere).await.refused(404, "unknown_api");
}

#[tokio::test]
async fn only_the_aliases_of_the_path_are_served() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    let at = |path: &str| {
        let mut request = alice.prepares("chatconversation", "list", &json!({}));
        request.url = format!("http://{}{path}", world.address);
        request
    };
    let query = "srv=chatserver&api=chatconversation";
    for path in ["/", "/index.php", "/ozeki/", "/ozeki/index.php"] {
        at(&format!("{path}?{query}")).sent().await.ok();
    }
    for served in [
        "/?api=chatconversation&srv=chatserver",
        "/?%73rv=chat%73erver&api=chatconversation&x=1",
        "/?srv=chatserver&srv=other&api=chatconversation&api=chatlogin",
    ] {
        at(served).sent().await.ok();
    }
    for unknown in [
        "/?srv=ChatServer&api=chatconversation",
        "/?srv=chatserver&api=Chatconversation",
        "/?srv=other&srv=chatserver&api=chatconversation",
        "/?srv=chatserver",
        "/",
        "/ozeki?srv=chatserver&api=chatconversation",
        "/index.html?srv=chatserver&api=chatconversation",
    ] {
        at(unknown).sent().await.refused(404, "unknown_api");
    }
}
