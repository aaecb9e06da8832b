//! WebSocket frames: valid ones, malformed ones, and clients that do not read.

use std::time::Duration;

use serde_json::json;

use crate::harness::notification::Notification;
use crate::harness::process::Workplace;
use crate::harness::world::{PATIENCE, World, until};
use crate::harness::ws_frames::{
    BINARY, CLOSE, CONTINUED, FINAL, PING, PONG, Raw, TEXT, frame, unmasked,
};

/// More bytes than all buffers between a client and the server hold.
const FLOOD: usize = 100 << 20;

/// Maximum size of a message from a client, in bytes.
const FRAME_BYTES: usize = 4096;

#[tokio::test]
async fn each_kind_of_wrong_frame_closes_with_its_code() {
    let world = World::start().await;
    let (_alice, bob) = world.alice_and_bob().await;
    let ack = br#"{"action":"ack","sequence":1}"#;
    let too_much = vec![b' '; FRAME_BYTES + 1];
    let fragments = [frame(TEXT, &too_much[1..]), frame(FINAL | CONTINUED, b" ")].concat();
    for (what, bytes, code) in [
        ("binary", frame(FINAL | BINARY, ack), 1003),
        ("not UTF-8", frame(FINAL | TEXT, b"{\"action\":\"\xff\"}"), 1007),
        ("not JSON", frame(FINAL | TEXT, b"ack"), 4000),
        ("no object", frame(FINAL | TEXT, b"[]"), 4000),
        ("nothing", frame(FINAL | TEXT, b""), 4000),
        (
            "twice a key",
            frame(FINAL | TEXT, br#"{"action":"ack","action":"ack","sequence":1}"#),
            4000,
        ),
        ("no action", frame(FINAL | TEXT, br#"{"sequence":1}"#), 4000),
        ("an unknown action", frame(FINAL | TEXT, br#"{"action":"shout","sequence":1}"#), 4000),
        (
            "a second subscription",
            frame(FINAL | TEXT, bob.subscription().to_string().as_bytes()),
            4000,
        ),
        ("no sequence", frame(FINAL | TEXT, br#"{"action":"ack"}"#), 4000),
        ("no number", frame(FINAL | TEXT, br#"{"action":"ack","sequence":"1"}"#), 4000),
        ("a number below 0", frame(FINAL | TEXT, br#"{"action":"ack","sequence":-1}"#), 4000),
        ("too large", frame(FINAL | TEXT, &too_much), 4000),
        ("much too large", frame(FINAL | TEXT, &vec![b' '; 300_000]), 4000),
        ("too large in fragments", fragments, 4000),
        ("not masked", unmasked(FINAL | TEXT, ack), 4000),
        ("a reserved bit", frame(FINAL | 0x40 | TEXT, ack), 4000),
        ("an unknown kind of frame", frame(FINAL | 0x3, ack), 4000),
        ("a continuation of nothing", frame(FINAL | CONTINUED, ack), 4000),
        ("text within text", [frame(TEXT, ack), frame(FINAL | TEXT, ack)].concat(), 4000),
        ("a ping that is too large", frame(FINAL | PING, &[0; 126]), 4000),
        ("a ping in fragments", frame(PING, b"half"), 4000),
    ] {
        let mut raw = Raw::listens(&bob).await;
        raw.sends(&bytes).await;
        let (closed_with, reason) = raw.is_closed().await;
        assert_eq!(closed_with, code, "{what}: {reason}");
        assert!(!reason.is_empty(), "{what}");
    }
    let mut first = Raw::opens(world.address).await;
    first.sends(&frame(FINAL | BINARY, b"hi")).await;
    assert_eq!(first.is_closed().await.0, 1003);
}

#[tokio::test]
async fn a_frame_of_the_maximum_size_is_read() {
    let world = World::start().await;
    let (_alice, bob) = world.alice_and_bob().await;
    let mut raw = Raw::listens(&bob).await;
    let told = Notification::read(&raw.hears().await);
    let mut ack = json!({ "action": "ack", "sequence": told.sequence }).to_string();
    ack.push_str(&" ".repeat(FRAME_BYTES - ack.len()));
    raw.sends(&frame(FINAL | TEXT, ack.as_bytes())).await;
    until("it is acknowledged", async || bob.polls(0).await.is_empty()).await;
}

#[tokio::test]
async fn a_message_may_be_fragmented_with_pings_in_between() {
    let world = World::start().await;
    let (_alice, bob) = world.alice_and_bob().await;
    let mut raw = Raw::listens(&bob).await;
    let told = Notification::read(&raw.hears().await);
    let ack = json!({ "action": "ack", "sequence": told.sequence }).to_string();
    let (head, tail) = ack.as_bytes().split_at(7);
    let bytes = [
        frame(TEXT, head),
        frame(FINAL | PING, b"are you there?"),
        frame(CONTINUED, b""),
        frame(FINAL | CONTINUED, tail),
    ];
    // Sends byte by byte, so that the fragments arrive split as well.
    for byte in bytes.concat() {
        raw.sends(&[byte]).await;
    }
    assert_eq!(raw.receives().await, Some((FINAL | PONG, b"are you there?".to_vec())));
    until("it is acknowledged", async || bob.polls(0).await.is_empty()).await;
}

#[tokio::test]
async fn a_close_frame_is_answered() {
    let world = World::start().await;
    let (_alice, bob) = world.alice_and_bob().await;
    let mut subscribed = Raw::listens(&bob).await;
    subscribed.hears().await;
    let silent = Raw::opens(world.address).await;
    for mut raw in [subscribed, silent] {
        let close = [&1000_u16.to_be_bytes()[..], b"bye"].concat();
        raw.sends(&frame(FINAL | CLOSE, &close)).await;
        assert_eq!(raw.receives().await, Some((FINAL | CLOSE, close)));
        assert_eq!(raw.receives().await, None);
    }
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_disconnected() {
    let place = Workplace::new();
    let server = place.serves(&[("CHATSERVER_HTTP__LISTENER_PING_SECONDS", "1")]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let mut dead = Raw::listens(&bob).await;
    let before = server.memory();
    for number in 0..100 {
        alice.sends(&format!("{number} {}", "x".repeat(10_000))).await;
    }
    // The client has read nothing so far. It still finds what the server sent before it gave up.
    let mut pings = 0;
    let told = Notification::read(&dead.hears().await);
    assert_eq!(told.conversations, [bob.conversation.as_str()]);
    let closed = loop {
        let (first, payload) = dead.receives().await.expect("a close frame");
        pings += usize::from(first == FINAL | PING);
        if first == FINAL | CLOSE {
            break u16::from_be_bytes(*payload.first_chunk().unwrap());
        }
    };
    assert_eq!((closed, pings), (4002, 1));
    let grown = server.memory().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes");
    let mut again = bob.listens().await;
    assert_eq!(again.takes().await.conversations, [bob.conversation.as_str()]);
}

#[tokio::test]
async fn a_client_that_answers_pings_stays_connected() {
    let world = World::with(&[("http.listener_ping_seconds", "1")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut raw = Raw::listens(&bob).await;
    raw.hears().await;
    for _ in 0..3 {
        let (first, payload) = raw.receives().await.unwrap();
        assert_eq!(first, FINAL | PING);
        raw.sends(&frame(FINAL | PONG, &payload)).await;
    }
    alice.sends("hi").await;
    assert_eq!(Notification::read(&raw.hears().await).conversations, [bob.conversation.as_str()]);
}

#[tokio::test]
async fn a_client_that_sends_pings_and_never_reads_takes_bounded_memory() {
    let place = Workplace::new();
    let mut server = place.serves(&[]).await;
    let (_alice, bob) = place.alice_and_bob(&server);
    let mut deaf = Raw::listens(&bob).await;
    let mut deaf_elsewhere = Raw::opens(server.address).await;
    let ping = frame(FINAL | PING, &[b'x'; 125]);
    let before = server.memory();
    let mut most = before;
    let flooding = async {
        let both =
            (deaf.floods(&ping, FLOOD, PATIENCE), deaf_elsewhere.floods(&ping, FLOOD, PATIENCE));
        tokio::join!(both.0, both.1)
    };
    let is_let_go = || {
        let log = place.log();
        log.lines().any(|line| line.contains("a listener ended") && line.contains("code=4000"))
    };
    let watching = until("the one that does not subscribe is let go", async || {
        most = most.max(server.memory());
        is_let_go()
    });
    tokio::select! {
        _ = flooding => {}
        () = watching => {}
    }
    let grown = most - before;
    assert!(grown < 16 << 20, "{grown} bytes");
    until("it is let go", async || is_let_go()).await;
    // The subscribed client is throttled, not disconnected. A new connection of its station replaces it.
    let mut listening = bob.listens().await;
    assert_eq!(listening.takes().await.conversations, [bob.conversation.as_str()]);

    // Such a client does not delay the shutdown either.
    let mut deaf = Raw::listens(&bob).await;
    deaf.floods(&ping, FLOOD, Duration::from_secs(1)).await;
    server.signal("TERM");
    // The server would exit with code 1 if it had to give up on the client.
    assert_eq!(server.ended().await.code(), Some(0), "{}", place.log());
}
