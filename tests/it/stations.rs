//! Stations: how they are bound, what a bound station may do, and which are evicted.

mod background;
mod commands;

use chatserver::domain::{ApiKey, StationId};
use serde_json::json;

use crate::harness::person::{Answer, Person};
use crate::harness::world::{World, until};

impl Person {
    /// Polls with the station and the user, unsigned.
    async fn polls_unsigned_as(&self, user: &Self) -> Answer {
        self.prepares_unsigned().with_header("ozeki-user", user.user.as_str()).sent().await
    }

    /// Returns the person at another person's device.
    fn at_the_device_of(&self, other: &Self) -> Self {
        let mut there = self.clone();
        there.station = other.station;
        there
    }
}

/// Returns the stations of a person, sorted by ID.
async fn stations_of(world: &World, person: &Person) -> Vec<StationId> {
    let stations = world.app().store.stations(Some(person.user)).await.unwrap();
    let mut ids: Vec<_> = stations.into_iter().map(|station| station.id).collect();
    ids.sort();
    ids
}

fn sorted<const N: usize>(people: [&Person; N]) -> Vec<StationId> {
    let mut ids: Vec<_> = people.iter().map(|person| person.station).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn only_a_login_or_a_signed_request_binds_a_station() {
    let world = World::with(&[("limits.failures_per_minute", "0")]).await;
    let (alice, _bob) = world.alice_and_bob().await;
    alice.polls_unsigned().await.refused(401, "invalid_signature");
    alice.polls_unsigned_as(&alice).await.refused(401, "invalid_signature");
    let mallory = alice.with_key(ApiKey::generate());
    mallory.logs_in().await.refused(401, "invalid_credentials");
    mallory.asks("list", json!({})).await.refused(401, "invalid_signature");
    let stale = json!({ "timestamp": "2024-03-08 11:00:00" });
    alice.asks("list", stale).await.refused(401, "timestamp_out_of_range");
    let nothing = alice.prepares_bytes("chatconversation", b"{}".to_vec()).sent().await;
    nothing.refused(400, "invalid_field");
    alice.polls_unsigned().await.refused(401, "invalid_signature");
    assert_eq!(stations_of(&world, &alice).await, []);

    alice.logs_in().await.ok();
    alice.polls_unsigned().await.ok();
    alice.polls_unsigned_as(&alice).await.ok();
    let devices = [alice.elsewhere(), alice.elsewhere(), alice.elsewhere(), alice.elsewhere()];
    let [one, two, three, four] = &devices;
    one.lists().await;
    two.is_notified().await;
    three.chooses("useravailable").await.ok();
    drop(four.listens().await);
    for device in &devices {
        device.polls_unsigned().await.ok();
    }
    assert_eq!(stations_of(&world, &alice).await, sorted([&alice, one, two, three, four]));
}

#[tokio::test]
async fn an_unsigned_poll_gets_the_answer_of_a_signed_one() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    bob.logs_in().await.ok();
    let everything = bob.polls_unsigned().await.ok();
    assert_eq!(everything["conversationchangedof"], json!([bob.conversation]));
    alice.sends("hi").await;
    let acknowledging = bob.prepares("chatnotification", "download", &json!({ "ack": 0 }));
    let acknowledging =
        acknowledging.without_header("ozeki-user").without_header("ozeki-signature");
    let told = acknowledging.sent().await;
    assert_eq!(told.json()["conversationchangedof"], json!([bob.conversation]));
    assert_eq!(told.text, acknowledging.sent().await.text, "a read may be repeated");
    let told = told.json()["sequence"].as_u64().unwrap();
    assert_eq!(bob.polls(0).await.sequence, told);
    assert!(bob.polls(told).await.is_empty());
    let mut stale = bob.prepares_unsigned();
    stale.body = json!({ "action": "download" }).to_string().into();
    stale.sent().await.refused(400, "invalid_field");
    world.clock.jumps(301);
    let late = bob.prepares_unsigned();
    world.clock.jumps(-301);
    late.sent().await.refused(401, "timestamp_out_of_range");
}

#[tokio::test]
async fn an_unsigned_poll_of_a_shared_station_must_name_its_user() {
    let world = World::with(&[("limits.failures_per_minute", "0")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let carol = world.person("Carol").await;
    let bob = bob.at_the_device_of(&alice);
    alice.is_notified().await;
    alice.polls_unsigned().await.ok();
    let first = bob.polls(0).await;
    assert_eq!(first.friends, [alice.user.to_string()], "to Bob everything is new");
    let refused = alice.polls_unsigned().await;
    refused.refused(401, "invalid_signature");
    let told = alice.polls_unsigned_as(&alice).await;
    assert_eq!(told.json()["conversationchangedof"], json!([]), "and to Alice nothing is");
    let told = alice.polls_unsigned_as(&bob).await;
    assert_eq!(told.json()["friendavailabilitesof"], json!([alice.user.as_str()]));
    alice.sends("hi").await;
    let told = alice.polls_unsigned_as(&alice).await;
    assert_eq!(told.json()["conversationchangedof"], json!([]), "she has sent it from here");
    let told = alice.polls_unsigned_as(&bob).await;
    assert_eq!(told.json()["conversationchangedof"], json!([bob.conversation]));
    alice.does("mute", json!({})).await.ok();
    let told = alice.polls_unsigned_as(&bob).await;
    assert_eq!(told.json()["conversationchangedof"], json!([]));

    // A refused caller gets the same answer as for an unbound station.
    let stranger = carol.at_the_device_of(&alice).polls_unsigned_as(&carol).await;
    let nobodys = carol.polls_unsigned().await;
    assert_eq!((&stranger.text, &nobodys.text), (&refused.text, &refused.text));
    world.disables(&alice).await;
    let disabled = alice.polls_unsigned_as(&alice).await;
    assert_eq!((disabled.status, &disabled.text), (refused.status, &refused.text));
    bob.polls_unsigned().await.ok();
    world.disables(&bob).await;
    assert_eq!(bob.polls_unsigned().await.text, refused.text);
}

#[tokio::test]
async fn a_signature_that_is_present_must_be_right() {
    let world = World::with(&[("limits.failures_per_minute", "0")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.is_notified().await;
    bob.is_notified().await;
    let signed = alice.prepares_poll();
    let theirs = bob.prepares_poll();
    let theirs = theirs.headers["ozeki-signature"].to_str().unwrap();
    for wrong in ["", " ", "0", &"0".repeat(64), &"F".repeat(64), theirs] {
        let poll = signed.clone().with_header("ozeki-signature", wrong);
        poll.sent().await.refused(401, "invalid_signature");
        poll.without_header("ozeki-user").sent().await.refused(401, "invalid_signature");
    }
    let nobody = signed.clone().without_header("ozeki-user").sent().await;
    nobody.refused(401, "invalid_signature");
    for wrong in ["", "alice@example.com", &"0".repeat(31), bob.user.as_str()] {
        let poll = alice.prepares_unsigned().with_header("ozeki-user", wrong);
        poll.sent().await.refused(401, "invalid_signature");
    }
    for wrong in ["", "0", &"F".repeat(32), &"0".repeat(32)] {
        let poll = alice.prepares_unsigned().with_header("ozeki-station", wrong);
        poll.sent().await.refused(401, "invalid_signature");
    }
    signed.sent().await.ok();
}

#[tokio::test]
async fn unsigned_polls_can_be_switched_off() {
    let world = World::with(&[("auth.unsigned_notifications", "false")]).await;
    let (alice, _bob) = world.alice_and_bob().await;
    alice.is_notified().await;
    alice.polls_unsigned().await.refused(401, "invalid_signature");
    alice.polls_unsigned_as(&alice).await.refused(401, "invalid_signature");
    alice.is_notified().await;
}

#[tokio::test]
async fn unsigned_polls_have_the_rate_of_their_user() {
    let limits = [("limits.requests_per_second", "1"), ("limits.requests_burst", "5")];
    let world = World::with(&limits).await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.logs_in().await.ok();
    for _ in 0..4 {
        alice.polls_unsigned().await.ok();
    }
    alice.polls_unsigned().await.refused(429, "rate_limited");
    alice.asks("list", json!({})).await.refused(429, "rate_limited");
    bob.lists().await;
    bob.polls_unsigned().await.ok();
}

#[tokio::test]
async fn unknown_stations_count_against_their_address() {
    let world = World::with(&[("limits.failures_per_minute", "3")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.logs_in().await.ok();
    for _ in 0..3 {
        bob.polls_unsigned().await.refused(401, "invalid_signature");
    }
    bob.polls_unsigned().await.refused(429, "rate_limited");
    alice.polls_unsigned().await.ok();
}

/// Lists conversations at a device and waits until its station is bound.
async fn uses(world: &World, device: &Person) {
    device.lists().await;
    is_bound(world, device).await;
}

async fn is_bound(world: &World, device: &Person) {
    until("the station is bound", async || {
        stations_of(world, device).await.contains(&device.station)
    })
    .await;
}

#[tokio::test]
async fn the_least_recently_used_station_is_evicted() {
    let world = World::with(&[("limits.stations_per_user", "3")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    uses(&world, &bob).await;
    let devices: Vec<_> = (0..8).map(|_| alice.elsewhere()).collect();
    let [phone, tablet, laptop, watch, desktop, kiosk, ..] = &devices[..] else { unreachable!() };
    // All of this happens within the same second of the server's clock.
    for device in [phone, tablet, laptop] {
        uses(&world, device).await;
    }
    phone.polls_unsigned().await.ok();
    laptop.lists().await;
    phone.lists().await;
    uses(&world, watch).await;
    assert_eq!(stations_of(&world, &alice).await, sorted([phone, laptop, watch]));
    tablet.polls_unsigned().await.refused(401, "invalid_signature");
    laptop.polls_unsigned().await.ok();
    desktop.logs_in().await.ok();
    is_bound(&world, desktop).await;
    assert_eq!(stations_of(&world, &alice).await, sorted([laptop, watch, desktop]));
    watch.is_notified().await;
    uses(&world, kiosk).await;
    assert_eq!(stations_of(&world, &alice).await, sorted([watch, desktop, kiosk]));
    // An evicted station that returns is a new one, to which everything is new.
    tablet.is_notified().await;
    assert_eq!(stations_of(&world, &alice).await, sorted([watch, kiosk, tablet]));
    uses(&world, phone).await;
    assert!(!phone.is_notified().await.lists.is_empty());
    assert_eq!(stations_of(&world, &bob).await, sorted([&bob]), "others' stations stay");
}

#[tokio::test]
async fn the_order_of_station_use_survives_a_restart() {
    let limit = |most| [("limits.stations_per_user", most)];
    let world = World::with(&limit("4")).await;
    let alice = world.person("Alice").await;
    let devices: Vec<_> = (0..6).map(|_| alice.elsewhere()).collect();
    for device in &devices[..4] {
        uses(&world, device).await;
        world.clock.advances(700);
    }
    // Later uses are recorded at intervals, but the first one after a restart at once.
    let world = world.restarts(&limit("4")).await;
    devices[0].moves_to(&world).lists().await;
    until("its use is noted", async || {
        let stations = world.app().store.stations_of(alice.user).await.unwrap();
        stations.last() == Some(&devices[0].station)
    })
    .await;
    let world = world.restarts(&limit("4")).await;
    let devices: Vec<_> = devices.iter().map(|device| device.moves_to(&world)).collect();
    let [phone, tablet, _, watch, desktop, kiosk] = &devices[..] else { unreachable!() };
    // A signed poll waits until the use of its station is recorded.
    tablet.is_notified().await;
    uses(&world, desktop).await;
    assert_eq!(
        stations_of(&world, &alice).await,
        sorted([phone, tablet, watch, desktop]),
        "the laptop is gone"
    );
    uses(&world, kiosk).await;
    assert_eq!(stations_of(&world, &alice).await, sorted([phone, tablet, desktop, kiosk]));

    let world = world.restarts(&limit("2")).await;
    assert_eq!(
        stations_of(&world, &alice).await.len(),
        4,
        "a smaller bound takes nothing by itself"
    );
    let (desktop, kiosk, watch) =
        (desktop.moves_to(&world), kiosk.moves_to(&world), watch.moves_to(&world));
    desktop.polls_unsigned().await.ok();
    kiosk.is_notified().await;
    uses(&world, &watch).await;
    assert_eq!(stations_of(&world, &alice).await, sorted([&kiosk, &watch]));
}

#[tokio::test]
async fn a_refused_request_binds_no_station() {
    let world = World::with(&[("limits.stations_per_user", "1")]).await;
    let alice = world.person("Alice").await;
    let choice = alice.prepares("chatavailability", "useravailable", &json!({}));
    choice.sent().await.ok();
    is_bound(&world, &alice).await;
    let bound = world.app().store.stations(None).await.unwrap();
    assert_eq!(bound.len(), 1);
    let elsewhere = alice.elsewhere();
    let wrong = elsewhere.prepares("chatfriends", "add", &json!({})).sent().await;
    wrong.refused(400, "invalid_field");
    elsewhere
        .does("mute", json!({ "conversationid": "0".repeat(32) }))
        .await
        .refused(404, "conversation_not_found");
    assert_eq!(world.app().store.stations(None).await.unwrap(), bound);
    // A replay binds no station.
    assert!(world.app().store.unbind_station(alice.user, alice.station).await.unwrap());
    choice.sent().await.refused(409, "replayed");
    assert_eq!(world.app().store.stations(None).await.unwrap(), []);
}
