//! The listener: what a client hears without asking.

use serde_json::json;

use crate::ears::Ear;
use crate::world::{World, message};

#[tokio::test]
async fn a_message_is_told_at_once() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut ear = bob.listens().await;
    let first = ear.takes().await;
    assert_eq!(first.conversations, [bob.conversation.clone()]);
    assert_eq!(first.lists, [bob.user.to_string()]);
    assert_eq!(first.friends, [alice.user.to_string()]);
    alice.sends("hi").await;
    let second = ear.takes().await;
    assert_eq!(second.conversations, [bob.conversation.clone()]);
    assert!(second.friends.is_empty() && second.lists.is_empty());
    assert!(second.sequence > first.sequence);
    ear.hears_nothing().await;
    bob.sends("hello").await;
    ear.hears_nothing().await;
    bob.elsewhere().sends("from my other device").await;
    assert_eq!(ear.takes().await.conversations, [bob.conversation.clone()]);
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut ear = bob.listens_from_now_on().await;
    ear.hears_nothing().await;
    alice.sends("hi").await;
    let missed = ear.is_told().await;
    drop(ear);
    let mut again = bob.listens().await;
    let told = again.takes().await;
    assert_eq!(told.conversations, missed.conversations);
    assert!(told.sequence >= missed.sequence);
    again.hears_nothing().await;
    drop(again);
    let mut later = bob.listens().await;
    later.hears_nothing().await;
}

#[tokio::test]
async fn a_newer_connection_takes_the_station_over() {
    let world = World::start().await;
    let (_alice, bob) = world.alice_and_bob().await;
    let mut older = bob.listens().await;
    let mut newer = bob.listens().await;
    assert_eq!(older.is_closed().await, Some(4001));
    assert_eq!(newer.takes().await.conversations, [bob.conversation.clone()]);
    let mut elsewhere = bob.elsewhere().listens().await;
    elsewhere.takes().await;
    newer.hears_nothing().await;
}

#[tokio::test]
async fn a_malformed_frame_closes() {
    let world = World::start().await;
    let (_alice, bob) = world.alice_and_bob().await;
    let mut ear = Ear::opens(world.address).await;
    ear.says(&json!({ "action": "subscribe" })).await;
    let refused = ear.hears().await.unwrap();
    assert_eq!(
        (&refused["status"], &refused["errorcode"]),
        (&json!("ERROR"), &json!("invalid_field"))
    );
    assert_eq!(ear.is_closed().await, Some(4000));
    let mut ear = bob.listens().await;
    ear.says(&json!({ "action": "shout" })).await;
    assert_eq!(ear.is_closed().await, Some(4000));
}

#[tokio::test]
async fn over_http_it_is_told_once_or_until_it_is_acknowledged() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let everything = bob.is_notified().await;
    assert_eq!(everything.conversations, [bob.conversation.clone()]);
    assert!(bob.is_notified().await.is_empty());
    alice.sends("hi").await;
    let told = bob.polls(0).await;
    assert_eq!(told.conversations, [bob.conversation.clone()]);
    assert_eq!(bob.polls(0).await, told);
    assert_eq!(bob.polls(told.sequence + 1).await, told, "it was never sent");
    assert!(bob.polls(told.sequence).await.is_empty());
    alice.adds(&message("two", &world.clock.date())).await.ok();
    assert_eq!(bob.is_notified().await.conversations, [bob.conversation.clone()]);
}
