//! Shutdown: requests are answered, requests that never end are cut, and the exit code tells the outcome.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::person::message;
use crate::harness::process::{Process, Workplace};
use crate::harness::sockets::{HalfSent, answer_of, connected, rest_of};
use crate::harness::world::until;
use crate::harness::ws_client::WsClient;

/// Number of requests. It exceeds 128, the number that the runtime lets one task accept before it yields.
const REQUESTS: usize = 300;

/// Sends a request, reads its answer and returns the connection, which is kept alive.
async fn kept_alive(server: &Process, request: &[u8]) -> TcpStream {
    let mut socket = connected(server.address, request).await;
    assert!(answer_of(&mut socket, "]}").await.starts_with("HTTP/1.1 200"));
    socket
}

/// Sends requests on separate connections, then the signal at once. Asserts that all are answered and stored.
async fn every_request_is_answered(signal: &str, settings: &[(&str, &str)]) {
    let place = Workplace::new();
    let mut server = place.serves(settings).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let instance = alice.instance().await;
    let mut waiting = Vec::new();
    let mut ids = HashSet::new();
    for number in 0..REQUESTS {
        let message = message(&format!("message {number}"), &alice.date());
        let sender = if number % 2 == 0 { &alice } else { &bob };
        let request =
            sender.prepares_add(&instance, &message).with_header("connection", "close").bytes();
        let (last, most) = request.split_last().unwrap();
        waiting.push((connected(server.address, most).await, *last));
        ids.insert(message["ID"].as_str().unwrap().to_owned());
    }
    for (socket, last) in &mut waiting {
        socket.write_all(&[*last]).await.unwrap();
    }
    server.signal(signal);
    let mut answered = 0;
    for (socket, _) in waiting {
        answered += usize::from(rest_of(socket).await.contains(r#"{"status":"OK""#));
    }
    assert_eq!(answered, REQUESTS);
    assert_eq!(server.ended().await.code(), Some(0), "{}", place.log());

    let again = place.starts_at(server.address, &["serve"], &[]).await;
    let stored = alice.downloads().await.message_ids();
    assert_eq!(stored.len(), REQUESTS);
    assert_eq!(stored.into_iter().collect::<HashSet<_>>(), ids);
    drop(again);
}

#[tokio::test]
async fn sigterm_leaves_no_request_without_an_answer() {
    every_request_is_answered("TERM", &[]).await;
}

#[tokio::test]
async fn sigint_leaves_no_request_without_an_answer() {
    every_request_is_answered("INT", &[]).await;
}

#[tokio::test]
async fn sigterm_answers_clients_that_wait_for_a_connection_slot() {
    // Alice's idle connection holds the only slot, so all others wait to be accepted.
    let settings = [("CHATSERVER_LIMITS__CONNECTIONS", "1")];
    every_request_is_answered("TERM", &settings).await;
}

#[tokio::test]
async fn sigterm_answers_further_requests_on_open_connections() {
    let place = Workplace::new();
    let mut server = place.serves(&[]).await;
    let alice = place.adds(&server, "Alice");
    let list = alice.prepares("chatconversation", "list", &json!({})).bytes();
    let mut open = Vec::new();
    for _ in 0..REQUESTS {
        open.push(kept_alive(&server, &list).await);
    }
    for socket in &mut open {
        socket.write_all(&list).await.unwrap();
    }
    server.signal("TERM");
    let mut answered = 0;
    for socket in open {
        answered += usize::from(rest_of(socket).await.contains(r#"{"status":"OK""#));
    }
    assert_eq!(answered, REQUESTS);
    assert_eq!(server.ended().await.code(), Some(0), "{}", place.log());
}

#[tokio::test]
async fn changes_answered_during_a_shutdown_survive_it() {
    let place = Workplace::new();
    let mut server = place.serves(&[]).await;
    let (alice, _) = place.alice_and_bob(&server);
    let instance = alice.instance().await;
    let (answered, mut news) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..8 {
        let (device, instance, answered) = (alice.elsewhere(), instance.clone(), answered.clone());
        tokio::spawn(async move {
            loop {
                let message = message("one more", &device.date());
                // The server may close the connection between two requests.
                let Ok(answer) = device.prepares_add(&instance, &message).tried().await else {
                    return;
                };
                answer.ok();
                answered.send(message["ID"].as_str().unwrap().to_owned()).unwrap();
            }
        });
    }
    drop(answered);
    let mut ids = HashSet::new();
    while ids.len() < 100 {
        ids.insert(news.recv().await.unwrap());
    }
    server.signal("TERM");
    while let Some(id) = news.recv().await {
        ids.insert(id);
    }
    assert_eq!(server.ended().await.code(), Some(0), "{}", place.log());
    let _again = place.starts_at(server.address, &["serve"], &[]).await;
    let stored: HashSet<_> = alice.downloads().await.message_ids().into_iter().collect();
    assert!(stored.is_superset(&ids), "{} of {}", stored.len(), ids.len());
}

#[tokio::test]
async fn requests_are_served_during_the_drain() {
    let place = Workplace::new();
    let mut server = place.serves(&[("CHATSERVER_HTTP__DRAIN_SECONDS", "2")]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let instance = alice.instance().await;
    assert_eq!(server.gets("/readyz").await.0, 200);
    let signalled = Instant::now();
    server.signal("TERM");
    // It still accepts connections when it says so.
    until("it says that it is not ready", async || server.gets("/readyz").await.0 == 503).await;
    assert_eq!(server.gets("/healthz").await.0, 200);
    for number in 0..5 {
        let message = message(&number.to_string(), &bob.date());
        // Forces a new connection, not one from before the signal.
        bob.prepares_add(&instance, &message).with_header("connection", "close").sent().await.ok();
    }
    assert_eq!(alice.reads().await, ["0", "1", "2", "3", "4"]);
    assert_eq!(server.ended().await.code(), Some(0), "{}", place.log());
    // No event marks the end of the drain, so its length is measured. It has a lower bound only.
    assert!(signalled.elapsed() >= Duration::from_secs(2), "{:?}", signalled.elapsed());
}

#[tokio::test]
async fn idle_connections_do_not_delay_a_shutdown() {
    let place = Workplace::new();
    let mut server = place.serves(&[]).await;
    let alice = place.adds(&server, "Alice");
    let list = alice.prepares("chatconversation", "list", &json!({})).bytes();
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(kept_alive(&server, &list).await);
    }
    let marker = alice.prepares("chatconversation", "list", &json!({}));
    let half = HalfSent::begins(&marker).await;
    server.signal("TERM");
    for socket in idle {
        assert_eq!(rest_of(socket).await, "");
    }
    half.completes().await;
    assert_eq!(server.ended().await.code(), Some(0), "{}", place.log());
}

#[tokio::test]
async fn incomplete_requests_are_cut_at_a_shutdown() {
    let place = Workplace::new();
    let mut server = place.serves(&[]).await;
    let (alice, _) = place.alice_and_bob(&server);
    let list = alice.prepares("chatconversation", "list", &json!({})).bytes();
    let instance = alice.instance().await;
    let sent = message("just in time", &alice.date());
    let request = alice.prepares_add(&instance, &sent).with_header("connection", "close").bytes();
    let half_a_body = &request[..request.len() - 20];
    let half_a_head = &request[..40];

    let in_time = HalfSent::begins(&alice.prepares_add(&instance, &sent)).await;
    let mut cut = vec![
        connected(server.address, b"").await,
        connected(server.address, half_a_head).await,
        connected(server.address, half_a_body).await,
    ];
    for half in [half_a_head, half_a_body] {
        let mut second = kept_alive(&server, &list).await;
        second.write_all(half).await.unwrap();
        cut.push(second);
    }
    let signalled = Instant::now();
    server.signal("TERM");
    until("it has closed", async || TcpStream::connect(server.address).await.is_err()).await;
    in_time.completes().await;

    // With exit code 0 it has ended before it would have given up, which is at 10 s. No event marks the 5 s that a
    // request has, so they are measured. They have a lower bound only.
    assert_eq!(server.ended().await.code(), Some(0), "{}", place.log());
    assert!(signalled.elapsed() >= Duration::from_secs(4), "{:?}", signalled.elapsed());
    for socket in cut {
        assert_eq!(rest_of(socket).await, "");
    }
}

#[tokio::test]
async fn unread_answers_are_dropped_at_a_shutdown() {
    let place = Workplace::new();
    let mut server = place.serves(&[]).await;
    let (alice, _) = place.alice_and_bob(&server);
    let instance = alice.instance().await;
    // Sends more than the kernel buffers for a client that does not read.
    for _ in 0..40 {
        alice
            .prepares_add(&instance, &message(&"long ".repeat(30_000), &alice.date()))
            .sent()
            .await
            .ok();
    }
    let mut unread = Vec::new();
    for _ in 0..3 {
        let download = alice.prepares_download().bytes();
        let socket = connected(server.address, &download).await;
        socket.readable().await.unwrap();
        unread.push(socket);
    }
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(0), "{}", place.log());
    let log = place.log();
    assert!(log.contains("their clients did not read the answer connections=3"), "{log}");
}

#[tokio::test]
async fn a_second_signal_ends_the_drain() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT")] {
        let place = Workplace::new();
        let mut server = place.serves(&[("CHATSERVER_HTTP__DRAIN_SECONDS", "600")]).await;
        server.signal(first);
        until("it is stopping", async || server.gets("/readyz").await.0 == 503).await;
        server.signal(second);
        // The drain would take ten minutes.
        assert_eq!(server.ended().await.code(), Some(1), "{}", place.log());
        place.logs("stopped by a second signal").await;
    }
}

/// Log directives under which libraries would log frames, headers and statements.
const TELLTALE: &str = "info,tungstenite::protocol=trace,tungstenite::protocol::frame=trace,tokio_tungstenite=trace,\
                        tokio_tungstenite::compat=trace,hyper=trace,hyper::proto=trace,sqlx=trace,log=trace";

#[tokio::test]
async fn the_log_contains_no_secret() {
    for (format, filter) in [("text", "trace"), ("json", TELLTALE), ("text", TELLTALE)] {
        let place = Workplace::new();
        let settings = [("CHATSERVER_LOG__FILTER", filter), ("CHATSERVER_LOG__FORMAT", format)];
        let mut server = place.serves(&settings).await;
        let (alice, bob) = place.alice_and_bob(&server);
        let instance = alice.instance().await;
        let sent = message("the text of a message", &alice.date());
        let request = alice.prepares_add(&instance, &sent);
        let login = alice.logs_in().await.ok();
        let answered = request.sent().await;
        answered.ok();
        let subscription = bob.subscription();
        let mut listener = WsClient::opens(bob.address()).await;
        listener.says(&subscription).await;
        assert_eq!(listener.hears().await.unwrap()["status"], "OK");
        listener.takes().await;
        listener.is_heard().await;
        drop(listener);
        bob.reads().await;
        // Refusals name the wrong field, but not its value.
        let stolen = bob.prepares("chatconversation", "list", &json!({}));
        let signature = request.headers["ozeki-signature"].to_str().unwrap();
        stolen
            .clone()
            .with_header("ozeki-signature", signature)
            .sent()
            .await
            .refused(401, "invalid_signature");
        let mut lost = stolen.clone();
        lost.url = lost.url.replace("/?", &format!("/nowhere?key={}&", bob.api_key.as_str()));
        lost.sent().await.refused(404, "unknown_api");
        let mut spoilt = sent.clone();
        spoilt["Data"] = json!(format!("{}!", sent["Data"].as_str().unwrap()));
        alice.prepares_add(&instance, &spoilt).sent().await.refused(400, "invalid_field");
        server.signal("TERM");
        assert_eq!(server.ended().await.code(), Some(0));

        let log = place.log();
        let id = answered.headers["x-request-id"].to_str().unwrap();
        assert!(log.contains(id) && log.contains(alice.user.as_str()), "the log is a log");
        let mut secrets = vec![
            signature,
            stolen.headers["ozeki-signature"].to_str().unwrap(),
            subscription["signature"].as_str().unwrap(),
            sent["Data"].as_str().unwrap(),
            "the text of a message",
            login["rsakey"].as_str().unwrap().lines().nth(6).unwrap(),
        ];
        for person in [&alice, &bob] {
            secrets.extend([
                person.api_key.as_str(),
                person.station.as_str(),
                person.password.as_str(),
            ]);
        }
        for secret in secrets {
            assert!(!log.contains(secret), "{secret} is in the log");
        }
    }
}
