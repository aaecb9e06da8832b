//! Clients that send too much: reads from them are rate-limited, and events still reach them meanwhile.

use serde_json::{Value, json};

use crate::harness::person::Person;
use crate::harness::world::World;
use crate::harness::ws_client::WsClient;
use crate::harness::ws_frames::{CONTINUED, FINAL, PING, PONG, Raw, TEXT, frame};

/// Number of frames that takes 30 s to read at 100 frames/s.
const FRAMES: usize = 3000;

/// Returns the frames that a client receives between its flood and the second event. The second event comes at least 1
/// s after the first, which is not acknowledged.
async fn heard_before_two_events(alice: &Person, bob: &Person, flood: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut raw = Raw::listens(bob).await;
    raw.hears().await;
    raw.sends(flood).await;
    let mut heard = Vec::new();
    for text in ["one", "two"] {
        alice.sends(text).await;
        loop {
            let (first, payload) = raw.receives().await.expect("the connection goes on");
            let event: Value = serde_json::from_slice(&payload).unwrap_or_default();
            if first == FINAL | TEXT && event["event"] == "notification" {
                break;
            }
            heard.push((first, payload));
        }
    }
    heard
}

#[tokio::test]
async fn frames_are_rate_limited_and_notifications_overtake_them() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let ping = json!({ "action": "ping" }).to_string();
    for (flood, answer) in [
        (frame(FINAL | PING, b"x"), (FINAL | PONG, b"x".to_vec())),
        (frame(FINAL | TEXT, ping.as_bytes()), (FINAL | TEXT, br#"{"event":"pong"}"#.to_vec())),
    ] {
        let heard = heard_before_two_events(&alice, &bob, &flood.repeat(FRAMES)).await;
        assert!(heard.iter().all(|frame| *frame == answer));
        // The server reads a burst of 200 frames and then 100 per second.
        assert!((200..FRAMES).contains(&heard.len()), "{}", heard.len());
    }
}

#[tokio::test]
async fn empty_fragments_are_rate_limited() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let ping = json!({ "action": "ping" }).to_string();
    let (head, tail) = ping.as_bytes().split_at(5);
    let mut flood = frame(TEXT, head);
    flood.extend(frame(CONTINUED, b"").repeat(20_000));
    flood.extend(frame(FINAL | CONTINUED, tail));
    let mut raw = Raw::listens(&bob).await;
    raw.hears().await;
    raw.sends(&flood).await;
    for text in ["one", "two"] {
        alice.sends(text).await;
        assert_eq!(raw.hears().await["event"], "notification");
    }
    // The connection was slowed down, not closed.
    while raw.hears().await != json!({ "event": "pong" }) {}
}

#[tokio::test]
async fn a_json_ping_is_answered() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut listener = bob.listens_from_now_on().await;
    for _ in 0..3 {
        listener.says(&json!({ "action": "ping" })).await;
        assert_eq!(listener.hears().await, Ok(json!({ "event": "pong" })));
    }
    alice.sends("hi").await;
    assert_eq!(listener.takes().await.conversations, [bob.conversation.as_str()]);
    // A ping does not subscribe.
    let mut first = WsClient::opens(world.address).await;
    first.says(&json!({ "action": "ping" })).await;
    first.is_refused("unknown_action").await;
}

#[tokio::test]
async fn older_acknowledgements_count_against_the_rate_of_the_user() {
    let limits = [("limits.requests_per_second", "1"), ("limits.requests_burst", "30")];
    let world = World::with(&limits).await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut listener = bob.listens().await;
    let first = listener.is_told().await;
    alice.sends("hi").await;
    listener.is_told().await;
    for _ in 0..30 {
        listener.acknowledges(&first).await;
    }
    listener.is_heard().await;
    bob.asks("list", json!({})).await.refused(429, "rate_limited");
}
