//! The availability that friends see, who may see it, and the notifications about its changes.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::notification::Notification;
use crate::harness::world::{PATIENCE, World, until};

/// Shortens the presence timeout to one second.
const BRIEFLY: (&str, &str) = ("presence.timeout_seconds", "1");

#[tokio::test]
async fn only_friends_see_a_chosen_availability() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let stranger = world.person("Stranger").await;
    assert_eq!(bob.sees_as(&alice).await, "offline", "before the first choice");
    for (action, seen) in [
        ("useravailable", "available"),
        ("useraway", "away"),
        ("userbusy", "busy"),
        ("useroffline", "offline"),
        ("useravailable", "available"),
        ("useravailable", "available"),
    ] {
        let chosen = alice.chooses(action).await;
        assert_eq!(chosen.text, r#"{"status":"OK","errormessage":""}"#);
        assert_eq!(bob.sees_as(&alice).await, seen);
        assert_eq!(alice.sees_as(&bob).await, "offline");
        assert!(stranger.sees_friends().await.is_empty());
    }
    world.parts(&alice, &bob).await;
    assert!(bob.sees_friends().await.is_empty());
}

#[tokio::test]
async fn only_friends_are_told_of_a_change_of_availability() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let (elsewhere, stranger) = (bob.elsewhere(), world.person("Stranger").await);
    let mut listeners = Vec::new();
    for person in [&bob, &elsewhere, &stranger, &alice] {
        listeners.push(person.listens_from_now_on().await);
    }
    let [bobs, elsewheres, strangers, alices] = &mut listeners[..] else { unreachable!() };
    for (action, seen) in [("useravailable", "available"), ("useraway", "away")] {
        alice.chooses(action).await.ok();
        bobs.is_told_of(&[&alice]).await;
        elsewheres.is_told_of(&[&alice]).await;
        assert_eq!(bob.sees_as(&alice).await, seen);
    }
    alice.chooses("useraway").await.ok();
    world.has_told_friends().await;
    bobs.hears_nothing().await;
    // Bob's other station is told of the change by which the first one marked the end.
    assert_eq!(elsewheres.takes().await.lists, [bob.user.to_string()]);
    for listener in [elsewheres, strangers, alices] {
        listener.hears_nothing().await;
    }
}

#[tokio::test]
async fn both_forms_of_a_poll_tell_of_a_change_of_availability() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let elsewhere = bob.elsewhere();
    bob.is_notified().await;
    let first = elsewhere.polls(0).await.sequence;
    elsewhere.polls(first).await;
    alice.chooses("useravailable").await.ok();
    let mut told = Notification::read(&json!({
        "friendavailabilitesof": [], "conversationchangedof": [], "conversationlistchangedof": [],
    }));
    until("Bob is told", async || {
        told = bob.is_notified().await;
        !told.is_empty()
    })
    .await;
    assert_eq!((&*told.friends, told.conversations.len()), (&[alice.user.to_string()][..], 0));
    assert!(bob.is_notified().await.is_empty());
    let told = elsewhere.polls(first).await;
    assert_eq!(told.friends, [alice.user.to_string()]);
    assert!(told.sequence > first, "to acknowledge what came before is not to acknowledge this");
    assert_eq!(elsewhere.polls(first).await, told);
    assert!(elsewhere.polls(told.sequence).await.is_empty());
}

#[tokio::test]
async fn a_state_that_was_seen_within_the_debounce_is_followed_by_a_notification() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut listener = bob.listens_from_now_on().await;
    alice.chooses("useravailable").await.ok();
    listener.is_told_of(&[&alice]).await;
    alice.chooses("useraway").await.ok();
    assert_eq!(bob.sees_as(&alice).await, "away");
    // Alice is back to the announced state within the second of the debounce. Bob saw the state between, so he
    // must be notified again.
    alice.chooses("useravailable").await.ok();
    listener.is_told_of(&[&alice]).await;
    assert_eq!(bob.sees_as(&alice).await, "available");
}

#[tokio::test]
async fn a_flapping_user_is_told_of_at_most_once_a_second() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut listener = bob.listens_from_now_on().await;
    let (since, mut told) = (Instant::now(), 0);
    let mut actions = ["useravailable", "useraway"].into_iter().cycle();
    while told < 3 {
        assert!(since.elapsed() < PATIENCE, "it was told {told} times");
        alice.chooses(actions.next().unwrap()).await.ok();
        if let Some(notification) = listener.is_told_before_a_ping().await {
            listener.acknowledges(&notification).await;
            told += 1;
        }
    }
    // The second between two notifications is one of the real clock, so its lower bound is all that can be measured.
    assert!(since.elapsed() >= Duration::from_secs(told - 1), "{told} in {:?}", since.elapsed());
    alice.chooses("useraway").await.ok();
    bob.comes_to_see(&alice, "away").await;
}

#[tokio::test]
async fn a_silent_user_is_offline_until_the_next_sign_of_life() {
    let world = World::with(&[("presence.timeout_seconds", "2")]).await;
    let mut bob = world.person("Bob").await;
    let mut friends = Vec::new();
    for nick in ["Alice", "Carol", "Dave", "Eve"] {
        let mut friend = world.person(nick).await;
        world.befriends(&mut bob, &mut friend).await;
        friends.push(friend);
    }
    let [alice, carol, dave, eve] = &friends[..] else { unreachable!() };
    let mut listener = bob.listens_from_now_on().await;
    for friend in &friends {
        friend.chooses("useravailable").await.ok();
    }
    listener.is_told_of_each(&friends).await;
    let sees = async |as_what: [&str; 4]| {
        until("Bob sees them so", async || {
            let mut seen = Vec::new();
            for friend in &friends {
                seen.push(bob.sees_as(friend).await);
            }
            seen == as_what
        })
        .await;
    };
    sees(["offline"; 4]).await;
    listener.is_told_of_each(&friends).await;

    alice.lists().await;
    carol.logs_in().await.ok();
    let unsigned = dave.prepares_poll();
    let unsigned = unsigned.without_header("ozeki-user").without_header("ozeki-signature");
    unsigned.sent().await.ok();
    let listens = eve.listens().await;
    sees(["available"; 4]).await;
    listener.is_told_of_each(&friends).await;
    sees(["offline", "offline", "offline", "available"]).await;
    listener.is_told_of_each(&friends[..3]).await;
    world.has_told_friends().await;
    listener.hears_nothing().await;
    sees(["offline", "offline", "offline", "available"]).await;
    drop(listens);
    sees(["offline"; 4]).await;
    listener.is_told_of(&[eve]).await;
}

#[tokio::test]
async fn a_departure_is_told_even_if_it_precedes_the_announcement_of_the_arrival() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.chooses("useravailable").await.ok();
    let world = world.restarts(&[]).await;
    let (alice, bob) = (alice.moves_to(&world), bob.moves_to(&world));
    let mut listener = bob.listens_from_now_on().await;
    alice.lists().await;
    assert_eq!(bob.sees_as(&alice).await, "available");
    // Alice leaves before her arrival was announced.
    alice.chooses("useroffline").await.ok();
    listener.is_told_of(&[&alice]).await;
    assert_eq!(bob.sees_as(&alice).await, "offline");
}

#[tokio::test]
async fn a_user_who_chose_to_be_offline_is_never_told_of() {
    let world = World::with(&[BRIEFLY]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut listener = bob.listens_from_now_on().await;
    let first = bob.elsewhere().polls(0).await;
    for _ in 0..2 {
        alice.chooses("useroffline").await.ok();
        alice.lists().await;
        assert_eq!(bob.sees_as(&alice).await, "offline");
        drop(alice.listens().await);
        let presence = &world.app().presence;
        until("she has gone", async || !presence.is_reachable(alice.user)).await;
        world.has_told_friends().await;
        listener.hears_nothing().await;
    }
    let last = bob.elsewhere().polls(0).await;
    assert_eq!((first.friends, first.lists), (last.friends, last.lists));
}

#[tokio::test]
async fn a_blocked_friend_sees_the_user_as_offline() {
    let world = World::start().await;
    let (mut alice, bob) = world.alice_and_bob().await;
    let mut carol = world.person("Carol").await;
    world.befriends(&mut alice, &mut carol).await;
    let mut listener = bob.listens_from_now_on().await;
    alice.chooses("useravailable").await.ok();
    listener.is_told_of(&[&alice]).await;
    let mut carols = carol.listens_from_now_on().await;
    let block = |action: &str| {
        let fields = json!({ "userid": bob.user.as_str() });
        alice.prepares("chatblocklist", action, &fields)
    };
    block("block").sent().await.ok();
    listener.is_told_of(&[&alice]).await;
    assert_eq!(bob.sees_as(&alice).await, "offline");
    for action in ["useraway", "useroffline", "userbusy"] {
        alice.chooses(action).await.ok();
        carols.is_told_of(&[&alice]).await;
    }
    // Friends are told of a change one after the other, so Carol's last notification comes behind any of Bob's.
    listener.hears_nothing().await;
    assert_eq!(bob.sees_as(&alice).await, "offline");
    assert_eq!(carol.sees_as(&alice).await, "busy");
    block("unblock").sent().await.ok();
    listener.is_told_of(&[&alice]).await;
    assert_eq!(bob.sees_as(&alice).await, "busy");
    carols.hears_nothing().await;
}

#[tokio::test]
async fn a_restart_loses_no_change_of_availability() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let first = bob.polls(0).await.sequence;
    alice.chooses("useravailable").await.ok();
    until("Bob is told", async || !bob.polls(first).await.is_empty()).await;
    let before = bob.polls(first).await;
    assert_eq!(before.friends, [alice.user.to_string()]);

    let world = world.restarts(&[]).await;
    let (alice, bob) = (alice.moves_to(&world), bob.moves_to(&world));
    // Bob may acknowledge the notification from before the restart. Alice may have left since, so he is
    // notified again.
    assert_eq!(bob.sees_as(&alice).await, "offline", "she has not come back yet");
    let after = bob.polls(before.sequence).await;
    assert_eq!(after.friends, [alice.user.to_string()]);
    assert!(after.sequence > before.sequence);
    alice.lists().await;
    until("Bob is told again", async || {
        bob.polls(after.sequence).await != Notification { friends: vec![], ..after.clone() }
    })
    .await;
    assert_eq!(bob.sees_as(&alice).await, "available", "her choice is kept");
    let last = bob.polls(after.sequence).await;
    assert_eq!(last.friends, [alice.user.to_string()]);
    assert_eq!(bob.polls(before.sequence).await, last);
    assert!(bob.polls(last.sequence).await.is_empty());
}

#[tokio::test]
async fn a_replayed_choice_changes_nothing() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let available = alice.prepares("chatavailability", "useravailable", &json!({}));
    available.sent().await.ok();
    alice.chooses("useraway").await.ok();
    let refused = available.sent().await.refused(409, "replayed");
    assert!(refused.get("conversation").is_none(), "{refused}");
    assert_eq!(bob.sees_as(&alice).await, "away");
    alice.chooses("useravailable").await.ok();
    assert_eq!(bob.sees_as(&alice).await, "available");
}
