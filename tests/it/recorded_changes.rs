//! Recorded changes of users when friendships and blocks change.

use futures_util::FutureExt as _;
use serde_json::json;

use crate::harness::changes::{ChangeLog, friend, lists, own};
use crate::harness::friends::{NONE, incoming};
use crate::harness::world::World;

#[tokio::test]
async fn each_change_is_recorded_for_exactly_the_users_it_concerns() {
    let world = World::start().await;
    let (alice, bob) = (world.person("Alice").await, world.person("Bob").await);
    let mut changes = ChangeLog::of(&world).await;
    let mut new = async || [changes.new_for(&alice).await, changes.new_for(&bob).await];
    let nothing = Vec::new;
    for _ in 0..2 {
        alice.wants(&bob.email).await.ok();
        assert_eq!(new().await, [vec![own(lists(&alice))], vec![lists(&bob)]]);
        alice.wants(&bob.email).await.ok();
        assert_eq!(new().await, [nothing(), nothing()], "it was asked before");
        alice.removes(bob.user.as_str()).await.ok();
        assert_eq!(new().await, [vec![own(lists(&alice))], vec![lists(&bob)]]);
        alice.removes(bob.user.as_str()).await.ok();
        bob.accepts(&alice).await.ok();
        bob.declines(&alice).await.ok();
        assert_eq!(new().await, [nothing(), nothing()], "there was nothing to change");
    }
    alice.wants(&bob.email).await.ok();
    new().await;
    bob.declines(&alice).await.ok();
    assert_eq!(new().await, [nothing(), vec![own(lists(&bob))]]);
    bob.declines(&alice).await.ok();
    assert_eq!(new().await, [nothing(), nothing()]);
    for _ in 0..2 {
        alice.removes(bob.user.as_str()).await.ok();
        assert_eq!(new().await, [vec![own(lists(&alice))], nothing()]);
        alice.wants(&bob.email).await.ok();
        assert_eq!(new().await, [vec![own(lists(&alice))], nothing()]);
    }
    bob.wants(&alice.email).await.ok();
    let both = |friend: String, lists: String| vec![friend, lists];
    assert_eq!(
        new().await,
        [both(friend(&bob), lists(&alice)), both(own(friend(&alice)), own(lists(&bob)))]
    );
    alice.wants(&bob.email).await.ok();
    alice.accepts(&bob).await.ok();
    assert_eq!(new().await, [nothing(), nothing()]);
    alice.removes(bob.user.as_str()).await.ok();
    assert_eq!(new().await, [vec![own(friend(&bob))], vec![friend(&alice)]]);
    bob.wants(&alice.email).await.ok();
    new().await;
    alice.accepts(&bob).await.ok();
    assert_eq!(
        new().await,
        [both(own(friend(&bob)), own(lists(&alice))), both(friend(&alice), lists(&bob))]
    );
}

#[tokio::test]
async fn changes_by_operators_are_recorded_for_both_users() {
    let world = World::start().await;
    let (mut alice, mut bob) = (world.person("Alice").await, world.person("Bob").await);
    alice.wants(&bob.email).await.ok();
    bob.declines(&alice).await.ok();
    let mut changes = ChangeLog::of(&world).await;
    for person in [&alice, &bob] {
        changes.new_for(person).await;
    }
    world.befriends(&mut alice, &mut bob).await;
    assert_eq!(changes.new_for(&alice).await, [friend(&bob), lists(&alice)]);
    assert_eq!(changes.new_for(&bob).await, [friend(&alice), lists(&bob)]);
    assert_eq!((alice.requests().await, bob.requests().await), (NONE, NONE));
    world.befriends(&mut alice, &mut bob).await;
    assert_eq!((changes.new_for(&alice).await, changes.new_for(&bob).await), (vec![], vec![]));
    world.parts(&alice, &bob).await;
    assert_eq!(changes.new_for(&alice).await, [friend(&bob)]);
    assert_eq!(changes.new_for(&bob).await, [friend(&alice)]);
    // The declined request has left nothing behind.
    alice.wants(&bob.email).await.ok();
    assert_eq!(bob.requests().await, [incoming(&alice, "Alice"), json!([])]);
}

#[tokio::test]
async fn a_cancelled_poll_takes_nothing() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let app = world.app();
    let (user, station) = (bob.user, bob.station);
    app.station_used(user, station, true).await.unwrap();
    let inbox = app.inbox(user, station);
    assert!(inbox.peek(None).now_or_never().is_none(), "it waits for the store");
    // The station has a position, so only the in-memory presence feed can name friends.
    app.store.take_number(user).await.unwrap();
    app.store.acknowledge(user, station, 1).await.unwrap();
    assert_eq!(bob.polls(0).await.friends, [alice.user.to_string()]);
}
