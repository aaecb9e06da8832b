//! The use of a station is recorded in the background: this neither fails nor delays the answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use chatserver::domain::{Parse as _, StationId, Timestamp};
use futures_util::FutureExt as _;

use super::{sorted, stations_of};
use crate::harness::person::Person;
use crate::harness::world::{World, until};

#[tokio::test]
async fn reads_are_answered_while_another_process_holds_the_write_lock() {
    // A request that waited for the other process would be refused after this time.
    let world = World::with(&[("http.request_timeout_seconds", "5")]).await;
    let (alice, _bob) = world.alice_and_bob().await;
    let (phone, laptop) = (alice.elsewhere(), alice.elsewhere());
    let mut other = world.opens_database().await;
    other.locks().await;
    assert_eq!(phone.lists().await.len(), 1);
    laptop.logs_in().await.ok();
    assert_eq!(stations_of(&world, &alice).await, []);
    other.unlocks().await;
    until("both stations are bound", async || {
        stations_of(&world, &alice).await == sorted([&phone, &laptop])
    })
    .await;
}

#[tokio::test]
async fn an_unsigned_poll_right_after_a_login_finds_its_station() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    for _ in 0..20 {
        let device = alice.elsewhere();
        device.logs_in().await.ok();
        device.polls_unsigned().await.ok();
    }
    // The poll also waits while another process delays the binding.
    let mut other = world.opens_database().await;
    other.locks().await;
    alice.logs_in().await.ok();
    let poll = tokio::spawn({
        let alice = alice.clone();
        async move { alice.polls_unsigned().await }
    });
    // Other users' requests do not wait for it.
    bob.lists().await;
    other.unlocks().await;
    poll.await.unwrap().ok();
}

#[tokio::test]
async fn a_stop_waits_for_stations_that_are_being_bound() {
    let world = World::start().await;
    let alice = world.person("Alice").await;
    let devices: Vec<_> = (0..20).map(|_| alice.elsewhere()).collect();
    for device in &devices {
        device.lists().await;
    }
    let world = world.restarts(&[]).await;
    assert_eq!(stations_of(&world, &alice).await.len(), devices.len());
}

/// The order of use may change while a new station is bound, because other requests use stations meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn stations_can_be_used_while_another_is_bound() {
    // With many more stations the sort is less likely to detect that its order changes.
    const STATIONS: u32 = 32;
    let world = World::start().await;
    let alice = world.person("Alice").await;
    let (app, now) = (world.app(), Timestamp::parse(&world.clock.date()).unwrap());
    let station = |number: u32| StationId::parse(&format!("{number:032x}")).unwrap();
    let binds = async |number| {
        app.stations.used(&app.store, alice.user, station(number), true, now).await.unwrap();
    };
    for number in 0..STATIONS {
        binds(number).await;
    }
    let is_over = AtomicBool::new(false);
    let busy = || {
        while !is_over.load(Ordering::Relaxed) {
            for number in (0..STATIONS).rev() {
                let used = app.stations.used(&app.store, alice.user, station(number), true, now);
                // Most are known to be bound, so their future completes at once.
                drop(used.now_or_never());
            }
        }
    };
    let runtime = tokio::runtime::Handle::current();
    thread::scope(|scope| {
        for _ in 0..2 {
            let runtime = runtime.clone();
            scope.spawn(move || {
                let _entered = runtime.enter();
                busy();
            });
        }
        let bound = scope.spawn(|| {
            runtime.block_on(async {
                for number in STATIONS..STATIONS + 300 {
                    binds(number).await;
                }
            });
        });
        let bound = bound.join();
        is_over.store(true, Ordering::Relaxed);
        assert!(bound.is_ok(), "binding a station panicked");
    });
    assert_eq!(stations_of(&world, &alice).await.len(), 32);
}

#[tokio::test]
async fn a_listening_station_is_evicted_last() {
    let world = World::with(&[("limits.stations_per_user", "3")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut listener = bob.listens_from_now_on().await;
    let logs_in = async |device: &Person| {
        device.logs_in().await.ok();
        until("it is bound", async || stations_of(&world, &bob).await.contains(&device.station))
            .await;
    };
    let devices: Vec<_> = (0..6).map(|_| bob.elsewhere()).collect();
    for device in &devices {
        logs_in(device).await;
    }
    assert_eq!(stations_of(&world, &bob).await, sorted([&bob, &devices[4], &devices[5]]));
    alice.sends("hi").await;
    assert_eq!(listener.takes().await.conversations, [bob.conversation.as_str()]);
    // If all stations listen, the least recently used one is evicted.
    let (mut fifth, mut sixth) = (devices[4].listens().await, devices[5].listens().await);
    fifth.takes().await;
    sixth.takes().await;
    fifth.is_heard().await;
    sixth.is_heard().await;
    let seventh = bob.elsewhere();
    logs_in(&seventh).await;
    assert_eq!(listener.is_closed().await, Some(4003));
    assert_eq!(stations_of(&world, &bob).await, sorted([&devices[4], &devices[5], &seventh]));
}

#[tokio::test]
async fn listening_is_recorded_as_a_use_every_ten_minutes() {
    let world = World::with(&[("http.listener_ping_seconds", "1")]).await;
    let (_alice, bob) = world.alice_and_bob().await;
    let mut listener = bob.listens_from_now_on().await;
    let used_at = async || {
        let stations = world.app().store.stations(Some(bob.user)).await.unwrap();
        stations[0].used_at.to_string()
    };
    let before = used_at().await;
    for _ in 0..2 {
        world.clock.advances(601);
        let listening = async { while listener.hears().await.is_ok() {} };
        let noted = until("the use is noted", async || used_at().await == world.clock.date());
        tokio::select! {
            () = listening => panic!("the listener has ended"),
            () = noted => {}
        }
    }
    assert_ne!(used_at().await, before);
}
