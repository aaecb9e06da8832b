//! Bytes that are not a request: the server answers or closes the connection within a bound, and never with a
//! 5xx.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::json;
use tokio::time::timeout;

use super::wire::{IMPATIENT, Then, Written, hears};
use super::{Stage, for_all};
use crate::harness::world::PATIENCE;

/// Returns a valid request from Alice that changes data.
fn clears(stage: &Stage, instance: &str) -> Vec<u8> {
    let fields = json!({ "conversationid": stage.alice.conversation, "instance": instance });
    Written::of(&stage.alice.prepares("chatconversation", "clear", &fields)).bytes()
}

/// Sends the bytes and returns the status of the answer, if there is one. Asserts that it is not a 5xx.
async fn bears(stage: &Stage, bytes: &[u8], then: Then) -> Option<u16> {
    let heard = hears(&stage.world, bytes, then).await;
    if let Some(heard) = &heard {
        let shown = bytes[..bytes.len().min(300)].escape_ascii();
        assert!((200..500).contains(&heard.status), "{shown}: {heard:?}");
    }
    heard.map(|heard| heard.status)
}

#[tokio::test]
async fn broken_framing_is_answered_or_closed_without_a_5xx() {
    let stage = Stage::with(IMPATIENT).await;
    let before = stage.everything().await;
    let start = "POST /?srv=chatserver&api=chatconversation HTTP/1.1\r\n";
    let typed = format!("{start}content-type: application/json\r\n");
    let many: Vec<_> = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    let many = many.concat();
    let begun = [
        String::new(),
        "\r\n\r\n\r\n\r\n".to_owned(),
        "GET".to_owned(),
        "GET /\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "GET / HTTP/0.9\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}".to_owned(),
        "CONNECT chat.example.com:443 HTTP/1.1\r\n\r\n".to_owned(),
        "OPTIONS * HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(),
        "POST http://[::1 HTTP/1.1\r\n\r\n".to_owned(),
        "POST http://other.example/?srv=chatserver HTTP/1.1\r\nconnection: close\r\n\r\n"
            .to_owned(),
        "POST /\u{0} HTTP/1.1\r\n\r\n".to_owned(),
        "POST nowhere HTTP/1.1\r\n\r\n".to_owned(),
        // HTTP/1.1 requires a Host header.
        format!("{start}connection: close\r\n\r\n"),
        format!("{start}host: a\r\nhost: b\r\nconnection: close\r\n\r\n"),
        format!("{start}no colon\r\n\r\n"),
        format!("{start} folded: x\r\n y\r\n\r\n"),
        format!("{start}x: a\rb\r\n\r\n"),
        format!("{start}x: a\0b\r\n\r\n"),
        format!("{start}: nameless\r\n\r\n"),
        format!("{start}{many}\r\n"),
        format!("{start}x: {}\r\n\r\n", "y".repeat(20_000)),
        format!("{start}x: {}", "y".repeat(1_000_000)),
        format!("POST /{} HTTP/1.1\r\n\r\n", "y".repeat(100_000)),
        "A".repeat(100_000),
        format!("{typed}content-length: -1\r\n\r\n{{}}"),
        format!("{typed}content-length: x\r\n\r\n{{}}"),
        format!("{typed}content-length: 99999999999999999999999\r\n\r\n{{}}"),
        format!("{typed}content-length: 18446744073709551615\r\n\r\n{{}}"),
        format!("{typed}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}"),
        format!("{typed}content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{{}}"),
        format!("{typed}transfer-encoding: gzip\r\n\r\n{{}}"),
        format!("{typed}transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        format!("{typed}transfer-encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n"),
        format!("{typed}transfer-encoding: chunked\r\n\r\n-2\r\n{{}}\r\n0\r\n\r\n"),
        format!("{typed}transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n{{}}\r\n"),
        format!("{typed}transfer-encoding: chunked\r\n\r\n2;{}\r\n{{}}", "x".repeat(100_000)),
        format!("{typed}expect: everything\r\ncontent-length: 2\r\n\r\n{{}}"),
        format!("{typed}upgrade: websocket\r\nconnection: upgrade\r\n\r\n"),
        // These bodies never end.
        format!("{typed}content-length: 10\r\n\r\n{{}}"),
        format!("{typed}transfer-encoding: chunked\r\n\r\n9\r\n{{}}"),
    ];
    let bear = begun.iter().flat_map(|bytes| {
        [Then::Closes, Then::Waits].map(|then| {
            let stage = &stage;
            async move {
                bears(stage, bytes.as_bytes(), then).await;
            }
        })
    });
    // Concurrently, because each connection that falls silent runs into a timeout.
    futures_util::future::join_all(bear).await;
    Stage::assert_unchanged(&before, &stage.everything().await, "no request at all");
}

#[tokio::test]
async fn pipelined_requests_are_each_answered() {
    let stage = Stage::with(IMPATIENT).await;
    let asked = stage.alice.prepares("chatconversation", "list", &json!({}));
    let bytes = Written::of(&asked).bytes();
    let kept = String::from_utf8(bytes.clone()).unwrap().replace("connection: close\r\n", "");
    let all = [kept.repeat(20).into_bytes(), bytes].concat();
    let heard = timeout(PATIENCE, hears(&stage.world, &all, Then::Waits)).await.unwrap().unwrap();
    assert_eq!(heard.status, 200);
    assert_eq!(heard.body.matches("HTTP/1.1 200 OK").count(), 20);
}

#[test]
fn arbitrary_bytes_never_cause_a_5xx() {
    let word = select(vec![
        "POST ",
        "GET ",
        "/",
        "?srv=chatserver",
        "&api=chatconversation",
        " HTTP/1.1",
        " HTTP/1.0",
        "\r\n",
        "\r\n\r\n",
        "\n",
        ": ",
        "content-length",
        "transfer-encoding",
        "chunked",
        "0\r\n",
        "5",
        "host",
        "expect",
        "100-continue",
        "connection",
        "upgrade",
        "close",
        "{}",
        "\0",
        "%",
        "\u{e9}",
    ]);
    let piece = prop_oneof![4 => word.prop_map(Vec::from), 1 => any::<Vec<u8>>()];
    let strategy = prop::collection::vec(piece, 0..30);
    for_all(400, IMPATIENT, &strategy, &async |stage, pieces| {
        bears(stage, &pieces.concat(), Then::Closes).await;
    });
}

#[tokio::test]
async fn a_truncated_request_is_not_carried_out() {
    let stage = Stage::with(IMPATIENT).await;
    let before = stage.everything().await;
    let right = clears(&stage, &stage.alice.instance().await);
    for length in 0..right.len() {
        bears(&stage, &right[..length], Then::Closes).await;
    }
    Stage::assert_unchanged(&before, &stage.everything().await, "a part of a request");
    assert_eq!(bears(&stage, &right, Then::Waits).await, Some(200));
    assert!(stage.bob.reads().await.is_empty());
}

#[test]
fn refused_requests_with_corrupted_bytes_change_nothing() {
    let slip = (any::<Index>(), 0..4_usize, prop::collection::vec(any::<u8>(), 0..9));
    let strategy = prop::collection::vec(slip, 1..4);
    for_all(400, IMPATIENT, &strategy, &async |stage, slips| {
        // An aborted request may still be running. This change is queued behind it, so its answer shows that
        // the request is done.
        stage.bob.does("unmute", json!({})).await.ok();
        let before = stage.everything().await;
        let instance = stage.alice.instance().await;
        let mut bytes = clears(stage, &instance);
        for (at, length, piece) in slips {
            let from = at.index(bytes.len());
            let to = bytes.len().min(from + length);
            bytes.splice(from..to, piece);
        }
        let said = bears(stage, &bytes, Then::Closes).await;
        // The replaced bytes may not matter, such as those in the Host header. Then the request is valid.
        if said.is_some_and(|status| status != 200) {
            let after = stage.everything().await;
            Stage::assert_unchanged(&before, &after, &bytes.escape_ascii().to_string());
        }
    });
}
