//! Blocks, from the side of the blocker and of the blocked user.

use futures_util::future::join_all;
use serde_json::json;

use crate::harness::changes::{ChangeLog, friend, lists, own};
use crate::harness::friends::{NONE, id_of, incoming, request_transcript};
use crate::harness::person::{Person, message, message_with_id};
use crate::harness::world::World;

#[tokio::test]
async fn the_blocklist_shows_known_and_unknown_users_alike() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let blocked = alice.blocks(bob.user.as_str()).await;
    assert_eq!(blocked.text, r#"{"status":"OK","errormessage":""}"#);
    let mut ids = vec![bob.user.to_string()];
    for n in 0..9 {
        ids.push(id_of(&format!("nobody-{n}@example.com")));
    }
    for id in ids.iter().chain(&ids) {
        assert_eq!(alice.blocks(id).await.text, blocked.text);
    }
    ids.sort();
    assert_eq!(alice.blocklist().await, [json!(ids), json!([])]);
    assert_eq!(bob.blocklist().await, NONE, "it is one's own");
    for _ in 0..2 {
        assert_eq!(alice.unblocks(&ids[3]).await.text, blocked.text);
    }
    ids.remove(3);
    assert_eq!(alice.blocklist().await, [json!(ids), json!([])]);
}

#[tokio::test]
async fn a_user_can_not_block_themselves() {
    let world = World::start().await;
    let alice = world.person("Alice").await;
    for answer in
        [alice.blocks(alice.user.as_str()).await, alice.unblocks(alice.user.as_str()).await]
    {
        let refused = answer.refused(400, "invalid_field");
        assert_eq!(refused["errormessage"], "userid must be the user id of another user");
    }
    assert_eq!(alice.blocklist().await, NONE);
}

#[tokio::test]
async fn the_blocklist_shows_conversations_that_are_hidden_for_good() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let listed = async || alice.blocklist().await[1].clone();
    alice.does("hide", json!({ "hideid": "PqjfKSn7V8;" })).await.ok();
    assert_eq!(listed().await, json!([]));
    alice.does("hide", json!({})).await.ok();
    assert_eq!(listed().await, json!([alice.conversation]));
    assert_eq!(bob.blocklist().await, NONE);
    let mut conversations = vec![alice.conversation.clone()];
    for nick in ["Carol", "Dave"] {
        let (mut with_other, mut other) = (alice.clone(), world.person(nick).await);
        world.befriends(&mut with_other, &mut other).await;
        with_other.does("hide", json!({ "hideid": "" })).await.ok();
        conversations.push(with_other.conversation);
    }
    conversations.sort();
    assert_eq!(listed().await, json!(conversations));
    alice.does("unhide", json!({})).await.ok();
    conversations.retain(|id| *id != alice.conversation);
    assert_eq!(listed().await, json!(conversations));
}

#[tokio::test]
async fn a_block_stops_messages_in_both_directions_until_it_is_lifted() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let date = world.clock.date();
    let (hers, his) = (message_with_id("m-1", "hi", &date), message_with_id("m-2", "hello", &date));
    let stored = [alice.adds(&hers).await.text, bob.adds(&his).await.text];
    alice.blocks(bob.user.as_str()).await.ok();
    let before = (alice.sees().await, bob.sees().await);
    alice.adds(&message("new", &date)).await.refused(403, "blocked");
    alice.clears().await.refused(403, "blocked");
    bob.adds(&message("new", &date)).await.refused(403, "not_friends");
    bob.clears().await.refused(403, "not_friends");
    // A repeated request for a stored message still succeeds.
    assert_eq!([alice.adds(&hers).await.text, bob.adds(&his).await.text], stored);
    bob.adds(&message_with_id("m-2", "other", &date)).await.refused(409, "message_conflict");
    assert_eq!((alice.sees().await, bob.sees().await), before);
    assert_eq!(bob.reads().await, ["hi", "hello"]);
    // The friendship remains, and so do the user's own settings.
    assert!(alice.friends().await.get(bob.user.as_str()).is_some());
    assert!(bob.friends().await.get(alice.user.as_str()).is_some());
    bob.does("mute", json!({})).await.ok();

    bob.blocks(alice.user.as_str()).await.ok();
    bob.adds(&message("new", &date)).await.refused(403, "blocked");
    alice.adds(&message("new", &date)).await.refused(403, "blocked");
    alice.unblocks(bob.user.as_str()).await.ok();
    alice.adds(&message("new", &date)).await.refused(403, "not_friends");
    bob.unblocks(alice.user.as_str()).await.ok();
    alice.sends("again").await;
    bob.sends("at last").await;
    assert_eq!(alice.reads().await, ["hi", "hello", "again", "at last"]);
    bob.clears().await.ok();
}

/// Returns everything that a person can observe about a conversation, including the changes recorded for them.
async fn found_out(person: &Person, changes: &mut ChangeLog) -> Vec<String> {
    let date = person.date();
    let hint = format!("{:?}", changes.new_for(person).await);
    let sent = [
        person.adds(&message_with_id("m-1", "hi", &date)).await,
        person.adds(&message_with_id("m-1", "other", &date)).await,
        person.adds(&message_with_id("m-2", "new", &date)).await,
        person.clears().await,
        person.asks("list", json!({})).await,
        person.downloads().await,
        person.does("downloadpartial", json!({})).await,
        person.does("mute", json!({})).await,
    ];
    let nothing = changes.new_for(person).await.into_iter().filter(|hint| !hint.ends_with('*'));
    let all = sent.iter().map(|answer| format!("{} {}", answer.status, answer.text));
    all.chain([hint]).chain(nothing).collect()
}

#[tokio::test]
async fn a_block_looks_like_a_removal_to_the_blocked_user() {
    let world = World::start().await;
    let (mut alice, mut bob) = world.alice_and_bob().await;
    bob.adds(&message_with_id("m-1", "hi", &world.clock.date())).await.ok();
    bob.does("mute", json!({})).await.ok();
    let mut changes = ChangeLog::of(&world).await;
    changes.new_for(&bob).await;
    let count = changes.number_of(&bob).await;

    alice.blocks(bob.user.as_str()).await.ok();
    let blocked = found_out(&bob, &mut changes).await;
    let told = changes.number_of(&bob).await - count;
    alice.unblocks(bob.user.as_str()).await.ok();
    changes.new_for(&bob).await;
    let count = changes.number_of(&bob).await;
    alice.removes(bob.user.as_str()).await.ok();
    let removed = found_out(&bob, &mut changes).await;
    assert_eq!(blocked, removed);
    assert_eq!(changes.number_of(&bob).await - count, told);
    assert!(blocked[2].contains("not_friends") && blocked[3].contains("not_friends"));

    // A block between users who are not friends records no change for the blocked user.
    alice.blocks(bob.user.as_str()).await.ok();
    alice.unblocks(bob.user.as_str()).await.ok();
    assert_eq!(changes.new_for(&bob).await, Vec::<String>::new());
    world.befriends(&mut alice, &mut bob).await;
    bob.sends("friends again").await;
}

#[tokio::test]
async fn blocks_are_recorded_for_the_blocker_and_for_a_friend() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let carol = world.person("Carol").await;
    let mut changes = ChangeLog::of(&world).await;
    let mut new = async || {
        [changes.new_for(&alice).await, changes.new_for(&bob).await, changes.new_for(&carol).await]
    };
    new().await;
    let nothing = Vec::new;
    let mine = || vec![own(lists(&alice))];
    for _ in 0..2 {
        alice.blocks(bob.user.as_str()).await.ok();
        assert_eq!(new().await, [mine(), vec![friend(&alice)], nothing()]);
        alice.blocks(bob.user.as_str()).await.ok();
        assert_eq!(new().await, [nothing(), nothing(), nothing()]);
        alice.unblocks(bob.user.as_str()).await.ok();
        assert_eq!(new().await, [mine(), vec![friend(&alice)], nothing()]);
        alice.unblocks(bob.user.as_str()).await.ok();
        assert_eq!(new().await, [nothing(), nothing(), nothing()]);
        alice.blocks(carol.user.as_str()).await.ok();
        assert_eq!(new().await, [mine(), nothing(), nothing()]);
        alice.unblocks(carol.user.as_str()).await.ok();
        assert_eq!(new().await, [mine(), nothing(), nothing()]);
    }
    alice.blocks(carol.user.as_str()).await.ok();
    new().await;
    let own_lists = vec![own(lists(&carol))];
    for _ in 0..2 {
        carol.wants(&alice.email).await.ok();
        assert_eq!(new().await, [nothing(), nothing(), own_lists.clone()]);
        carol.removes(alice.user.as_str()).await.ok();
        assert_eq!(new().await, [nothing(), nothing(), own_lists.clone()]);
    }
}

#[tokio::test]
async fn friend_requests_of_a_blocked_user_never_show() {
    let world = World::start().await;
    let [alice, bob, carol] =
        [world.person("Alice").await, world.person("Bob").await, world.person("Carol").await];
    // Bob asks before the block, Carol during it.
    bob.wants(&alice.email).await.ok();
    assert_eq!(alice.requests().await[0], incoming(&bob, "Bob"));
    let before = bob.requests().await;
    for person in [&bob, &carol] {
        alice.blocks(person.user.as_str()).await.ok();
    }
    carol.wants(&alice.email).await.ok();
    assert_eq!(bob.requests().await, before);
    for person in [&bob, &carol] {
        assert_eq!(alice.requests().await, NONE);
        alice.accepts(person).await.ok();
        alice.unblocks(person.user.as_str()).await.ok();
        assert_eq!(alice.requests().await, NONE, "not after the block either");
        person.removes(alice.user.as_str()).await.ok();
        person.wants(&alice.email).await.ok();
        assert_eq!(alice.requests().await, NONE);
        assert_eq!(alice.friends().await, json!({}));
    }
    // Alice, who set the block, can still ask Bob.
    alice.wants(&bob.email).await.ok();
    assert!(alice.friends().await.get(bob.user.as_str()).is_some());
    // A first request after the block is shown.
    let dave = world.person("Dave").await;
    alice.blocks(dave.user.as_str()).await.ok();
    alice.unblocks(dave.user.as_str()).await.ok();
    dave.wants(&alice.email).await.ok();
    assert_eq!(alice.requests().await[0], incoming(&dave, "Dave"));
}

#[tokio::test]
async fn a_blocked_user_gets_the_answers_of_an_unknown_address() {
    let world = World::start().await;
    let (bob, carol) = (world.person("Bob").await, world.person("Carol").await);
    let asker = |address: &str| id_of(&format!("asker-of-{address}"));
    bob.blocks(&asker(&bob.email)).await.ok();
    let unknown = request_transcript(&world, "nobody@example.com", async |_| {}).await;
    assert_eq!(unknown, request_transcript(&world, &bob.email, async |_| {}).await);
    let blocked_meanwhile = request_transcript(&world, &carol.email, async |_| {
        carol.blocks(&asker(&carol.email)).await.ok();
    });
    assert_eq!(unknown, blocked_meanwhile.await);
}

#[tokio::test]
async fn a_replayed_block_changes_nothing() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let prepares = |action: &str| {
        alice.prepares("chatblocklist", action, &json!({ "userid": bob.user.as_str() }))
    };
    let (block, unblock) = (prepares("block"), prepares("unblock"));
    for (request, listed) in [(&block, json!([bob.user.as_str()])), (&unblock, json!([]))] {
        request.sent().await.ok();
        for done in [&block, request] {
            let replayed = done.sent().await.refused(409, "replayed");
            assert_eq!(replayed.get("conversation"), None);
        }
        assert_eq!(alice.blocklist().await[0], listed);
    }
}

#[tokio::test]
async fn at_most_a_thousand_users_can_be_blocked() {
    let world = World::start().await;
    let alice = world.person("Alice").await;
    let ids: Vec<_> = (0..1000).map(|n| id_of(&format!("{n}@example.com"))).collect();
    for some in ids.chunks(100) {
        for blocked in join_all(some.iter().map(|id| alice.blocks(id))).await {
            blocked.ok();
        }
    }
    let one_more = id_of("more@example.com");
    let block = alice.prepares("chatblocklist", "block", &json!({ "userid": one_more }));
    for _ in 0..2 {
        let refused = block.sent().await;
        refused.refused(429, "rate_limited");
        assert!(refused.headers.contains_key("retry-after"));
    }
    alice.blocks(&ids[500]).await.ok();
    alice.unblocks(&one_more).await.ok();
    assert_eq!(alice.blocklist().await[0].as_array().unwrap().len(), 1000);
    alice.unblocks(&ids[500]).await.ok();
    block.sent().await.ok();
    assert!(alice.blocklist().await[0].as_array().unwrap().contains(&json!(one_more)));
}
