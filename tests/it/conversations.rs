//! Conversations, from the side of their participants.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::harness::person::{Person, message, message_with_id};
use crate::harness::reports::settled;
use crate::harness::world::{World, until};

#[tokio::test]
async fn messages_are_read_in_the_order_in_which_they_were_sent() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    world.clock.shows("2024-03-08 12:00:10");
    alice.sends("one").await;
    // Neither a client's clock nor a server clock that was set back changes the order.
    world.clock.shows("2024-03-08 11:59:00");
    let mut early = message("two", "1999-01-01 00:00:00");
    early["ValidUntil"] = json!("1999-01-02 00:00:00");
    bob.adds(&early).await.ok();
    let last = alice.sends("three").await;
    assert_eq!(bob.reads().await, ["one", "two", "three"]);
    assert_eq!(alice.downloads().await.text, bob.downloads().await.text);
    let seen = bob.sees().await;
    assert_eq!(seen["lastmessageid"], last);
    assert_eq!(seen["lastaccess"], 1_709_899_140, "the second of the newest message");
}

#[tokio::test]
async fn a_repeated_message_is_stored_once() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let hello = message("hello", &world.clock.date());
    let first = alice.adds(&hello).await;
    first.ok();
    assert_eq!(alice.adds(&hello).await.text, first.text);
    for (field, value) in [
        ("Type", json!("Other")),
        ("Created", json!("2024-03-08 12:00:01")),
        ("ValidUntil", json!("2024-03-09 12:00:00")),
        ("Data", json!(BASE64.encode("other"))),
    ] {
        let mut other = hello.clone();
        other[field] = value;
        alice.adds(&other).await.refused(409, "message_conflict");
    }
    bob.adds(&hello).await.refused(409, "message_conflict");
    assert_eq!(bob.reads().await, ["hello"]);

    world.parts(&alice, &bob).await;
    assert_eq!(alice.adds(&hello).await.text, first.text, "what is stored stays promised");
    alice.adds(&message("new", &world.clock.date())).await.refused(403, "not_friends");
}

#[tokio::test]
async fn a_message_id_may_be_used_again_in_another_conversation() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    let (alice_elsewhere, carol) = world.another_friend(&alice, "Carol").await;
    let date = world.clock.date();
    alice.adds(&message_with_id("m-1", "to Bob", &date)).await.ok();
    alice_elsewhere.adds(&message_with_id("m-1", "to Carol", &date)).await.ok();
    assert_eq!(carol.reads().await, ["to Carol"]);
}

#[tokio::test]
async fn former_friends_can_read_but_not_write() {
    let world = World::start().await;
    let (mut alice, mut bob) = world.alice_and_bob().await;
    alice.sends("while we are friends").await;
    settled(&alice, &bob).await;
    world.parts(&alice, &bob).await;
    assert_eq!(bob.reads().await, ["while we are friends"]);
    alice.clears().await.refused(403, "not_friends");
    alice.does("mute", json!({})).await.ok();
    let before = alice.sees().await;
    world.befriends(&mut alice, &mut bob).await;
    assert_eq!(alice.sees().await, before, "it is the same conversation, with the same secret");
    alice.sends("friends again").await;
    assert_eq!(bob.reads().await, ["while we are friends", "friends again"]);
}

#[tokio::test]
async fn a_clear_removes_exactly_the_messages_before_it() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let said = alice.sends("before").await;
    let old = alice.instance().await;
    let cleared = alice.clears().await;
    let current = cleared.ok()["conversation"]["instance"].clone();
    assert_ne!(current, old);
    for action in ["clear", "add", "download", "downloadpartial"] {
        let late = json!({ "instance": old, "message": message("late", &world.clock.date()) });
        let late = bob.does(action, late).await;
        late.refused(409, "instance_changed");
        assert_eq!(late.conversation(), bob.sees().await, "{action}");
    }
    assert_eq!(bob.reads().await, Vec::<String>::new());
    bob.adds(&message_with_id(&said, "after", &world.clock.date())).await.ok();
    assert_eq!(alice.reads().await, ["after"], "the ID is free again");
    let first = json!({ "instance": current, "firstmessageid": said });
    assert_eq!(alice.does("download", first).await.message_ids(), [said]);
}

#[tokio::test]
async fn cleared_messages_are_removed_from_the_database() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    let (other, carol) = world.another_friend(&alice, "Carol").await;
    let instance = alice.instance().await;
    let date = world.clock.date();
    let sending = (0..1200).map(|n| {
        let message = message_with_id(&format!("m-{n}"), "", &date);
        alice.does("add", json!({ "instance": instance, "message": message }))
    });
    for sent in futures_util::future::join_all(sending).await {
        sent.ok();
    }
    other.sends("kept").await;
    alice.clears().await.ok();
    alice.sends("new").await;
    let mut database = world.opens_database().await;
    until("the old rows are gone", async || {
        (database.counts("messages").await, database.counts("purges").await) == (2, 0)
    })
    .await;
    assert_eq!(
        (alice.reads().await, carol.reads().await),
        (vec!["new".into()], vec!["kept".into()])
    );
    database.closes().await;
}

#[tokio::test]
async fn the_list_shows_the_newest_first() {
    let world = World::start().await;
    let alice = world.person("Alice").await;
    let mut conversations = Vec::new();
    for nick in ["Bob", "Carol", "Dave"] {
        let (mut me, mut friend) = (alice.clone(), world.person(nick).await);
        world.befriends(&mut me, &mut friend).await;
        conversations.push(me);
    }
    let order = async || -> Vec<String> {
        let listed = alice.lists().await;
        listed.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    let mut by_id: Vec<_> = conversations.iter().map(|one| one.conversation.clone()).collect();
    by_id.sort();
    assert_eq!(order().await, by_id, "ties by id");
    let mut expected = Vec::new();
    for me in &conversations {
        world.clock.advances(10);
        me.sends("hi").await;
        expected.insert(0, me.conversation.clone());
    }
    conversations[0].clears().await.ok();
    conversations[2].does("hide", json!({})).await.ok();
    assert_eq!(order().await, expected, "a clear keeps the place, and so does hiding");
}

#[tokio::test]
async fn a_hidden_conversation_shows_again_after_a_change_unless_hidden_for_good() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    let shown = |seen: &Value| (seen["hiddenby"].clone(), seen["properties"][0]["hideid"].clone());
    let me = json!([alice.user.as_str()]);
    for (action, fields, expected) in [
        (
            "hide",
            json!({ "hideid": "7sSwU2VoFM;m-\"1\"" }),
            (json!([]), json!("7sSwU2VoFM;m-\"1\"")),
        ),
        ("hide", json!({ "hideid": "" }), (me.clone(), json!(""))),
        ("hide", json!({ "hideid": "again;" }), (json!([]), json!("again;"))),
        ("hide", json!({ "hideid": null }), (me, json!(""))),
        ("unhide", json!({}), (json!([]), json!(""))),
    ] {
        let changed = alice.does(action, fields).await;
        changed.ok();
        assert_eq!(shown(&changed.conversation()), expected);
        assert_eq!(changed.conversation(), alice.sees().await);
    }
}

/// Returns Alice after she has sent `m-0` to `m-9`, one every ten seconds from 12:00:00 on.
async fn alice_with_ten_messages(world: &World) -> Person {
    let (alice, _bob) = world.alice_and_bob().await;
    for n in 0..10 {
        world.clock.shows(&format!("2024-03-08 12:0{}:{}0", n / 6, n % 6));
        alice.adds(&message_with_id(&format!("m-{n}"), "hi", &world.clock.date())).await.ok();
    }
    alice
}

fn ids(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|n| format!("m-{n}")).collect()
}

#[tokio::test]
async fn a_download_continues_from_its_cursor() {
    let world = World::start().await;
    let alice = alice_with_ten_messages(&world).await;
    for (cursor, expected) in [
        (json!({}), 0..10),
        (json!({ "firstmessageid": "", "firstmessagedate": null }), 0..10),
        (json!({ "firstmessageid": "m-7" }), 7..10),
        (json!({ "firstmessageid": "m-7", "firstmessagedate": "2024-03-08 12:00:10" }), 7..10),
        (json!({ "firstmessageid": "unknown", "firstmessagedate": "2024-03-08 12:00:30" }), 3..10),
        (json!({ "firstmessagedate": "2024-03-08 12:00:31" }), 4..10),
        (json!({ "firstmessagedate": "2024-03-08 12:30:00" }), 10..10),
        (json!({ "firstmessageid": "unknown" }), 0..10),
    ] {
        let page = alice.does("download", cursor.clone()).await;
        assert_eq!(page.message_ids(), ids(expected), "{cursor}");
        assert_eq!(page.json().get("more"), None, "{cursor}");
    }
}

#[tokio::test]
async fn a_partial_download_scrolls_up_from_its_cursor() {
    let world = World::start().await;
    let alice = alice_with_ten_messages(&world).await;
    for (cursor, expected) in [
        (json!({}), 0..10),
        (json!({ "limit": 3 }), 7..10),
        (json!({ "limit": 3, "lastmessageid": "m-7" }), 4..7),
        (json!({ "limit": 99_999, "lastmessageid": "m-7" }), 0..7),
        (json!({ "limit": 2, "lastmessagedate": "2024-03-08 12:00:30" }), 1..3),
        (
            json!({ "limit": 2, "lastmessageid": "unknown", "lastmessagedate": "2024-03-08 12:30:00" }),
            8..10,
        ),
        (json!({ "lastmessageid": "m-0" }), 0..0),
    ] {
        let page = alice.does("downloadpartial", cursor.clone()).await;
        assert_eq!(page.message_ids(), ids(expected), "{cursor}");
        assert_eq!(page.json().get("more"), None, "{cursor}");
    }
}

#[tokio::test]
async fn a_page_that_is_cut_announces_more_and_the_next_one_continues() {
    let world = World::with(&[("limits.download_messages", "4")]).await;
    let alice = alice_with_ten_messages(&world).await;
    let mut read = Vec::new();
    let mut cursor = json!({});
    loop {
        let page = alice.does("download", cursor).await;
        let ids = page.message_ids();
        assert!(ids.len() <= 4);
        let again = usize::from(!read.is_empty());
        read.extend_from_slice(&ids[again..]);
        cursor = json!({ "firstmessageid": ids.last().unwrap() });
        if page.json().get("more") != Some(&json!(true)) {
            break;
        }
        assert!(page.text.ends_with(r#","more":true}"#), "it is the last key");
    }
    assert_eq!(read, ids(0..10));
}

#[tokio::test]
async fn a_page_ends_at_its_bytes_but_is_never_empty() {
    let world = World::with(&[("limits.download_bytes", "1024")]).await;
    let (alice, _bob) = world.alice_and_bob().await;
    let date = world.clock.date();
    for (id, length) in [("m-0", 3000), ("m-1", 300), ("m-2", 300), ("m-3", 300)] {
        alice.adds(&message_with_id(id, &"x".repeat(length), &date)).await.ok();
    }
    let page = alice.does("download", json!({})).await;
    assert_eq!((page.message_ids(), &page.json()["more"]), (ids(0..1), &json!(true)));
    let page = alice.does("download", json!({ "firstmessageid": "m-1" })).await;
    assert_eq!((page.message_ids(), &page.json()["more"]), (ids(1..3), &json!(true)));
    // Continuing from the last entry of a page makes progress, however large that entry is.
    let page = alice.does("download", json!({ "firstmessageid": "m-0" })).await;
    assert_eq!((page.message_ids(), &page.json()["more"]), (ids(0..2), &json!(true)));
    let page = alice.does("downloadpartial", json!({})).await;
    assert_eq!((page.message_ids(), &page.json()["more"]), (ids(2..4), &json!(true)));
    let page = alice.does("downloadpartial", json!({ "lastmessageid": "m-1" })).await;
    assert_eq!((page.message_ids(), page.json().get("more")), (ids(0..1), None));

    // The limit counts the exact bytes of the entries.
    let entry = alice.does("download", json!({ "firstmessageid": "m-3" })).await.text;
    let entry = entry.strip_prefix(r#"{"status":"OK","errormessage":"","messages":["#).unwrap();
    let bytes = entry.strip_suffix(r#"],"reports":[]}"#).unwrap().len();
    for (limit, fitting) in [(bytes * 3, 3), (bytes * 3 - 1, 2)] {
        let world = World::with(&[("limits.download_bytes", &limit.to_string())]).await;
        let (alice, _bob) = world.alice_and_bob().await;
        for n in 1..4 {
            alice.adds(&message_with_id(&format!("m-{n}"), &"x".repeat(300), &date)).await.ok();
        }
        assert_eq!(alice.downloads().await.message_ids().len(), fitting);
    }
}
