//! Listeners of a server process: changes by commands, log lines, and shutdown.

use serde_json::json;

use crate::harness::process::Workplace;
use crate::harness::sockets::HalfSent;
use crate::harness::world::until;
use crate::harness::ws_client::WsClient;
use crate::harness::ws_frames::{CLOSE, FINAL, Raw};

/// The server waits 5 s for a body, the time within which it notices a change by another process
/// (docs/protocol.md#staying). What happens before it gives a [`HalfSent`] request up has happened within that time.
const FIVE_SECONDS: (&str, &str) = ("CHATSERVER_HTTP__BODY_TIMEOUT_SECONDS", "5");

#[tokio::test]
async fn changes_by_commands_are_notified() {
    let place = Workplace::new();
    let server = place.serves(&[FIVE_SECONDS]).await;
    let (mut alice, mut bob) = (place.adds(&server, "Alice"), place.adds(&server, "Bob"));
    let half = alice.prepares("chatconversation", "list", &json!({}));
    let mut listener = alice.listens_from_now_on().await;
    place.befriends(&mut alice, &mut bob);
    let five_seconds = HalfSent::begins(&half).await;
    let told = listener.takes().await;
    five_seconds.still_waits();
    assert_eq!(told.friends, [bob.user.to_string()]);
    assert_eq!(told.lists, [alice.user.to_string()]);
    place.tells(&["user", "set", &bob.email, "--nick", "Robert"]);
    let five_seconds = HalfSent::begins(&half).await;
    let told = listener.takes().await;
    five_seconds.still_waits();
    assert!(
        told.conversations == [alice.conversation.as_str()]
            || told.friends == [bob.user.to_string()],
        "{told:?}"
    );
}

#[tokio::test]
async fn listeners_that_a_command_locks_out_are_closed() {
    let place = Workplace::new();
    let server = place.serves(&[FIVE_SECONDS]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let half = bob.prepares("chatconversation", "list", &json!({}));
    let (phone, laptop) = (alice.elsewhere(), alice.elsewhere());
    let mut listeners = Vec::new();
    for station in [&alice, &phone, &laptop] {
        listeners.push(station.listens_from_now_on().await);
    }
    let [mut alices, mut phones, mut laptops] = <[WsClient; 3]>::try_from(listeners).ok().unwrap();
    let mut bobs = bob.listens_from_now_on().await;
    let is_let_go = async |listener: &mut WsClient| {
        let five_seconds = HalfSent::begins(&half).await;
        assert_eq!(listener.is_closed().await, Some(4003));
        five_seconds.still_waits();
    };
    place.tells(&["station", "revoke", &alice.email, phone.station.as_str()]);
    is_let_go(&mut phones).await;
    alice.lists().await;
    place.tells(&["user", "rotate-key", &alice.email]);
    // The server has just used the old key, and may still take it for requests. It never takes it for a listener.
    let mut ear = WsClient::opens(server.address).await;
    ear.says(&alice.subscription()).await;
    ear.is_refused("invalid_signature").await;
    is_let_go(&mut alices).await;
    is_let_go(&mut laptops).await;
    bobs.hears_nothing().await;
    place.tells(&["user", "disable", &bob.email]);
    is_let_go(&mut bobs).await;
}

#[tokio::test]
async fn a_listener_is_counted_and_leaves_one_log_line_without_secrets() {
    let place = Workplace::new();
    let server = place.serves(&[("CHATSERVER_LOG__FILTER", "trace")]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let counted = async |line: &str| server.metrics().await.lines().any(|one| one == line);
    let mut listener = bob.listens_from_now_on().await;
    let silent = WsClient::opens(server.address).await;
    alice.sends("hi").await;
    listener.takes().await;
    until("it is counted", async || counted("chatserver_listeners 1").await).await;
    assert!(counted("chatserver_listeners_unsubscribed 1").await);
    assert!(counted("chatserver_listener_notifications_total 2").await);
    let upgrades =
        r#"chatserver_requests_total{api="chatlistener",action="upgrade",outcome="ok"} 2"#;
    assert!(counted(upgrades).await);
    drop((listener, silent));
    let mut refused = WsClient::opens(server.address).await;
    refused.says(&json!({ "action": "subscribe" })).await;
    refused.is_refused("invalid_field").await;
    until("they are gone", async || {
        counted("chatserver_listeners 0").await
            && counted("chatserver_listeners_unsubscribed 0").await
    })
    .await;
    let ended = || -> Vec<String> {
        let log = place.log();
        let lines = log.lines().filter(|line| line.contains("a listener ended"));
        lines.map(ToOwned::to_owned).collect()
    };
    until("the lines are written", async || ended().len() == 3).await;
    let of_bob = format!(
        "client=127.0.0.1 user=\"{}\" code=1000 reason=\"the client is gone\" seconds=",
        bob.user
    );
    assert_eq!(ended().iter().filter(|line| line.contains(&of_bob)).count(), 1, "{:?}", ended());
    assert_eq!(
        ended().iter().filter(|line| line.contains("code=1000")).count(),
        2,
        "{:?}",
        ended()
    );
    let refusal = "client=127.0.0.1 code=4000 reason=\"userid is missing";
    assert_eq!(ended().iter().filter(|line| line.contains(refusal)).count(), 1, "{:?}", ended());
    let log = place.log();
    let signature = bob.subscription()["signature"].as_str().unwrap().to_owned();
    for secret in [bob.station.as_str(), bob.api_key.as_str(), &signature] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn listeners_are_closed_at_shutdown_and_do_not_delay_it() {
    let place = Workplace::new();
    let mut server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let mut listening = alice.listens_from_now_on().await;
    let mut unacknowledged = bob.listens().await;
    unacknowledged.is_told().await;
    let mut silent = WsClient::opens(server.address).await;
    let mut deaf = Raw::listens(&bob.elsewhere()).await;
    let half = HalfSent::begins(&alice.prepares("chatconversation", "list", &json!({}))).await;
    server.signal("TERM");
    for listener in [&mut listening, &mut unacknowledged, &mut silent] {
        assert_eq!(listener.is_closed().await, Some(1001));
    }
    half.completes().await;
    // The server would exit with code 1 if it had to give up on a listener.
    assert_eq!(server.ended().await.code(), Some(0), "{}", place.log());
    let mut last = None;
    while let Some((first, payload)) = deaf.receives().await {
        last = Some((first, u16::from_be_bytes(*payload.first_chunk().unwrap())));
    }
    assert_eq!(last, Some((FINAL | CLOSE, 1001)));

    // Unacknowledged changes are notified after the restart.
    let again = place.starts_at(server.address, &["serve"], &[]).await;
    assert_eq!(bob.listens().await.takes().await.conversations, [bob.conversation.as_str()]);
    assert!(alice.listens().await.takes().await.conversations.is_empty());
    drop(again);
}
