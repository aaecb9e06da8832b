//! Signatures: what they cover, how fresh requests must be, and that the same bytes act once.

use chatserver::domain::{ApiKey, Parse as _, Timestamp};
use serde_json::json;

use crate::harness::person::message_with_id;
use crate::harness::world::{World, until};

#[tokio::test]
async fn a_signature_covers_every_part_of_the_request() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let signed = alice.prepares("chatconversation", "list", &json!({}));
    signed.sent().await.ok();

    let mut other_api = signed.clone();
    other_api.url = alice.url("chatfriends");
    other_api.sent().await.refused(401, "invalid_signature");
    let other_user = signed.clone().with_header("ozeki-user", bob.user.as_str());
    other_user.sent().await.refused(401, "invalid_signature");
    let other_station = signed.clone().with_header("ozeki-station", bob.station.as_str());
    other_station.sent().await.refused(401, "invalid_signature");
    let mut other_body = signed.clone();
    other_body.body.push(b' ');
    other_body.sent().await.refused(401, "invalid_signature");
    let signature = signed.headers["ozeki-signature"].to_str().unwrap().to_uppercase();
    let upper_case = signed.with_header("ozeki-signature", &signature);
    upper_case.sent().await.refused(401, "invalid_signature");
}

#[tokio::test]
async fn a_request_must_be_fresh() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    world.clock.shows("2024-03-08 12:00:00");
    for (timestamp, is_fresh) in [
        ("2024-03-08 12:00:00", true),
        ("2024-03-08 11:55:00", true),
        ("2024-03-08 12:05:00", true),
        ("2024-03-08 11:54:59", false),
        ("2024-03-08 12:05:01", false),
    ] {
        let answer = alice.asks("list", json!({ "timestamp": timestamp })).await;
        if is_fresh {
            answer.ok();
        } else {
            let refusal = answer.refused(401, "timestamp_out_of_range");
            assert_eq!(refusal["servertime"], "2024-03-08 12:00:00");
        }
    }
}

#[tokio::test]
async fn a_replayed_request_changes_nothing() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mute = alice.prepares(
        "chatconversation",
        "mute",
        &json!({ "conversationid": alice.conversation }),
    );
    mute.sent().await.ok();
    let replayed = mute.sent().await;
    replayed.refused(409, "replayed");
    assert_eq!(replayed.conversation(), alice.sees().await);

    alice.does("unmute", json!({})).await.ok();
    let replayed = mute.sent().await;
    replayed.refused(409, "replayed");
    assert_eq!(replayed.conversation()["mutedby"], json!([]));
    assert_eq!(alice.sees().await["mutedby"], json!([]), "the replay changed nothing");

    // A refused request does not count as a replay.
    let nowhere = "00000000000000000000000000000000";
    let lost = bob.prepares("chatconversation", "mute", &json!({ "conversationid": nowhere }));
    lost.sent().await.refused(404, "conversation_not_found");
    lost.sent().await.refused(404, "conversation_not_found");
}

#[tokio::test]
async fn a_recorded_signature_survives_a_restart_and_a_larger_skew() {
    let world = World::with(&[("auth.clock_skew_seconds", "60")]).await;
    let (alice, _bob) = world.alice_and_bob().await;
    let favorite = alice.prepares(
        "chatconversation",
        "favorite",
        &json!({ "conversationid": alice.conversation }),
    );
    favorite.sent().await.ok();
    world.clock.advances(60);
    favorite.sent().await.refused(409, "replayed");
    world.clock.advances(1);
    favorite.sent().await.refused(401, "timestamp_out_of_range");

    let world = world.restarts(&[("auth.clock_skew_seconds", "900")]).await;
    let again = alice.moves_to(&world).repeats(&favorite);
    again.sent().await.refused(409, "replayed");
    world.clock.advances(900 - 61);
    again.sent().await.refused(409, "replayed");
    let store = &world.app().store;
    let now = || Timestamp::parse(&world.clock.date()).unwrap();
    assert!(!store.expire_replays(now()).await.unwrap(), "it is kept to the last second");
    world.clock.advances(1);
    again.sent().await.refused(401, "timestamp_out_of_range");
    // The server removes the record once the clock has not jumped for half an hour.
    let mut database = world.opens_database().await;
    until("the record is removed", async || {
        world.clock.advances(60);
        database.counts("replays").await == 0
    })
    .await;
}

#[tokio::test]
async fn reads_and_adds_and_clears_are_never_replays() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    for (action, fields) in
        [("list", json!({})), ("download", json!({ "conversationid": alice.conversation }))]
    {
        let read = alice.prepares("chatconversation", action, &fields);
        assert_eq!(read.sent().await.ok(), read.sent().await.ok());
    }
    let instance = alice.instance().await;
    let message = message_with_id("m-1", "hi", &world.clock.date());
    let fields =
        json!({ "conversationid": alice.conversation, "instance": instance, "message": message });
    let add = alice.prepares("chatconversation", "add", &fields);
    assert_eq!(add.sent().await.ok(), add.sent().await.ok());
    assert_eq!(alice.reads().await, ["hi"]);
    let clear = alice.prepares(
        "chatconversation",
        "clear",
        &json!({ "conversationid": alice.conversation, "instance": instance }),
    );
    let cleared = clear.sent().await;
    cleared.ok();
    let again = clear.sent().await;
    again.refused(409, "instance_changed");
    assert_eq!(cleared.conversation(), again.conversation());
}

#[tokio::test]
async fn a_rotated_key_works_at_once_and_replaces_the_old_one() {
    let world = World::with(&[("limits.failures_per_minute", "0")]).await;
    let (alice, _bob) = world.alice_and_bob().await;
    alice.asks("list", json!({})).await.ok();
    let rotated = alice.with_key(ApiKey::generate());
    assert!(
        world.app().store.set_api_key(alice.user, rotated.api_key.clone()).await.unwrap().is_some()
    );
    rotated.asks("list", json!({})).await.ok();
    alice.asks("list", json!({})).await.refused(401, "invalid_signature");
    alice.logs_in().await.refused(401, "invalid_credentials");
    rotated.logs_in().await.ok();
}

#[tokio::test]
async fn a_disabled_user_is_refused_when_the_cached_key_expires() {
    let world = World::with(&[("limits.failures_per_minute", "0")]).await;
    let (alice, _bob) = world.alice_and_bob().await;
    alice.asks("list", json!({})).await.ok();
    world.disables(&alice).await;
    world.clock.advances(4);
    alice.asks("list", json!({})).await.ok();
    world.clock.advances(1);
    alice.asks("list", json!({})).await.refused(401, "invalid_signature");
    world.app().store.set_disabled(alice.user, false).await.unwrap();
    alice.asks("list", json!({})).await.ok();
}
