//! Replayed polls: they are answered, but do not advance the cursor.

use serde_json::json;

use super::nothing;
use crate::harness::notification::Notification;
use crate::harness::person::Prepared;
use crate::harness::world::World;

async fn told_by(poll: &Prepared) -> Notification {
    Notification::read(&poll.sent().await.ok())
}

#[tokio::test]
async fn a_replayed_poll_moves_no_position() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let here = [bob.conversation.as_str()];
    let poll = || bob.prepares_poll();
    let (signed, unsigned) = (poll(), bob.prepares_unsigned());
    assert_eq!(told_by(&signed).await.conversations, here, "everything is new");
    assert_eq!(told_by(&unsigned).await, nothing());
    for captured in [&signed, &unsigned] {
        alice.sends("hi").await;
        for _ in 0..2 {
            assert_eq!(told_by(captured).await.conversations, here);
        }
        assert_eq!(told_by(&poll()).await.conversations, here, "no poll has taken it");
        assert_eq!(told_by(captured).await, nothing());
    }
    // An older poll that arrives after a newer one does not advance the cursor either.
    let older = poll();
    world.clock.advances(1);
    assert_eq!(told_by(&poll()).await, nothing());
    alice.sends("hi").await;
    for captured in [&signed, &unsigned, &older] {
        assert_eq!(told_by(captured).await.conversations, here);
    }
    assert_eq!(bob.is_notified().await.conversations, here);
    assert_eq!(bob.is_notified().await, nothing());
}

#[tokio::test]
async fn a_replayed_poll_moves_no_position_after_a_restart() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let here = [bob.conversation.as_str()];
    let poll = || bob.prepares_poll();
    let (first, unsigned) = (poll(), bob.prepares_unsigned());
    first.sent().await.ok();
    alice.sends("hi").await;
    assert_eq!(told_by(&unsigned).await.conversations, here);
    let empty = poll();
    assert_eq!(told_by(&empty).await, nothing());
    // The clock of another device is 200 s ahead.
    let tablet = bob.elsewhere();
    tablet.is_notified().await;
    world.clock.advances(200);
    let ahead = tablet.prepares_poll();
    world.clock.jumps(-200);
    assert_eq!(told_by(&ahead).await, nothing());
    world.clock.advances(1);
    let world = world.restarts(&[]).await;
    let (alice, bob, tablet) =
        (alice.moves_to(&world), bob.moves_to(&world), tablet.moves_to(&world));
    alice.sends("hi").await;
    for captured in [&first, &unsigned, &empty, &ahead] {
        let mut again = captured.clone();
        again.url = bob.url("chatnotification");
        assert_eq!(told_by(&again).await.conversations, here);
    }
    assert_eq!(bob.is_notified().await.conversations, here);
    assert_eq!(bob.is_notified().await.conversations, Vec::<String>::new());
    world.clock.advances(200);
    assert_eq!(tablet.is_notified().await.conversations, here);
    assert_eq!(tablet.is_notified().await.conversations, Vec::<String>::new());
}

#[tokio::test]
async fn a_replayed_poll_takes_no_availability_of_friends() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let poll = || bob.prepares_poll();
    let captured = poll();
    captured.sent().await.ok();
    alice.chooses("useravailable").await.ok();
    crate::harness::world::until("Bob is told of Alice", async || {
        told_by(&captured).await.friends == [alice.user.to_string()]
    })
    .await;
    assert_eq!(told_by(&poll()).await.friends, [alice.user.to_string()], "no poll has taken it");
}

#[tokio::test]
async fn a_refused_poll_can_be_repeated() {
    let world =
        World::with(&[("limits.requests_per_second", "1"), ("limits.requests_burst", "1")]).await;
    let (_alice, bob) = world.alice_and_bob().await;
    let here = [bob.conversation.as_str()];
    let poll = bob.prepares_poll();
    bob.elsewhere().asks("list", json!({})).await.ok();
    crate::harness::world::until("it is answered", async || poll.sent().await.status == 200).await;
    crate::harness::world::until("it was taken", async || {
        let again = bob.prepares_poll().sent().await;
        again.status == 200 && Notification::read(&again.json()).conversations != here
    })
    .await;
}

#[tokio::test]
async fn a_replayed_poll_of_an_evicted_station_moves_no_position() {
    let world = World::with(&[("limits.stations_per_user", "2")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let here = [bob.conversation.as_str()];
    bob.is_notified().await;
    let empty = bob.prepares_poll();
    assert_eq!(told_by(&empty).await, nothing());
    for other in [bob.elsewhere(), bob.elsewhere()] {
        other.is_notified().await;
    }
    alice.sends("hi").await;
    for _ in 0..2 {
        assert_eq!(told_by(&empty).await.conversations, here);
    }
    world.clock.advances(1);
    assert_eq!(bob.is_notified().await.conversations, here, "no poll has taken it");
}
