//! Quotas of stored data: bytes per conversation and friends per user.

use serde_json::{Value, json};

use crate::harness::friends::{NONE, incoming};
use crate::harness::person::{Person, message, message_with_id};
use crate::harness::process::Workplace;
use crate::harness::world::World;

/// A text of twelve bytes. Its `Data` has [`BYTES`] characters.
const TWELVE: &str = "twelve bytes";
const BYTES: usize = 16;

#[tokio::test]
async fn a_conversation_takes_data_up_to_its_quota() {
    let quota = (3 * BYTES).to_string();
    let world = World::with(&[("limits.conversation_bytes", quota.as_str())]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let first = message_with_id("first", TWELVE, &alice.date());
    alice.adds(&first).await.ok();
    bob.sends(TWELVE).await;
    alice.sends(TWELVE).await;

    let refused = bob.adds(&message("one more", &bob.date())).await;
    let refused = refused.refused(403, "quota_exceeded");
    let sentence = refused["errormessage"].as_str().unwrap();
    assert!(sentence.contains("60 bytes") && sentence.contains("is 48"), "{sentence}");
    alice.adds(&first).await.ok();
    let other = message_with_id("first", "another", &alice.date());
    alice.adds(&other).await.refused(409, "message_conflict");
    assert_eq!(bob.reads().await, [TWELVE; 3]);

    bob.clears().await.ok();
    for _ in 0..3 {
        bob.sends(TWELVE).await;
    }
    alice.adds(&message(TWELVE, &alice.date())).await.refused(403, "quota_exceeded");
}

#[tokio::test]
async fn the_quota_applies_per_conversation_and_to_concurrent_messages() {
    let world = World::with(&[("limits.conversation_bytes", "160")]).await;
    let (mut alice, mut bob) = world.alice_and_bob().await;
    let sends = (0..20).map(|n| {
        let sender = if n % 2 == 0 { alice.clone() } else { bob.clone() };
        async move { sender.adds(&message(TWELVE, &sender.date())).await }
    });
    let answers = futures_util::future::join_all(sends).await;
    let stored = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(stored, 10);
    assert_eq!(alice.reads().await.len(), 10);
    let mut carol = world.person("Carol").await;
    world.befriends(&mut alice, &mut carol).await;
    world.befriends(&mut bob, &mut carol).await;
    alice.sends(TWELVE).await;
    carol.sends(TWELVE).await;
}

#[tokio::test]
async fn a_conversation_above_a_lowered_quota_keeps_its_messages() {
    let world = World::with(&[("limits.conversation_bytes", "0")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    for _ in 0..5 {
        alice.sends(TWELVE).await;
    }
    let world = world.restarts(&[("limits.conversation_bytes", "16")]).await;
    let (alice, bob) = (alice.moves_to(&world), bob.moves_to(&world));
    assert_eq!(bob.reads().await, [TWELVE; 5]);
    alice.adds(&message("more", &alice.date())).await.refused(403, "quota_exceeded");
    bob.clears().await.ok();
    alice.sends(TWELVE).await;
}

/// Returns Alice, who has two friends, and Dora, who has none.
async fn alice_with_two_friends(world: &World) -> (Person, Person) {
    let mut alice = world.person("Alice").await;
    for nick in ["Bob", "Carol"] {
        let mut friend = world.person(nick).await;
        world.befriends(&mut alice, &mut friend).await;
    }
    (alice, world.person("Dora").await)
}

#[track_caller]
fn is_at_the_limit(refused: &Value) {
    let sentence = refused["errormessage"].as_str().unwrap();
    assert!(sentence.contains("at most 2 friends"), "{sentence}");
}

#[tokio::test]
async fn the_limit_of_friends_applies_to_both_sides_of_a_request() {
    let world = World::with(&[("limits.friends", "2")]).await;
    let (alice, dora) = alice_with_two_friends(&world).await;

    // Dora has asked Alice, who is at the limit.
    dora.wants(&alice.email).await.ok();
    is_at_the_limit(&alice.accepts(&dora).await.refused(429, "rate_limited"));
    is_at_the_limit(&alice.wants(&dora.email).await.refused(429, "rate_limited"));
    assert_eq!(alice.requests().await, [incoming(&dora, "Dora"), json!([])]);
    assert_eq!(dora.requests().await[1], json!([{ "userid": alice.user.as_str(), "nick": "" }]));

    // Alice has asked Emil, who tries to accept.
    let emil = world.person("Emil").await;
    alice.wants(&emil.email).await.ok();
    is_at_the_limit(&emil.accepts(&alice).await.refused(429, "rate_limited"));
    assert_eq!(emil.friends().await, json!({}));
    assert_eq!(emil.requests().await[0], incoming(&alice, "Alice"));

    let carol = chatserver::domain::UserId::named("carol@example.com").unwrap();
    alice.removes(carol.as_str()).await.ok();
    alice.accepts(&dora).await.ok();
    assert_eq!(dora.requests().await, NONE);
    is_at_the_limit(&emil.accepts(&alice).await.refused(429, "rate_limited"));
}

#[tokio::test]
async fn friends_above_a_lowered_limit_stay() {
    let world = World::start().await;
    let (alice, _dora) = alice_with_two_friends(&world).await;
    let world = world.restarts(&[("limits.friends", "1")]).await;
    let alice = alice.moves_to(&world);
    assert_eq!(alice.friends().await.as_object().unwrap().len(), 2);
    let bob = chatserver::domain::UserId::named("bob@example.com").unwrap();
    alice.wants(bob.as_str()).await.ok();
}

#[test]
fn commands_respect_the_limit_of_friends() {
    let place = Workplace::new();
    for name in ["alice", "bob", "carol"] {
        place.tells(&["user", "add", &format!("{name}@example.com"), "--nick", name]);
    }
    std::fs::write(place.path().join("chat.toml"), "[limits]\nfriends = 1\n").unwrap();
    let add = |one: &str, other: &str| -> Vec<String> {
        let words = ["friend", "add", one, other, "--config", "chat.toml"];
        words.map(str::to_owned).to_vec()
    };
    let [alice, bob, carol] = ["alice@example.com", "bob@example.com", "carol@example.com"];
    let tells = |arguments: Vec<String>| {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        place.runs(&arguments)
    };
    assert!(tells(add(alice, bob)).status.success());
    assert!(tells(add(bob, alice)).status.success(), "they are friends already");
    let refused = tells(add(carol, alice));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains("at most 1 friends for alice@example.com"), "{said}");
    assert!(said.contains("limits.friends"), "{said}");
}
