//! Clients that take too much memory, connections or time. Other clients must not be affected.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::harness::person::{Person, Prepared};
use crate::harness::process::Workplace;
use crate::harness::sockets::{
    LAST_REQUEST, answer_of, connected, connected_from, is_silent, rest_of,
};
use crate::harness::world::{PATIENCE, World, until};

/// Returns the head of a request to this API that announces `length` bytes of body.
fn head_of(api: &str, length: usize) -> String {
    format!(
        "POST /?srv=chatserver&api={api} HTTP/1.1\r\nHost: chat\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    )
}

/// Requests `/healthz` from this loopback address, on a new connection.
async fn health(server: SocketAddr, from: &str) -> String {
    rest_of(connected_from(from, server, LAST_REQUEST).await).await
}

#[tokio::test]
async fn a_body_in_tiny_pieces_takes_about_its_own_size_in_memory() {
    let place = Workplace::new();
    let server = place.serves(&[("CHATSERVER_HTTP__BODY_TIMEOUT_SECONDS", "600")]).await;
    let mut sockets = Vec::new();
    for _ in 0..60 {
        sockets.push(connected(server.address, head_of("chatlogin", 4000).as_bytes()).await);
    }
    let before = server.memory();
    for _ in 0..600 {
        for socket in &mut sockets {
            socket.write_all(b" ").await.unwrap();
        }
    }
    // The server has read everything once it refuses the last body.
    for socket in &mut sockets {
        socket.write_all(&[b' '; 3400]).await.unwrap();
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 400");
    }
    let grown = server.memory().saturating_sub(before);
    assert!(grown < 16 * 1024 * 1024, "36,000 bytes of bodies took {grown} bytes of memory");
}

#[tokio::test]
async fn an_announced_body_reserves_no_memory() {
    let world = World::with(&[("limits.buffered_bytes", "16777216")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut announced = Vec::new();
    for _ in 0..40 {
        let begun = head_of("chatconversation", 1024 * 1024) + "{";
        announced.push(connected(world.address, begun.as_bytes()).await);
        let chunked = head_of("chatconversation", 0)
            .replace("Content-Length: 0", "Transfer-Encoding: chunked");
        announced.push(connected(world.address, (chunked + "1\r\n{\r\n").as_bytes()).await);
    }
    let long = "x".repeat(100_000);
    alice.sends(&long).await;
    assert_eq!(bob.reads().await, [long]);
}

#[tokio::test]
async fn bodies_that_never_end_do_not_block_other_clients() {
    let world = World::with(&[("limits.buffered_bytes", "16777216")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let long = "x".repeat(100_000);
    alice.sends(&long).await;
    let begun = head_of("chatconversation", 1024 * 1024) + &"{".repeat(65_537);
    let mut open = Vec::new();
    for address in ["127.0.0.2", "127.0.0.3"] {
        for _ in 0..130 {
            open.push(connected_from(address, world.address, begun.as_bytes()).await);
        }
    }
    assert_eq!(bob.reads().await, [long.as_str()]);
    bob.sends(&long).await;
    assert_eq!(open.len(), 260);
}

#[tokio::test]
async fn long_heads_that_never_end_take_a_share_of_the_memory() {
    let world = World::with(&[("limits.buffered_bytes", "16777216")]).await;
    let (alice, _bob) = world.alice_and_bob().await;
    let head = format!("GET /healthz HTTP/1.1\r\nHost: {}", "x".repeat(15_000));
    let mut open = Vec::new();
    for _ in 0..200 {
        open.push(connected_from("127.0.0.1", world.address, head.as_bytes()).await);
    }
    // Heads may take 2 MiB, at two times 15,000 bytes each: that is 69 heads.
    let mut closed = 0;
    while closed < 131 {
        let ends = open.iter_mut().map(|socket| {
            Box::pin(async move { matches!(socket.read(&mut [0]).await, Ok(0) | Err(_)) })
        });
        let (is_closed, nth, _) =
            timeout(PATIENCE, futures_util::future::select_all(ends)).await.expect("more end");
        assert!(is_closed, "nothing is answered");
        open.remove(nth);
        closed += 1;
    }
    alice.sees().await;
    assert!(health(world.address, "127.0.0.1").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn each_api_has_its_own_limit_of_bodies() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    for (srv, api, most) in [
        ("chatserver", "chatlogin", 4 * 1024),
        ("chatserver", "chatregister", 16 * 1024),
        ("chatserver", "chatfriends", 16 * 1024),
        ("chatserver", "chatblocklist", 16 * 1024),
        ("chatserver", "chatavailability", 16 * 1024),
        ("chatserver", "chatnotification", 16 * 1024),
        ("chatowner", "workspace", 16 * 1024),
        ("chatserver", "chatreports", 128 * 1024),
        ("chatserver", "chatconversation", 1024 * 1024),
    ] {
        let sized = |length| alice.prepares_bytes_for(srv, api, vec![b' '; length]);
        let refusal = sized(most + 1).sent().await.refused(413, "too_large");
        let sentence = refusal["errormessage"].as_str().unwrap();
        assert!(sentence.contains(&most.to_string()), "{api}: {sentence}");
        sized(most).sent().await.refused(400, "bad_request");
    }
}

#[tokio::test]
async fn an_object_has_at_most_64_keys() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    let with_keys = |count: usize| {
        let keys = (0..count).map(|number| (format!("key-{number}"), json!(0)));
        Value::Object(keys.collect())
    };
    // Action, version, timestamp and nonce are four further keys.
    alice.asks("list", with_keys(60)).await.ok();
    alice.asks("list", with_keys(61)).await.refused(400, "bad_request");
    let mut message = crate::harness::person::message("hi", &alice.date());
    message.as_object_mut().unwrap().extend(with_keys(60).as_object().unwrap().clone());
    alice.adds(&message).await.refused(400, "bad_request");
    message.as_object_mut().unwrap().remove("key-0");
    alice.adds(&message).await.ok();
}

/// Sends messages that make a page of more than nine megabytes.
pub async fn says_nine_megabytes(person: &Person) {
    for _ in 0..50 {
        person.sends(&"x".repeat(140_000)).await;
    }
}

/// Sends a request and waits until its answer begins, without reading it.
async fn takes_nothing_of(request: &Prepared) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(request.address()).await.unwrap();
    stream.write_all(&request.bytes()).await.unwrap();
    let begun = timeout(PATIENCE, stream.peek(&mut [0])).await;
    assert_eq!(begun.expect("the answer begins").unwrap(), 1);
    stream
}

#[tokio::test]
async fn a_user_who_reads_no_answer_takes_at_most_an_eighth_of_the_memory() {
    let limits = [("limits.buffered_bytes", "80000000"), ("limits.download_bytes", "9500000")];
    let world = World::with(&limits).await;
    let (alice, bob) = world.alice_and_bob().await;
    says_nine_megabytes(&alice).await;
    let unread = takes_nothing_of(&alice.prepares_download()).await;
    let crowded = alice.prepares_download().sent().await;
    crowded.refused(503, "unavailable");
    assert_eq!(crowded.headers["retry-after"], "1");
    // Small answers always fit, and other users' answers fit too.
    alice.sees().await;
    bob.prepares_download().sent().await.ok();
    drop(unread);
    until("there is room again", async || alice.prepares_download().sent().await.status == 200)
        .await;
}

#[tokio::test]
async fn a_client_address_takes_at_most_half_of_the_memory() {
    let limits = [
        ("limits.buffered_bytes", "25000000"),
        ("limits.download_bytes", "9500000"),
        ("http.trusted_proxies", "127.0.0.1"),
    ];
    let world = World::with(&limits).await;
    let (alice, bob) = world.alice_and_bob().await;
    says_nine_megabytes(&alice).await;
    let from =
        |person: &Person, client| person.prepares_download().with_header("x-forwarded-for", client);
    let _unread = takes_nothing_of(&from(&alice, "192.0.2.1")).await;
    from(&bob, "192.0.2.1").sent().await.refused(503, "unavailable");
    from(&bob, "192.0.2.2").sent().await.ok();
}

#[tokio::test]
async fn an_answer_read_too_slowly_is_cut() {
    let limits = [("limits.download_bytes", "9500000"), ("http.write_timeout_seconds", "2")];
    let world = World::with(&limits).await;
    let (alice, _bob) = world.alice_and_bob().await;
    says_nine_megabytes(&alice).await;
    let slow = takes_nothing_of(&alice.prepares_download()).await;
    let taken = taken_slowly(slow).await;
    assert!(taken < 9_000_000, "the whole answer was taken: {taken} bytes");
}

/// Takes an answer at 2 KB/s until the server ends the connection. Returns the bytes that came.
pub async fn taken_slowly(mut slow: impl AsyncRead + Unpin) -> usize {
    let mut taken = 0;
    let drained = async {
        loop {
            // 20 bytes every 10 ms are progress, but less than the required 8 KiB/s.
            match slow.read(&mut [0; 20]).await {
                Ok(0) | Err(_) => return taken,
                Ok(bytes) => taken += bytes,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            if taken > 10_000 {
                let mut rest = Vec::new();
                drop(slow.read_to_end(&mut rest).await);
                return taken + rest.len();
            }
        }
    };
    timeout(Duration::from_mins(2), drained).await.expect("the connection ends")
}

#[tokio::test]
async fn an_answer_read_at_32_kibibytes_a_second_is_not_cut() {
    let limits = [("limits.download_bytes", "9500000"), ("http.write_timeout_seconds", "10")];
    let world = World::with(&limits).await;
    let (alice, _bob) = world.alice_and_bob().await;
    says_nine_megabytes(&alice).await;
    let mut slow = takes_nothing_of(&alice.prepares_download()).await;
    // Takes 20 s, twice the time over which the server measures the rate.
    for _ in 0..40 {
        let mut piece = [0; 16 * 1024];
        timeout(PATIENCE, slow.read_exact(&mut piece)).await.expect("more comes").unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn a_client_address_has_a_bounded_number_of_connections() {
    let world = World::with(&[("limits.connections_per_address", "3")]).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(connected(world.address, b"GET / HTTP/1.1\r\nHost:").await);
    }
    until("a further one is refused", async || {
        health(world.address, "127.0.0.1").await.starts_with("HTTP/1.1 429")
    })
    .await;
    assert!(health(world.address, "127.0.0.2").await.starts_with("HTTP/1.1 200"));
    open.pop();
    until("there is a place again", async || {
        health(world.address, "127.0.0.1").await.starts_with("HTTP/1.1 200")
    })
    .await;
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_clients_that_it_names_are_counted() {
    let proxies = ("http.trusted_proxies", "127.0.0.1,10.0.0.0/8");
    let limits = [("limits.connections_per_address", "2"), proxies];
    let world = World::with(&limits).await;
    let alice = world.person("Alice").await;
    let half_sent = |client: &str| {
        head_of("chatlogin", 100)
            .replace("Host: chat", &format!("Host: chat\r\nX-Forwarded-For: {client}"))
    };
    let mut open = Vec::new();
    // If the header names only trusted proxies, no client is counted.
    let balancer = ["10.0.0.5"; 4];
    for client in ["192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.3"].into_iter().chain(balancer) {
        open.push(connected(world.address, half_sent(client).as_bytes()).await);
    }
    let list = |client| {
        let list = alice.prepares("chatconversation", "list", &json!({}));
        list.with_header("x-forwarded-for", client)
    };
    until("a further request of the client is refused", async || {
        list("192.0.2.1").sent().await.status == 429
    })
    .await;
    list("192.0.2.1").sent().await.refused(429, "rate_limited");
    list("192.0.2.2").sent().await.ok();
    list("10.0.0.5").sent().await.ok();
    drop(open);
    until("there is a place again", async || list("192.0.2.1").sent().await.status == 200).await;
}

#[tokio::test]
async fn a_begun_head_has_a_time_out_but_an_idle_connection_stays() {
    let limits = [("http.header_timeout_seconds", "1"), ("http.keep_alive_seconds", "3600")];
    let world = World::with(&limits).await;
    let silent = TcpStream::connect(world.address).await.unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nHost: chat\r\n\r\n";
    let mut idle = connected(world.address, request).await;
    idle.read_exact(&mut [0; 12]).await.unwrap();
    for is_kept_alive in [false, true] {
        let mut socket = connected(world.address, b"").await;
        if is_kept_alive {
            socket.write_all(request).await.unwrap();
            socket.read_exact(&mut [0; 12]).await.unwrap();
        }
        socket.write_all(b"GET /healthz HTTP/1.1\r\nHo").await.unwrap();
        rest_of(socket).await;
    }
    for mut socket in [silent, idle] {
        let last = b"GET /healthz HTTP/1.1\r\nHost: chat\r\nConnection: close\r\n\r\n";
        socket.write_all(last).await.unwrap();
        assert!(rest_of(socket).await.contains("200 OK"));
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time_out() {
    let world = World::with(&[("http.keep_alive_seconds", "1")]).await;
    for request in [&b""[..], b"GET /healthz HTTP/1.1\r\nHost: chat\r\n\r\n"] {
        let heard = rest_of(connected(world.address, request).await).await;
        assert_eq!(heard.contains("200 OK"), !request.is_empty());
    }
}

#[tokio::test]
async fn the_metrics_address_has_a_bound_and_refuses_foreign_hosts() {
    let place = Workplace::new();
    let server = place.serves(&[("CHATSERVER_LIMITS__CONNECTIONS_PER_ADDRESS", "1")]).await;
    let metrics = server.metrics_address();
    let listen = metrics.to_string();
    // Connections to the API do not count against this bound.
    let _open = connected(server.address, b"G").await;
    let asks = async |path: &str, host: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        rest_of(connected(metrics, request.as_bytes()).await).await
    };
    for path in ["/healthz", "/readyz", "/metrics"] {
        for host in [&listen, "localhost:9464", "localhost", "[::1]:1"] {
            assert!(asks(path, host).await.starts_with("HTTP/1.1 200"), "{path} {host}");
        }
        for host in ["evil.example.com", "127.0.0.1.example.com", "192.0.2.1:9464", ""] {
            assert!(asks(path, host).await.starts_with("HTTP/1.1 421"), "{path} {host}");
        }
    }
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(connected(metrics, b"G").await);
    }
    let late = connected(metrics, LAST_REQUEST).await;
    // Requests that come later, one after the other on connections within the bound, are answered first.
    for within in &mut idle[..8] {
        within.write_all(b"ET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        assert!(answer_of(within, "OK\n").await.starts_with("HTTP/1.1 200"));
    }
    assert!(is_silent(&late), "it is answered while 64 others are open");
    drop(idle);
    assert!(rest_of(late).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_bound_that_is_hit_is_logged_once() {
    let place = Workplace::new();
    let server = place.serves(&[("CHATSERVER_LIMITS__CONNECTIONS_PER_ADDRESS", "2")]).await;
    let _open = [connected(server.address, b"G").await, connected(server.address, b"G").await];
    until("a further one is refused", async || {
        health(server.address, "127.0.0.1").await.starts_with("HTTP/1.1 429")
    })
    .await;
    for _ in 0..5 {
        health(server.address, "127.0.0.1").await;
    }
    let told = || place.log().matches("bound reached").count();
    until("there is a line", async || told() > 0).await;
    place.logs("limits.connections_per_address").await;
    health(server.address, "127.0.0.2").await;
    assert_eq!(told(), 1, "{}", place.log());
}
