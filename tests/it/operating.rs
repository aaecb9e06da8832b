//! The views of operators and browsers: health, metrics, the log, time-outs, CORS.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::harness::person::{Answer, message};
use crate::harness::process::{Workplace, free_address};
use crate::harness::sockets::{LAST_REQUEST, answer_of, connected, is_silent, rest_of};
use crate::harness::world::{World, until};

#[tokio::test]
async fn a_server_is_ready_until_it_stops() {
    let world = World::with(&[("http.drain_seconds", "3600")]).await;
    assert_eq!(world.gets("/healthz").await, (200, "OK\n".to_owned()));
    assert_eq!(world.gets("/readyz").await, (200, "OK\n".to_owned()));
    let posted = reqwest::Client::new()
        .post(format!("http://{}/healthz", world.address))
        .send()
        .await
        .unwrap();
    assert_eq!(posted.status(), 405);
    let drain = world.app().shutdown.begin(Duration::from_hours(1));
    let looks = until("it is no longer ready", async || world.gets("/readyz").await.0 == 503);
    tokio::select! {
        () = drain => panic!("the drain is over"),
        () = looks => {}
    }
    assert_eq!(world.gets("/healthz").await.0, 200);
}

#[tokio::test]
async fn metrics_count_by_api_action_and_outcome() {
    let workplace = Workplace::new();
    let server = workplace.serves(&[]).await;
    let api = format!("http://{}/?srv=chatserver&api=chatconversation", server.address);
    let http = reqwest::Client::new();
    for _ in 0..3 {
        let body = r#"{"action":"surprise-label"}"#;
        let request = http.post(&api).header("content-type", "application/json").body(body);
        assert_eq!(request.send().await.unwrap().status(), 401);
    }
    let text = server.metrics().await;
    let counted = r#"chatserver_requests_total{api="chatconversation",action="other",outcome="invalid_signature"} 3"#;
    assert!(text.contains(counted), "{text}");
    for name in [
        "chatserver_request_seconds_bucket{",
        "chatserver_connections ",
        "chatserver_store_queue_depth 0",
        "chatserver_log_lines_dropped_total 0",
    ] {
        assert!(text.contains(name), "{name} in {text}");
    }
    assert!(!text.contains("surprise"), "{text}");
    assert_eq!(server.gets("/metrics").await.0, 404);
}

#[tokio::test]
async fn every_answer_has_the_request_id_of_its_log_line() {
    let workplace = Workplace::new();
    let server = workplace.serves(&[("CHATSERVER_LOG__FORMAT", "json")]).await;
    let login = format!("http://{}/?srv=chatserver&api=chatlogin", server.address);
    let (station, key) = ("0123456789abcdef".repeat(2), "fedcba9876543210".repeat(4));
    let request = reqwest::Client::new()
        .post(login)
        .header("content-type", "application/json")
        .header("ozeki-station", &station)
        .body(json!({ "action": "login", "apikey": key }).to_string());
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 401);
    let id = answer.headers()["x-request-id"].to_str().unwrap();
    workplace.logs(id).await;
    let log = workplace.log();
    let line = log.lines().find(|line| line.contains(id)).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    for (field, value) in [
        ("request", json!(id)),
        ("api", json!("chatlogin")),
        ("action", json!("login")),
        ("outcome", json!("invalid_credentials")),
        ("status", json!(401)),
        ("client", json!("127.0.0.1")),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
    assert!(line["micros"].as_u64().is_some_and(|micros| micros > 0), "{line}");
    assert!(!log.contains(&station) && !log.contains(&key), "{log}");
}

#[tokio::test]
async fn a_log_that_is_not_read_delays_no_request() {
    let workplace = Workplace::new();
    let log = workplace.makes_fifo("log.txt");
    // Keeps a reader on the pipe. Without one the server could not open it.
    let _unread = std::fs::File::options().read(true).write(true).open(&log).unwrap();
    let mut server = workplace.serves(&[("CHATSERVER_LOG__FILTER", "debug")]).await;
    let dropped = async || server.metric::<u64>("chatserver_log_lines_dropped_total").await;
    assert_eq!(dropped().await, 0);
    // At debug level a log line contains the whole query.
    let asked = format!("http://{}/healthz?{}", server.address, "long".repeat(3_500));
    let http = reqwest::Client::new();
    until("lines are dropped", async || {
        for _ in 0..100 {
            assert_eq!(http.get(&asked).send().await.unwrap().status(), 200);
        }
        dropped().await > 0
    })
    .await;
    server.signal("TERM");
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn listening_beyond_loopback_without_tls_causes_a_warning() {
    let workplace = Workplace::new();
    let port = free_address().port();
    let beyond = format!("0.0.0.0:{port}");
    let warns = async |url: &str| {
        let log = workplace.log_of_start(&beyond, url).await;
        log.contains("without TLS")
    };
    assert!(warns("").await);
    assert!(!warns("https://chat.example.com/").await);
}

/// Sends these bytes and reads until the server closes the connection.
async fn exchange(world: &World, bytes: &[u8]) -> String {
    rest_of(connected(world.address, bytes).await).await
}

#[tokio::test]
async fn slow_senders_are_disconnected() {
    let world =
        World::with(&[("http.header_timeout_seconds", "1"), ("http.body_timeout_seconds", "1")])
            .await;
    let half_a_head = exchange(&world, b"POST / HTTP/1.1\r\nHost: chat\r\n").await;
    assert!(half_a_head.is_empty() || half_a_head.starts_with("HTTP/1.1 408"), "{half_a_head}");
    let head = "POST /?srv=chatserver&api=chatlogin HTTP/1.1\r\nHost: chat\r\n\
                Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    let half_a_body = exchange(&world, head.as_bytes()).await;
    assert!(half_a_body.starts_with("HTTP/1.1 408"), "{half_a_body}");
    assert!(half_a_body.contains("x-request-id: "), "{half_a_body}");
    let (alice, bob) = world.alice_and_bob().await;
    alice.sends("still here").await;
    assert_eq!(bob.reads().await, ["still here"]);
}

#[tokio::test]
async fn a_connection_answers_pipelined_requests() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    let mut bytes = Vec::new();
    for connection in ["keep-alive", "keep-alive", "close"] {
        let request = alice.prepares("chatconversation", "list", &json!({}));
        bytes.extend(request.with_header("connection", connection).bytes());
    }
    let answers = exchange(&world, &bytes).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
    assert_eq!(answers.matches(&alice.conversation).count(), 3, "{answers}");
}

#[tokio::test]
async fn an_answer_does_not_wait_for_the_next_request() {
    let world = World::start().await;
    for stray in ["\r\n", "POST /?srv=chat"] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: chat\r\n\r\n{stray}");
        let mut stream = connected(world.address, request.as_bytes()).await;
        let answer = answer_of(&mut stream, "OK\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{stray:?}");
    }
}

#[tokio::test]
async fn broken_http_is_answered_400_or_431() {
    let world = World::start().await;
    let long = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(100_000));
    for (request, status) in [("nonsense\r\n\r\n", "400"), (long.as_str(), "431")] {
        let answer = exchange(&world, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
}

#[tokio::test]
async fn a_refused_method_names_the_allowed_one() {
    let world = World::start().await;
    for (method, path, allowed) in [
        ("GET", "/?srv=chatserver&api=chatlogin", "POST"),
        ("PUT", "/", "POST"),
        ("POST", "/healthz", "GET"),
    ] {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let url = format!("http://{}{path}", world.address);
        let answer = reqwest::Client::new().request(method, url).send().await.unwrap();
        let answer = Answer::of(answer).await;
        let refusal = answer.refused(405, "method_not_allowed");
        assert_eq!(refusal["errormessage"], format!("the method must be {allowed}"));
        let allow = answer.headers["allow"].to_str().unwrap();
        assert!(allow.split(',').any(|one| one == allowed), "{allow}");
    }
}

#[tokio::test]
async fn connections_beyond_the_bound_wait() {
    let world = World::with(&[("limits.connections", "2")]).await;
    let idle = connected(world.address, b"").await;
    let mut other = connected(world.address, b"").await;
    let third = connected(world.address, LAST_REQUEST).await;
    // Requests that come later, on a connection within the bound, are answered first.
    for _ in 0..3 {
        other.write_all(b"GET /healthz HTTP/1.1\r\nHost: chat\r\n\r\n").await.unwrap();
        assert!(answer_of(&mut other, "OK\n").await.starts_with("HTTP/1.1 200 OK"));
    }
    assert!(is_silent(&third), "it is answered while the two others are open");
    drop(idle);
    let answer = rest_of(third).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn a_server_with_an_overwritten_database_is_not_ready() {
    // Runs in its own process, because damage to a database is recorded for the whole process.
    let workplace = Workplace::new();
    let server = workplace.serves(&[]).await;
    assert!(server.is_ready().await);
    for file in ["chatserver.db", "chatserver.db-wal"] {
        std::fs::write(workplace.path().join(file), vec![b'x'; 100_000]).unwrap();
    }
    until("it is not ready", async || server.gets("/readyz").await.0 == 503).await;
}

#[tokio::test]
async fn a_disconnected_client_is_logged_and_its_change_is_made() {
    let workplace = Workplace::new();
    let server = workplace.serves(&[]).await;
    let (alice, bob) = workplace.alice_and_bob(&server);
    let message = message("said all the same", "2026-01-01 00:00:00");
    let add = alice.prepares_add(&alice.instance().await, &message);
    let mut database = workplace.opens_database().await;
    database.locks().await;
    let sending = tokio::spawn(async move { add.sent().await });
    until("the change waits", async || server.oldest_change().await > 0.0).await;
    sending.abort();
    assert!(sending.await.is_err(), "it is answered while another process holds the database");
    workplace.logs("the client went away").await;
    database.unlocks().await;
    until("the change is made", async || bob.reads().await == ["said all the same"]).await;
}

#[tokio::test]
async fn an_incomplete_scrape_does_not_delay_the_stop() {
    let workplace = Workplace::new();
    let mut server = workplace.serves(&[]).await;
    let _scrape = connected(server.metrics_address(), b"GET /met").await;
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn only_allowed_origins_may_call_from_a_browser() {
    let allowed = "https://chat.example.com";
    let world = World::with(&[("http.cors_origins", allowed)]).await;
    let closed = World::start().await;
    let preflight = async |world: &World, origin: &str| {
        let url = format!("http://{}/?srv=chatserver&api=chatconversation", world.address);
        let request = reqwest::Client::new()
            .request(reqwest::Method::OPTIONS, url)
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type,ozeki-signature");
        let answer = request.send().await.unwrap();
        answer
            .headers()
            .get("access-control-allow-origin")
            .map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(preflight(&world, allowed).await.as_deref(), Some(allowed));
    assert_eq!(preflight(&world, "https://evil.example.com").await, None);
    assert_eq!(preflight(&closed, allowed).await, None);
    let (alice, _bob) = world.alice_and_bob().await;
    let list = alice.prepares("chatconversation", "list", &json!({}));
    let answer = list.with_header("origin", allowed).sent().await;
    answer.ok();
    assert_eq!(answer.headers["access-control-allow-origin"], allowed);
    assert!(
        answer.headers["access-control-expose-headers"].to_str().unwrap().contains("x-request-id")
    );
}
