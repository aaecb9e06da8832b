//! WebSocket listeners: notifications, acknowledgements and closing.

mod frames;
mod pace;
mod processes;
mod subscribing;
mod told;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chatserver::domain::ApiKey;
use serde_json::json;

use crate::harness::person::message;
use crate::harness::world::{World, until};
use crate::harness::ws_client::WsClient;

#[tokio::test]
async fn a_message_is_notified_except_at_its_own_station() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut listener = bob.listens().await;
    let first = listener.takes().await;
    assert_eq!(first.conversations, [bob.conversation.as_str()]);
    assert_eq!(first.lists, [bob.user.to_string()]);
    assert_eq!(first.friends, [alice.user.to_string()]);
    alice.sends("hi").await;
    let second = listener.takes().await;
    assert_eq!(second.conversations, [bob.conversation.as_str()]);
    assert!(second.friends.is_empty() && second.lists.is_empty());
    assert!(second.sequence > first.sequence);
    listener.hears_nothing().await;
    bob.sends("hello").await;
    listener.hears_nothing().await;
    bob.elsewhere().sends("from my other device").await;
    assert_eq!(listener.takes().await.conversations, [bob.conversation.as_str()]);
}

#[tokio::test]
async fn an_unacknowledged_notification_is_repeated_on_the_next_connection() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut listener = bob.listens_from_now_on().await;
    listener.hears_nothing().await;
    alice.sends("hi").await;
    let missed = listener.is_told().await;
    drop(listener);
    let mut again = bob.listens().await;
    let told = again.takes().await;
    assert_eq!(told.conversations, missed.conversations);
    assert!(told.sequence >= missed.sequence);
    again.hears_nothing().await;
    again.is_heard().await;
    drop(again);
    let mut later = bob.listens().await;
    later.hears_nothing().await;
}

#[tokio::test]
async fn a_newer_connection_replaces_the_older_one_of_its_station() {
    let world = World::start().await;
    let (_alice, bob) = world.alice_and_bob().await;
    let mut older = bob.listens().await;
    older.is_told().await;
    let mut newer = bob.listens().await;
    assert_eq!(older.is_closed().await, Some(4001));
    assert_eq!(newer.takes().await.conversations, [bob.conversation.as_str()]);
    let mut elsewhere = bob.elsewhere().listens().await;
    elsewhere.takes().await;
    newer.hears_nothing().await;
}

#[tokio::test]
async fn a_malformed_frame_closes_the_connection() {
    let world = World::start().await;
    let (_alice, bob) = world.alice_and_bob().await;
    let mut listener = WsClient::opens(world.address).await;
    listener.says(&json!({ "action": "subscribe" })).await;
    let refused = listener.hears().await.unwrap();
    assert_eq!(
        (&refused["status"], &refused["errorcode"]),
        (&json!("ERROR"), &json!("invalid_field"))
    );
    assert_eq!(listener.is_closed().await, Some(4000));
    let mut listener = bob.listens().await;
    listener.says(&json!({ "action": "shout" })).await;
    assert_eq!(listener.is_closed().await, Some(4000));
}

#[tokio::test]
async fn polls_tell_once_or_until_the_acknowledgement() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let everything = bob.is_notified().await;
    assert_eq!(everything.conversations, [bob.conversation.as_str()]);
    assert!(bob.is_notified().await.is_empty());
    alice.sends("hi").await;
    let told = bob.polls(0).await;
    assert_eq!(told.conversations, [bob.conversation.as_str()]);
    assert_eq!(bob.polls(0).await, told);
    assert_eq!(bob.polls(told.sequence + 1).await, told, "it was never sent");
    assert!(bob.polls(told.sequence).await.is_empty());
    alice.adds(&message("two", &world.clock.date())).await.ok();
    assert_eq!(bob.is_notified().await.conversations, [bob.conversation.as_str()]);
}

#[tokio::test]
async fn each_station_of_a_user_has_its_own_notifications() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let (phone, laptop) = (bob.elsewhere(), bob.elsewhere());
    let mut listeners = Vec::new();
    for station in [&bob, &phone, &laptop] {
        listeners.push(station.listens_from_now_on().await);
    }
    let here = [bob.conversation.as_str()];
    alice.sends("to all of your devices").await;
    for listener in &mut listeners {
        assert_eq!(listener.takes().await.conversations, here);
    }
    phone.does("mute", json!({})).await.ok();
    assert_eq!(listeners[0].takes().await.conversations, here);
    listeners[1].hears_nothing().await;
    // The first station is told of the change by which the second one marked the end.
    assert_eq!(listeners[0].takes().await.lists, [bob.user.to_string()]);
    let unheard = listeners[2].is_told().await;
    assert_eq!(unheard.conversations, here);
    listeners[0].is_heard().await;
    drop(listeners);
    // Only the laptop has not acknowledged, so only the laptop is notified again.
    bob.listens().await.hears_nothing().await;
    assert_eq!(laptop.listens().await.takes().await.conversations, here);
}

#[tokio::test]
async fn a_stranger_hears_nothing_of_others() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let stranger = world.person("Stranger").await;
    let mut listener = stranger.listens_from_now_on().await;
    let mut bobs = bob.listens_from_now_on().await;
    let sent = alice.sends("for Bob").await;
    let fields = json!({ "conversationid": bob.conversation, "messageids": [sent] });
    bob.prepares("chatreports", "viewed", &fields).sent().await.ok();
    alice.prepares("chatavailability", "useravailable", &json!({})).sent().await.ok();
    alice.does("favorite", json!({})).await.ok();
    alice.clears().await.ok();
    until("Bob has heard of Alice", async || !bobs.takes().await.friends.is_empty()).await;
    listener.hears_nothing().await;
}

#[tokio::test]
async fn without_acknowledgements_a_listener_is_told_at_most_once_a_second() {
    let world = World::start().await;
    let (alice, mut bob) = world.alice_and_bob().await;
    let mut carol = world.person("Carol").await;
    world.befriends(&mut carol, &mut bob).await;
    let mut listener = bob.listens_from_now_on().await;
    let since = Instant::now();
    alice.sends("the first").await;
    let first = listener.is_told().await;
    let sending = async {
        for number in 0..10 {
            alice.sends(&number.to_string()).await;
            carol.sends(&number.to_string()).await;
        }
    };
    let hearing = async {
        let mut told = vec![first];
        let mut conversations = BTreeSet::new();
        while conversations.len() < 2 {
            let next = listener.is_told().await;
            conversations.extend(next.conversations.clone());
            told.push(next);
        }
        (told, since.elapsed())
    };
    let ((), (told, took)) = tokio::join!(sending, hearing);
    // The second between two notifications is one of the real clock, so its lower bound is all that can be measured.
    let seconds = u64::try_from(told.len() - 1).unwrap();
    assert!(seconds >= 1 && took >= Duration::from_secs(seconds), "{told:?} in {took:?}");
    assert!(told.is_sorted_by_key(|told| told.sequence), "{told:?}");
    // An acknowledgement covers everything up to its number.
    listener.acknowledges(told.last().unwrap()).await;
    until("there is nothing more", async || {
        let rest = bob.polls(0).await;
        bob.polls(rest.sequence).await;
        rest.is_empty()
    })
    .await;
}

#[tokio::test]
async fn acknowledgements_over_http_and_websocket_count_alike() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut listener = bob.listens().await;
    let told = listener.is_told().await;
    assert_eq!(bob.polls(0).await, told, "the same position, the same number");
    assert!(bob.polls(told.sequence).await.is_empty());
    drop(listener);
    let mut listener = bob.listens().await;
    listener.hears_nothing().await;
    alice.sends("hi").await;
    let told = bob.polls(0).await;
    assert_eq!(listener.is_told().await, told);
    listener.acknowledges(&told).await;
    until("it is acknowledged", async || bob.polls(0).await.is_empty()).await;
    alice.sends("what HTTP takes without an ack is told as well").await;
    assert_eq!(bob.is_notified().await.conversations, [bob.conversation.as_str()]);
    drop(listener);
    bob.listens().await.hears_nothing().await;
}

#[tokio::test]
async fn an_acknowledgement_of_what_was_never_sent_is_ignored() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut listener = bob.listens().await;
    let told = listener.is_told().await;
    let never_sent = [0, 1, told.sequence - 1, told.sequence + 1, told.sequence * 2, u64::MAX];
    for sequence in never_sent {
        listener.says(&json!({ "action": "ack", "sequence": sequence })).await;
    }
    alice.sends("hi").await;
    let next = listener.is_told().await;
    drop(listener);
    let mut listener = bob.listens().await;
    let again = listener.is_told().await;
    assert_eq!((&again.friends, &again.lists), (&told.friends, &told.lists));
    assert_eq!(again.sequence, next.sequence);
    // An older number does not move the position back, and covers nothing newer.
    listener.acknowledges(&told).await;
    listener.is_heard().await;
    drop(listener);
    let mut listener = bob.listens().await;
    let rest = listener.is_told().await;
    assert_eq!(rest.conversations, [bob.conversation.as_str()]);
    assert!(rest.friends.is_empty() && rest.lists.is_empty(), "{rest:?}");
    listener.acknowledges(&rest).await;
    listener.acknowledges(&told).await;
    listener.is_heard().await;
    drop(listener);
    bob.listens().await.hears_nothing().await;
}

#[tokio::test]
async fn listeners_of_a_revoked_key_station_or_user_are_closed() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let store = &world.app().store;
    let (mut first, mut second) =
        (bob.listens_from_now_on().await, bob.elsewhere().listens_from_now_on().await);
    let mut alices = alice.listens_from_now_on().await;
    assert!(store.set_api_key(bob.user, ApiKey::generate()).await.unwrap().is_some());
    assert_eq!(first.is_closed().await, Some(4003));
    assert_eq!(second.is_closed().await, Some(4003));

    let phone = alice.elsewhere();
    let mut phones = phone.listens_from_now_on().await;
    assert!(store.unbind_station(phone.user, phone.station).await.unwrap());
    assert_eq!(phones.is_closed().await, Some(4003));
    // Subscribing is signed, so it binds the revoked station again. A newly bound station starts with everything new.
    let mut phones = phone.listens().await;
    assert_eq!(phones.takes().await.lists, [alice.user.to_string()]);

    alices.hears_nothing().await;
    world.disables(&alice).await;
    assert_eq!(alices.is_closed().await, Some(4003));
    assert_eq!(phones.is_closed().await, Some(4003));
}

#[tokio::test]
async fn the_listener_of_an_evicted_station_is_closed() {
    let world = World::with(&[("limits.stations_per_user", "2")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut first = bob.listens_from_now_on().await;
    let mut second = bob.elsewhere().listens_from_now_on().await;
    let mut third = bob.elsewhere().listens().await;
    assert_eq!(first.is_closed().await, Some(4003));
    third.takes().await;
    alice.sends("hi").await;
    until("the second is told", async || !second.takes().await.conversations.is_empty()).await;
}
