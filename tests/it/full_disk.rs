//! A nearly full disk: changes that grow the data are refused, and everything else works.

use std::process::{Command, Stdio};

use chatserver::friends;
use chatserver::keys::ConversationSecret;
use serde_json::json;

use crate::harness::person::{Answer, Person, message};
use crate::harness::process::{Process, Workplace, free_address};
use crate::harness::world::{World, until};

/// A reserve that exceeds the size of any disk.
const RESERVE: (&str, &str) = ("limits.disk_reserve_bytes", "1000000000000000000");

#[track_caller]
fn is_full(answer: &Answer) {
    answer.refused(503, "storage_full");
    assert_eq!(answer.headers["retry-after"], "60");
}

#[tokio::test]
async fn on_a_full_disk_only_changes_that_grow_the_data_are_refused() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let (carol, dora) = (world.person("Carol").await, world.person("Dora").await);
    let id = bob.sends("before").await;
    carol.wants(&alice.email).await.ok();
    dora.wants(&alice.email).await.ok();
    alice.blocks(dora.user.as_str()).await.ok();

    let world = world.restarts(&[RESERVE]).await;
    let [alice, bob, carol, dora] = [alice, bob, carol, dora].map(|one| one.moves_to(&world));
    assert!(world.app().store.is_storage_full());
    is_full(&alice.adds(&message("more", &alice.date())).await);
    is_full(&alice.reports_as("viewed", &[&id]).await);
    is_full(&alice.reports_as("delivered", &[&id]).await);
    is_full(&alice.accepts(&carol).await);
    is_full(&alice.wants("eve@example.com").await);
    is_full(&alice.blocks(bob.user.as_str()).await);
    is_full(&alice.registers("alice.ozeki.chat").await);
    let secret = ConversationSecret::generate();
    let befriend = friends::befriend(&world.app().store, &carol.email, &dora.email, &secret);
    assert!(befriend.await.is_err());

    alice.elsewhere().logs_in().await.ok();
    let told = alice.is_notified().await;
    alice.polls(told.sequence).await;
    alice.chooses("useraway").await.ok();
    for mark in ["favorite", "unfavorite", "mute", "unmute", "hide", "unhide"] {
        alice.does(mark, json!({})).await.ok();
    }
    alice.does("setlistitembackgroundcolor", json!({ "color": "#bae1ff" })).await.ok();
    alice.unblocks(dora.user.as_str()).await.ok();
    alice.declines(&carol).await.ok();
    carol.removes(alice.user.as_str()).await.ok();
    assert_eq!(alice.reads().await, ["before"]);
    alice.clears().await.ok();
    assert_eq!(bob.reads().await, [""; 0]);
    alice.removes(bob.user.as_str()).await.ok();
    world.disables(&dora).await;
}

#[tokio::test]
async fn delivery_reports_wait_for_space() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let id = alice.sends("hi").await;
    let world = world.restarts(&[RESERVE]).await;
    let bob = bob.moves_to(&world);
    assert_eq!(bob.reads().await, ["hi"]);
    // This change is queued behind the receipts, so they were attempted when it is answered.
    bob.does("mute", json!({})).await.ok();
    assert_eq!(bob.told().await, []);

    let world = world.restarts(&[]).await;
    let (alice, bob) = (alice.moves_to(&world), bob.moves_to(&world));
    assert_eq!(bob.reads().await, ["hi"]);
    let delivered = [("delivered".to_owned(), id)];
    until("it is delivered", async || alice.told().await == delivered).await;
}

#[test]
fn commands_that_grow_the_data_are_refused_with_the_reason() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    std::fs::write(
        place.path().join("full.toml"),
        "[limits]\ndisk_reserve_bytes = 1000000000000000000\n",
    )
    .unwrap();
    let config = ["--config", "full.toml"];
    let add = ["user", "add", "bob@example.com", "--nick", "Bob"];
    let said = place.fails(&[&add[..], &config[..]].concat());
    assert!(said.contains("bytes free; limits.disk_reserve_bytes reserves"), "{said}");
    place.tells(&[&["user", "disable", "alice@example.com"][..], &config[..]].concat());
    place.tells(&["user", "add", "bob@example.com", "--nick", "Bob"]);
}

/// Starts a server on its own disk, an in-memory file system to which this place's database is moved. Mounting
/// it needs a right that root has, as has any user in a user namespace on most systems.
async fn on_a_disk_of(place: &Workplace, bytes: u64, settings: &[(&str, &str)]) -> Process {
    let address = free_address();
    let script = format!(
        "mkdir disk && mount -t tmpfs -o size={bytes} tmpfs disk && mv chatserver.db chatserver.db.key disk/ &&
         exec \"$0\" serve --listen {address} --database-url sqlite://disk/chatserver.db"
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
    command.arg(env!("CARGO_BIN_EXE_chatserver")).current_dir(place.path());
    command.env("CHATSERVER_HTTP__METRICS_LISTEN", "");
    command.env("CHATSERVER_LIMITS__REQUESTS_PER_SECOND", "0");
    command.envs(settings.iter().copied());
    let log = std::fs::File::create(place.path().join("log.txt")).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    place.ready(Process::of(command, address)).await
}

#[tokio::test]
async fn a_full_disk_can_be_cleared_again_and_again() {
    let place = Workplace::new();
    let mut people = ["alice", "bob"]
        .map(|name| place.tells(&["user", "add", &format!("{name}@example.com"), "--nick", name]));
    let told = place.tells(&["friend", "add", "alice@example.com", "bob@example.com"]);
    let megabyte = 1024 * 1024;
    let reserve = (16 * megabyte).to_string();
    let settings = [("CHATSERVER_LIMITS__DISK_RESERVE_BYTES", reserve.as_str())];
    let server = on_a_disk_of(&place, 32 * megabyte, &settings).await;
    let [alice, bob] = people.each_mut().map(|person| {
        let mut person = Person::added(person, server.address);
        told["conversationid"].as_str().unwrap().clone_into(&mut person.conversation);
        person
    });
    let long = "x".repeat(190_000);
    for round in 0..2 {
        let mut stored = 0;
        let refused = loop {
            let answer = alice.adds(&message(&long, &alice.date())).await;
            if answer.status != 200 {
                break answer;
            }
            stored += 1;
            assert!(stored < 32 * megabyte / 190_000, "the disk is full without end");
        };
        is_full(&refused);
        assert!(stored > 10, "round {round}: {stored} were stored");
        assert!(!bob.reads().await.is_empty());
        bob.clears().await.ok();
        until("there is space again", async || {
            alice.adds(&message("again", &alice.date())).await.status == 200
        })
        .await;
        alice.clears().await.ok();
    }
    place.logs("the disk is nearly full").await;
    place.logs("the disk has space again").await;
}
