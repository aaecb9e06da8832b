//! Large answers and bodies: their cost in the user's rate, and what remains after a client disconnects.

use std::sync::Arc;

use chatserver::domain::{ConversationId, Cursor, Direction, PageForm, PageQuery, Parse as _};
use chatserver::store::Found;
use futures_util::FutureExt as _;
use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::database::objects;
use crate::harness::disk::Disk;
use crate::harness::person::{Answer, Person, message};
use crate::harness::process::Workplace;
use crate::harness::world::{World, until};

#[tokio::test]
async fn a_large_page_counts_as_many_requests() {
    let limits = [("limits.requests_per_second", "1"), ("limits.requests_burst", "40")];
    let world = World::with(&limits).await;
    let (alice, bob) = world.alice_and_bob().await;
    let instance = alice.instance().await;
    for _ in 0..10 {
        for sender in [&alice, &bob] {
            let message = message(&"x".repeat(190_000), &sender.date());
            sender.does("add", json!({ "instance": instance, "message": message })).await.ok();
        }
    }
    // A page of 5 MB costs half of the burst that a user has saved up.
    alice.prepares_download().sent().await.ok();
    let shed = alice.prepares_download().sent().await;
    shed.refused(429, "rate_limited");
    assert!(shed.headers.contains_key("retry-after"));
    alice.sees().await;
    bob.prepares_download().sent().await.ok();
}

fn newest_fifty(person: &Person) -> PageQuery {
    PageQuery {
        conversation: ConversationId::parse(&person.conversation).unwrap(),
        user: person.user,
        cursor: Cursor::default(),
        report_cursor: Cursor::default(),
        entries: 50,
        bytes: 8 * 1024 * 1024,
        direction: Direction::Backward,
        form: PageForm::Documented,
    }
}

#[tokio::test]
async fn a_page_counts_by_its_own_size_and_not_by_its_longest_message() {
    let limits = [("limits.requests_per_second", "1"), ("limits.requests_burst", "80")];
    let world = World::with(&limits).await;
    let (alice, bob) = world.alice_and_bob().await;
    bob.sends(&"a long message ".repeat(200)).await;
    for number in 0..30 {
        alice.sends(&number.to_string()).await;
    }
    let page = world.app().store.page(&newest_fifty(&alice)).await.unwrap().unwrap();
    assert!(matches!(page, Found::Page(_)), "a page of 10 KiB is made at once");

    bob.sends(&"a picture ".repeat(19_000)).await;
    let Some(Found::Large(bytes)) = world.app().store.page(&newest_fifty(&alice)).await.unwrap()
    else {
        panic!("a page of 260 KiB is large");
    };
    for _ in 0..4 {
        let page = bob.does("downloadpartial", json!({ "limit": 50 })).await;
        assert_eq!(page.ok()["messages"].as_array().unwrap().len(), 32);
        // The answer contains reports as well.
        let size = page.text.len();
        assert!(bytes > size - 16 * 1024 && bytes < size + 16 * 1024, "{bytes} for {size} bytes");
    }
}

#[tokio::test]
async fn a_cancelled_large_page_keeps_its_memory_and_its_turn_until_sqlite_is_done() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    alice.sends("hi").await;
    let (store, query, permit) = (&world.app().store, newest_fifty(&alice), Arc::new(()));
    let reading = store.large_page(&query, Arc::clone(&permit));
    assert!(reading.now_or_never().is_none(), "it has begun and is given up");
    let next = store.large_page(&query, ());
    assert!(next.now_or_never().is_none(), "it waits for its turn");
    assert_eq!(Arc::strong_count(&permit), 2, "SQLite goes on");
    until("the page is made", async || Arc::strong_count(&permit) == 1).await;
    assert!(store.large_page(&query, ()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_long_list_counts_as_several_requests() {
    let limits = [("limits.requests_per_second", "1"), ("limits.requests_burst", "5")];
    let world = World::with(&limits).await;
    let mut alice = world.person("Alice").await;
    for number in 0..140 {
        let mut friend = world.person(&format!("Friend{number}")).await;
        world.befriends(&mut alice, &mut friend).await;
    }
    let first = alice.asks("list", json!({})).await;
    assert!(first.text.len() > 128 * 1024, "{} bytes", first.text.len());
    first.ok();
    let mut later = Vec::new();
    for _ in 0..3 {
        later.push(alice.asks("list", json!({})).await.status.as_u16());
    }
    assert!(later.contains(&429), "each counts as two: {later:?}");
}

/// Starts `count` concurrent additions, each with 250,000 characters of Data.
async fn adds_at_once(person: &Person, count: usize) -> JoinSet<Answer> {
    let instance = person.instance().await;
    let mut adding = JoinSet::new();
    for _ in 0..count {
        let message = message(&"x".repeat(187_500), &person.date());
        let add = person.prepares_add(&instance, &message);
        adding.spawn(async move { add.sent().await });
    }
    adding
}

#[tokio::test]
async fn a_blocked_writer_queues_a_bounded_number_of_large_messages() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut other = world.opens_database().await;
    other.locks().await;
    let mut adding = adds_at_once(&alice, 100).await;
    adding.join_next().await.unwrap().unwrap().refused(503, "unavailable");
    other.unlocks().await;
    let answers = adding.join_all().await;
    let stored = answers.iter().filter(|answer| answer.status == 200).count();
    assert!((60..90).contains(&stored), "16 MiB wait, and one batch is begun: {stored}");
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        answer.refused(503, "unavailable");
    }
    bob.sends("there is room again").await;
}

#[tokio::test]
async fn a_body_counts_against_its_users_share_of_the_memory() {
    let world = World::with(&[("limits.buffered_bytes", "16777216")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut other = world.opens_database().await;
    other.locks().await;
    let mut of_alice = adds_at_once(&alice, 20).await;
    of_alice.join_next().await.unwrap().unwrap().refused(503, "unavailable");
    let of_bob = adds_at_once(&bob, 2).await;
    other.unlocks().await;
    for answer in of_bob.join_all().await {
        answer.ok();
    }
    let stored = of_alice.join_all().await.iter().filter(|answer| answer.status == 200).count();
    assert!(stored > 0);
}

#[tokio::test]
async fn a_page_that_fails_leaves_no_snapshot_behind() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.sends("before").await;
    let (store, query) = (&world.app().store, newest_fifty(&bob));
    let mut database = world.opens_database().await;
    database.runs("ALTER TABLE reports RENAME TO gone").await;
    store.large_page(&query, ()).await.unwrap_err();
    database.runs("ALTER TABLE gone RENAME TO reports").await;
    database.closes().await;
    alice.sends("after").await;
    let (page, ()) = store.large_page(&query, ()).await.unwrap().unwrap();
    assert_eq!(objects(&page.messages).len(), 2);
}

/// A page of 6 MB is read in pieces of 1 MiB, within one transaction on the only connection for large pages.
#[tokio::test]
async fn a_page_that_the_disk_fails_to_read_half_way_is_refused_and_leaves_no_snapshot_behind() {
    let (disk, place) = (Disk::failing(), Workplace::new());
    let server = place.serves(&[disk.preload()]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    for _ in 0..25 {
        alice.sends(&"x".repeat(190_000)).await;
    }
    let address = server.address;
    server.stops(&place).await;

    // After the restart no connection has any of it in its cache, so the page takes 1,550 reads of 4 KiB.
    let server = place.starts_at(address, &["serve"], &[disk.preload()]).await;
    let failing = place.path().join("failing-reads");
    std::fs::write(&failing, "700").unwrap();
    bob.prepares_download().sent().await.refused(503, "unavailable");
    std::fs::remove_file(failing).unwrap();
    alice.sends("after").await;
    assert_eq!(bob.prepares_download().sent().await.message_ids().len(), 26);
    // A checkpoint that empties the log finds no reader in its way. The first column says whether one was.
    let mut other = place.opens_database().await;
    assert_eq!(other.number("PRAGMA wal_checkpoint(TRUNCATE)").await, 0);
    drop(server);
}
