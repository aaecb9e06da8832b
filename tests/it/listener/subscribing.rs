//! The first frame of a listener: who may subscribe, and how everyone else is refused.

use std::time::{Duration, Instant};

use chatserver::domain::{ApiKey, Email, Parse as _, StationId, UserId};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::harness::person::Answer;
use crate::harness::world::{World, until};
use crate::harness::ws_client::WsClient;

/// Returns the answer to a first frame: the envelope and the close frame, as they arrive.
async fn answer_to(world: &World, frame: &Value) -> Vec<Message> {
    let mut listener = WsClient::opens(world.address).await;
    listener.says(frame).await;
    let mut answer = Vec::new();
    while let Some(Ok(message)) = listener.socket.next().await {
        answer.push(message);
    }
    answer
}

/// Sends an invalid first frame and asserts that it is refused with this code.
async fn is_refused(world: &World, frame: &str, code: &str) -> Value {
    let mut listener = WsClient::opens(world.address).await;
    listener.socket.send(Message::text(frame)).await.unwrap();
    listener.is_refused(code).await
}

#[tokio::test]
async fn a_wrong_first_frame_is_refused_by_field() {
    let world = World::start().await;
    let (_alice, bob) = world.alice_and_bob().await;
    let right = bob.subscription();
    for (frame, code) in [
        ("subscribe".to_owned(), "bad_request"),
        ("[]".to_owned(), "bad_request"),
        (String::new(), "bad_request"),
        (right.to_string().replace('{', r#"{"action":"subscribe","#), "bad_request"),
        (right.to_string().replace("subscribe", "shout"), "unknown_action"),
        (json!({ "action": "ack", "sequence": 1 }).to_string(), "unknown_action"),
    ] {
        is_refused(&world, &frame, code).await;
    }
    for field in ["action", "userid", "stationid", "timestamp", "signature"] {
        let mut missing = right.clone();
        missing.as_object_mut().unwrap().remove(field);
        let mut spoilt = vec![missing];
        for value in [json!(null), json!(""), json!(7), json!(["x"])] {
            let mut malformed = right.clone();
            malformed[field] = value;
            spoilt.push(malformed);
        }
        if field != "action" {
            let mut malformed = right.clone();
            malformed[field] = json!("0123456789ABCDEF");
            spoilt.push(malformed);
        }
        for frame in spoilt {
            let refusal = is_refused(&world, &frame.to_string(), "invalid_field").await;
            let sentence = refusal["errormessage"].as_str().unwrap();
            assert!(sentence.starts_with(field), "{sentence}");
        }
    }
    let mut more = right;
    more["clientversioncode"] = json!(3);
    let mut listener = WsClient::opens(world.address).await;
    listener.says(&more).await;
    assert_eq!(listener.hears().await.unwrap()["status"], "OK");
}

#[tokio::test]
async fn refused_subscriptions_do_not_reveal_which_users_exist() {
    let world = World::with(&[("limits.failures_per_minute", "0")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut listening = bob.listens_from_now_on().await;
    let nobody = Email::parse("nobody@example.com").unwrap();
    let ghost = bob.posing_as(UserId::of(&nobody));
    let mallory = bob.with_key(ApiKey::generate());
    let eve = world.person("Eve").await;
    let stolen = alice.posing_as(bob.user);
    world.disables(&eve).await;
    let refused = answer_to(&world, &mallory.subscription()).await;
    let [Message::Text(envelope), Message::Close(Some(close))] = &refused[..] else {
        panic!("{refused:?}");
    };
    let envelope: Value = serde_json::from_str(envelope).unwrap();
    assert_eq!(envelope["errorcode"], "invalid_signature");
    assert_eq!(u16::from(close.code), 4000);
    for other in [&ghost, &eve, &stolen] {
        assert_eq!(answer_to(&world, &other.subscription()).await, refused);
    }
    // A signature by the right user, but over another station or timestamp.
    let elsewhere = bob.elsewhere();
    let mut moved = bob.subscription();
    moved["stationid"] = json!(elsewhere.station.as_str());
    assert_eq!(answer_to(&world, &moved).await, refused);
    world.clock.advances(1);
    let mut later = bob.subscription();
    later["timestamp"] = json!(world.clock.date());
    world.clock.advances(1);
    let newer = bob.subscription();
    later["signature"] = newer["signature"].clone();
    assert_eq!(answer_to(&world, &later).await, refused);
    // None of these attempts replaced the listener, or was notified of anything.
    listening.hears_nothing().await;
    alice.sends("for Bob").await;
    assert_eq!(listening.takes().await.conversations, [bob.conversation.as_str()]);
}

#[tokio::test]
async fn no_listener_is_admitted_with_a_key_that_has_just_ended() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let store = &world.app().store;
    for person in [&alice, &bob] {
        // The server remembers the key and the station for some seconds.
        person.lists().await;
        drop(person.listens_from_now_on().await);
    }
    store.set_api_key(alice.user, ApiKey::generate()).await.unwrap();
    is_refused(&world, &alice.subscription().to_string(), "invalid_signature").await;
    world.disables(&bob).await;
    is_refused(&world, &bob.subscription().to_string(), "invalid_signature").await;
}

#[tokio::test]
async fn a_station_that_was_just_revoked_is_bound_again_by_its_listener() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    drop(bob.listens_from_now_on().await);
    assert!(world.app().store.unbind_station(bob.user, bob.station).await.unwrap());
    let mut ear = bob.listens_from_now_on().await;
    alice.sends("for Bob").await;
    assert_eq!(ear.takes().await.conversations, [bob.conversation.as_str()]);
}

/// Sends the first frame and asserts that it is accepted.
async fn subscribes(world: &World, frame: &Value) -> WsClient {
    let mut listener = WsClient::opens(world.address).await;
    listener.says(frame).await;
    assert_eq!(listener.hears().await.unwrap()["status"], "OK");
    listener
}

#[tokio::test]
async fn a_subscription_is_accepted_once() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    for nonce in [None, Some("once")] {
        let without = || bob.subscription_without_nonce();
        let captured = nonce.map_or_else(without, |nonce| bob.subscription_with(nonce));
        let mut listener = subscribes(&world, &captured).await;
        listener.takes().await;
        for advance in [0, 299] {
            world.clock.advances(advance);
            is_refused(&world, &captured.to_string(), "replayed").await;
        }
        // The replays did not replace the listener.
        alice.sends("for Bob").await;
        assert_eq!(listener.is_told().await.conversations, [bob.conversation.as_str()]);
    }
    // Frames with different nonces are different subscriptions, even within the same second.
    let frames = [bob.subscription_without_nonce(), bob.subscription(), bob.subscription()];
    for frame in &frames {
        subscribes(&world, frame).await;
    }
    let world = world.restarts(&[]).await;
    for frame in &frames {
        is_refused(&world, &frame.to_string(), "replayed").await;
    }
    world.clock.advances(301);
    let refusal = is_refused(&world, &frames[0].to_string(), "timestamp_out_of_range").await;
    assert_eq!(refusal["servertime"], world.clock.date());
    world.clock.jumps(-1000);
    is_refused(&world, &frames[0].to_string(), "timestamp_out_of_range").await;
}

#[tokio::test]
async fn a_nonce_is_signed_and_has_a_grammar() {
    let world = World::with(&[("limits.failures_per_minute", "0")]).await;
    let (_alice, bob) = world.alice_and_bob().await;
    let longest = "-09azAZ".repeat(9) + "x";
    assert_eq!(longest.len(), 64);
    for nonce in ["x", longest.as_str()] {
        subscribes(&world, &bob.subscription_with(nonce)).await;
    }
    for nonce in [&format!("{longest}x"), "a b", "\n", "\u{e9}", "a_b"] {
        let refusal =
            is_refused(&world, &bob.subscription_with(nonce).to_string(), "invalid_field").await;
        assert!(refusal["errormessage"].as_str().unwrap().starts_with("nonce"), "{refusal}");
    }
    let mut other = bob.subscription();
    other["nonce"] = json!("another");
    is_refused(&world, &other.to_string(), "invalid_signature").await;
    other.as_object_mut().unwrap().remove("nonce");
    is_refused(&world, &other.to_string(), "invalid_signature").await;
    let mut added = bob.subscription_without_nonce();
    added["nonce"] = json!("another");
    is_refused(&world, &added.to_string(), "invalid_signature").await;
    // An empty string counts as absent, as with every optional string.
    added["nonce"] = json!("");
    subscribes(&world, &added).await;
}

#[tokio::test]
async fn a_subscription_refused_at_a_limit_can_be_repeated() {
    let world = World::with(&[("http.listeners", "2"), ("http.listeners_per_user", "1")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let listening = bob.listens().await;
    let phone = bob.elsewhere().subscription();
    is_refused(&world, &phone.to_string(), "rate_limited").await;
    let alices = alice.listens().await;
    let carol = world.person("Carol").await;
    let carols = carol.subscription();
    is_refused(&world, &carols.to_string(), "unavailable").await;
    drop((listening, alices));
    for frame in [phone, carols] {
        until("there is room", async || {
            let mut listener = WsClient::opens(world.address).await;
            listener.says(&frame).await;
            let answer = listener.hears().await.unwrap();
            assert_ne!(answer["errorcode"], "replayed");
            answer["status"] == "OK"
        })
        .await;
    }
}

#[tokio::test]
async fn subscriptions_count_against_their_user() {
    let limits = [("limits.requests_per_second", "1"), ("limits.requests_burst", "2")];
    let world = World::with(&limits).await;
    let (alice, bob) = world.alice_and_bob().await;
    let _listening = bob.listens().await;
    bob.asks("list", json!({})).await.ok();
    is_refused(&world, &bob.elsewhere().subscription().to_string(), "rate_limited").await;
    alice.listens().await;
}

#[tokio::test]
async fn failures_to_subscribe_count_against_their_address() {
    let world = World::with(&[("limits.failures_per_minute", "2")]).await;
    let (_alice, bob) = world.alice_and_bob().await;
    let mallory = bob.with_key(ApiKey::generate());
    let forgery = mallory.subscription().to_string();
    is_refused(&world, &forgery, "invalid_signature").await;
    mallory.asks("list", json!({})).await.refused(401, "invalid_signature");
    is_refused(&world, &forgery, "rate_limited").await;
    mallory.logs_in().await.refused(429, "rate_limited");
    bob.listens().await;
}

#[tokio::test]
async fn a_client_that_does_not_subscribe_is_disconnected() {
    let world = World::start().await;
    let mut listener = WsClient::opens(world.address).await;
    let opened = Instant::now();
    listener.socket.send(Message::Ping("a ping is no subscription".into())).await.unwrap();
    assert_eq!(listener.hears().await, Err(Some(4000)));
    // No event marks the 10 s that a client has, so they are measured. They have a lower bound only.
    let waited = opened.elapsed();
    assert!(waited > Duration::from_secs(9), "{waited:?}");
}

#[tokio::test]
async fn a_user_has_a_bounded_number_of_listeners() {
    let world = World::with(&[("http.listeners_per_user", "2")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let phone = bob.elsewhere();
    let mut first = bob.listens_from_now_on().await;
    let mut second = phone.listens().await;
    let laptop = bob.elsewhere();
    is_refused(&world, &laptop.subscription().to_string(), "rate_limited").await;
    // A newer connection of a station takes its slot over. Other users have slots of their own.
    let mut third = phone.listens().await;
    assert_eq!(second.is_closed().await, Some(4001));
    alice.listens().await;
    alice.sends("hi").await;
    first.takes().await;
    third.takes().await;
    drop(third);
    until("the place is free", async || {
        let mut listener = WsClient::opens(world.address).await;
        listener.says(&laptop.subscription()).await;
        listener.hears().await.unwrap()["status"] == "OK"
    })
    .await;
}

/// Opens a WebSocket, or returns the refusal.
async fn opens(
    world: &World,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<WsClient, Answer> {
    match WsClient::tries(world.address, path, headers).await {
        Ok((listener, _)) => Ok(listener),
        Err(Error::Http(response)) => Err(Answer {
            status: response.status(),
            headers: response.headers().clone(),
            text: String::from_utf8(response.into_body().unwrap_or_default()).unwrap(),
        }),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn unsubscribed_sockets_have_a_bound_of_their_own() {
    let world = World::with(&[("http.listeners", "2")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let _alices = alice.listens().await;
    let bobs = bob.listens().await;
    // Subscribed listeners do not count against the bound on unsubscribed sockets.
    let silent = WsClient::opens(world.address).await;
    let mut waiting = WsClient::opens(world.address).await;
    let crowded = opens(&world, "/ws", &[]).await.err().unwrap();
    crowded.refused(503, "unavailable");
    assert_eq!(crowded.headers["retry-after"], "1");
    // Ordinary requests are still served.
    alice.sends("hi").await;
    drop(silent);
    until("there is room", async || opens(&world, "/ws", &[]).await.is_ok()).await;
    // Unsubscribed sockets do not count against the bound on listeners either.
    drop(bobs);
    let phone = bob.elsewhere();
    until("a listener's place is free", async || {
        waiting.says(&phone.subscription()).await;
        if waiting.hears().await.unwrap()["status"] == "OK" {
            return true;
        }
        waiting = WsClient::opens(world.address).await;
        false
    })
    .await;
    waiting.takes().await;
}

#[tokio::test]
async fn only_allowed_origins_can_listen() {
    let allowed = "https://chat.example.com, http://localhost:3000";
    let world = World::with(&[("http.listener_origins", allowed)]).await;
    for origin in ["https://chat.example.com", "http://localhost:3000"] {
        assert!(opens(&world, "/ws", &[("origin", origin)]).await.is_ok(), "{origin}");
    }
    assert!(opens(&world, "/ws", &[]).await.is_ok());
    for origin in ["https://evil.example.com", "http://chat.example.com", "null", ""] {
        let refusal = opens(&world, "/ws", &[("origin", origin)]).await.err().unwrap();
        let refusal = refusal.refused(400, "invalid_field");
        assert!(refusal["errormessage"].as_str().unwrap().starts_with("Origin"), "{refusal}");
    }
    let open_to_all = World::start().await;
    assert!(opens(&open_to_all, "/ws", &[("origin", "https://evil.example.com")]).await.is_ok());
}

#[tokio::test]
async fn only_a_handshake_opens_a_listener() {
    let world = World::with(&[("http.error_status", "always_200")]).await;
    let (_alice, bob) = world.alice_and_bob().await;
    let http = reqwest::Client::new();
    for path in ["/ws", "/ozeki/ws"] {
        let url = format!("http://{}{path}", world.address);
        let plain = Answer::of(http.get(&url).send().await.unwrap()).await;
        plain.refused(400, "bad_request");
        let posted = Answer::of(http.post(&url).body("{}").send().await.unwrap()).await;
        posted.refused(405, "method_not_allowed");
        for (header, spoilt) in [
            ("sec-websocket-key", "too short"),
            ("sec-websocket-version", "12"),
            ("upgrade", "h2c"),
            ("connection", "close"),
        ] {
            let refused = opens(&world, path, &[(header, spoilt)]).await.err();
            refused.unwrap_or_else(|| panic!("{header}")).refused(400, "bad_request");
        }
        let mut listener = opens(&world, path, &[]).await.ok().unwrap();
        listener.says(&bob.subscription()).await;
        assert_eq!(listener.hears().await.unwrap()["status"], "OK");
    }
    opens(&world, "/ws/", &[]).await.err().unwrap().refused(404, "unknown_api");
}

#[tokio::test]
async fn a_login_returns_the_url_of_the_listener() {
    for (public_url, ws, wss) in [
        ("http://chat.example.com/", "ws://chat.example.com/ws", ""),
        ("http://chat.example.com:8080/ozeki/", "ws://chat.example.com:8080/ozeki/ws", ""),
        ("https://chat.example.com/", "", "wss://chat.example.com/ws"),
        ("https://chat.example.com/ozeki/index.php", "", "wss://chat.example.com/ozeki/ws"),
    ] {
        let world = World::with(&[("http.public_url", public_url)]).await;
        let told = world.person("Alice").await.logs_in().await.ok();
        assert_eq!(told["listeners"], json!({ "udp": "", "ws": ws, "wss": wss }));
    }
    let world = World::start().await;
    let told = world.person("Alice").await.logs_in().await.ok();
    assert_eq!(told["listeners"]["ws"], format!("ws://{}/ws", world.address));
}

#[tokio::test]
async fn one_station_id_of_two_users_means_two_stations() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut stranger = world.person("Stranger").await;
    stranger.station = StationId::parse(bob.station.as_str()).unwrap();
    let mut bobs = bob.listens_from_now_on().await;
    let mut strangers = stranger.listens().await;
    let told = strangers.takes().await;
    assert_eq!(told.lists, [stranger.user.to_string()]);
    assert!(told.conversations.is_empty() && told.friends.is_empty(), "{told:?}");
    alice.sends("for Bob alone").await;
    assert_eq!(bobs.takes().await.conversations, [bob.conversation.as_str()]);
    alice.clears().await.ok();
    assert_eq!(bobs.takes().await.conversations, [bob.conversation.as_str()]);
    strangers.hears_nothing().await;
}
