//! Disabled users: hidden from others, and everything comes back.

use serde_json::json;

use crate::harness::friends::{NONE, incoming};
use crate::harness::person::message;
use crate::harness::world::World;

#[tokio::test]
async fn a_disabled_user_leaves_the_friends_lists_and_comes_back() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.sends("hello").await;
    let before = [bob.sees_friends_and_requests().await, alice.sees_friends_and_requests().await];
    bob.is_notified().await;
    world.disables(&alice).await;
    assert_eq!(bob.friends().await, json!({}));
    let told = bob.is_notified().await;
    assert_eq!(told.friends, [alice.user.as_str()]);
    assert_eq!(bob.reads().await, ["hello"]);

    world.enables(&alice).await;
    let after = [bob.sees_friends_and_requests().await, alice.sees_friends_and_requests().await];
    assert_eq!(after, before);
    bob.sends("welcome back").await;
    assert_eq!(alice.reads().await, ["hello", "welcome back"]);
}

#[tokio::test]
async fn a_disabled_user_cannot_be_written_to() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let sent = alice.sends("hello").await;
    world.disables(&alice).await;
    world.disables(&alice).await;
    bob.adds(&message("to nobody", &bob.date())).await.refused(403, "not_friends");
    bob.clears().await.refused(403, "not_friends");
    bob.reports_as("viewed", &[&sent]).await.ok();
    assert_eq!(bob.told().await, []);
    // A block that comes and goes meanwhile opens nothing.
    bob.blocks(alice.user.as_str()).await.ok();
    bob.unblocks(alice.user.as_str()).await.ok();
    bob.adds(&message("to nobody", &bob.date())).await.refused(403, "not_friends");
    world.enables(&alice).await;
    bob.reports_as("viewed", &[&sent]).await.ok();
    assert_eq!(bob.told().await.len(), 2);
    bob.sends("hi").await;
}

#[tokio::test]
async fn both_must_be_enabled_to_write() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    world.disables(&alice).await;
    world.disables(&bob).await;
    world.enables(&alice).await;
    alice.adds(&message("to nobody", &alice.date())).await.refused(403, "not_friends");
    world.enables(&bob).await;
    alice.sends("hello").await;
}

#[tokio::test]
async fn requests_of_a_disabled_user_are_hidden() {
    let world = World::start().await;
    let (alice, bob) = (world.person("Alice").await, world.person("Bob").await);
    alice.wants(&bob.email).await.ok();
    bob.is_notified().await;
    world.disables(&alice).await;
    assert_eq!(bob.requests().await, NONE);
    let told = bob.is_notified().await;
    assert_eq!(told.lists, [bob.user.as_str()]);
    world.enables(&alice).await;
    assert_eq!(bob.requests().await, [incoming(&alice, "Alice"), json!([])]);
}
