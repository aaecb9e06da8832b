//! Stops that a lock, a disk, a reader or a migration obstructs. They end in time, and exit code 0 means that
//! the database file alone holds everything.

use std::fs;
use std::path::Path;

use crate::harness::disk::Disk;
use crate::harness::person::{Person, message};
use crate::harness::process::{Workplace, free_address};
use crate::harness::world::until;

/// Sends a message without waiting for the answer, which may never come.
fn begins_to_send(person: &Person, instance: &str) {
    let message = message("on its way", &person.date());
    let request = person.prepares_add(instance, &message);
    tokio::spawn(async move { request.tried().await });
}

/// Returns the number of messages in a copy of the database file without its log.
async fn messages_of_the_file_alone(place: &Workplace) -> i64 {
    let copy = Workplace::new();
    fs::copy(place.database(), copy.database()).unwrap();
    copy.opens_database().await.counts("messages").await
}

fn size(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |metadata| metadata.len())
}

#[tokio::test]
async fn a_lock_of_another_program_does_not_block_the_stop() {
    let place = Workplace::new();
    let mut server = place.serves(&[]).await;
    let (alice, _) = place.alice_and_bob(&server);
    let instance = alice.instance().await;
    let mut other = place.opens_database().await;
    other.locks().await;
    begins_to_send(&alice, &instance);
    until("the change waits", async || server.oldest_change().await > 0.0).await;
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(1), "{}", place.log());
}

#[tokio::test]
async fn a_hanging_fsync_does_not_block_the_stop() {
    for held in ["held", "held-log"] {
        let (disk, place) = (Disk::failing(), Workplace::new());
        let mut server = place.serves(&[disk.preload()]).await;
        let (alice, _) = place.alice_and_bob(&server);
        let instance = alice.instance().await;
        fs::write(place.path().join(held), "").unwrap();
        begins_to_send(&alice, &instance);
        server.signal("TERM");
        assert_eq!(server.ended().await.code(), Some(1), "{held}: {}", place.log());
    }
}

#[tokio::test]
async fn a_second_signal_ends_a_server_whose_disk_hangs() {
    let (disk, place) = (Disk::failing(), Workplace::new());
    let drain = ("CHATSERVER_HTTP__DRAIN_SECONDS", "600");
    let mut server = place.serves(&[disk.preload(), drain]).await;
    let (alice, _) = place.alice_and_bob(&server);
    let instance = alice.instance().await;
    for held in ["held", "held-log"] {
        fs::write(place.path().join(held), "").unwrap();
    }
    begins_to_send(&alice, &instance);
    server.signal("TERM");
    until("it is stopping", async || !server.is_ready().await).await;
    server.signal("INT");
    assert_eq!(server.ended().await.code(), Some(1), "{}", place.log());
    place.logs("stopped by a second signal").await;
}

#[tokio::test]
async fn a_signal_ends_a_server_that_is_still_opening_its_database() {
    for signal in ["TERM", "INT"] {
        let place = Workplace::new();
        place.tells(&["migrate"]);
        let mut other = place.opens_database().await;
        other.runs("DELETE FROM _sqlx_migrations WHERE version > 3; BEGIN IMMEDIATE").await;
        let mut server = place.starts_without_waiting(free_address(), &["serve"], &[]);
        place.logs("waiting for another process that writes to the database").await;
        server.signal(signal);
        assert_eq!(server.ended().await.code(), Some(1), "{}", place.log());
        let told = format!("stopped by SIG{signal} before the server was started");
        place.logs(&told).await;
    }
}

#[tokio::test]
async fn sighup_ends_a_demo_but_not_a_server() {
    let place = Workplace::new();
    let mut server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    server.signal("HUP");
    place.logs("SIGHUP ignored").await;
    alice.sends("still there").await;
    assert_eq!(bob.reads().await, ["still there"]);
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(0), "{}", place.log());

    let place = Workplace::new();
    let mut demo = place.starts(&["demo"], &[]).await;
    demo.signal("HUP");
    assert_eq!(demo.ended().await.code(), Some(0), "{}", place.log());
}

#[tokio::test]
async fn after_exit_code_0_the_database_file_alone_holds_everything() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, _) = place.alice_and_bob(&server);
    // This program keeps the file open, so no connection of the server is the last to close.
    let mut other = place.opens_database().await;
    other.runs("SELECT count(*) FROM messages").await;
    for number in 0..50 {
        alice.sends(&number.to_string()).await;
    }
    server.stops(&place).await;
    assert_eq!(size(&place.path().join("chatserver.db-wal")), 0);
    assert_eq!(messages_of_the_file_alone(&place).await, 50);
    drop(other);

    // Commands empty the log, too.
    let mut other = place.opens_database().await;
    other.runs("SELECT count(*) FROM messages").await;
    place.tells(&["user", "add", "dave@example.com", "--nick", "Dave"]);
    assert_eq!(size(&place.path().join("chatserver.db-wal")), 0);
}

#[tokio::test]
async fn a_reader_that_blocks_the_checkpoint_causes_exit_code_1() {
    let place = Workplace::new();
    let mut server = place.serves(&[]).await;
    let (alice, _) = place.alice_and_bob(&server);
    alice.sends("before").await;
    let mut other = place.opens_database().await;
    other.holds_a_snapshot().await;
    for number in 0..50 {
        alice.sends(&number.to_string()).await;
    }
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(1), "{}", place.log());
    let log = place.log();
    let last = log.lines().last().unwrap();
    for told in ["bytes of changes are only in", "chatserver.db-wal: keep", "another program"] {
        assert!(last.contains(told), "{last}");
    }
    assert!(messages_of_the_file_alone(&place).await < 51);

    // The command has made its change and printed its result, although it fails.
    let added = place.runs(&["user", "add", "dave@example.com", "--nick", "Dave", "--json"]);
    assert_eq!(added.status.code(), Some(1), "{added:?}");
    assert!(String::from_utf8(added.stdout).unwrap().contains("apikey"));
    let told = String::from_utf8(added.stderr).unwrap();
    assert!(told.contains("chatserver.db-wal: keep"), "{told}");

    other.runs("COMMIT").await;
    let mut server = place.starts_at(server.address, &["serve"], &[]).await;
    assert_eq!(alice.reads().await.len(), 51);
    assert_eq!(place.tells(&["user", "show", "dave@example.com"])["nick"], "Dave");
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(0), "{}", place.log());
    assert_eq!(messages_of_the_file_alone(&place).await, 51);
}

#[tokio::test]
async fn a_lock_that_blocks_no_data_causes_exit_code_0() {
    for has_written in [false, true] {
        let place = Workplace::new();
        let mut server = place.serves(&[]).await;
        let (alice, _) = place.alice_and_bob(&server);
        let mut other = place.opens_database().await;
        if has_written {
            for number in 0..50 {
                alice.sends(&number.to_string()).await;
            }
        } else {
            other.runs("PRAGMA wal_checkpoint(TRUNCATE)").await;
        }
        other.runs("PRAGMA wal_checkpoint(PASSIVE); BEGIN IMMEDIATE").await;
        server.signal("TERM");
        assert_eq!(server.ended().await.code(), Some(0), "{}", place.log());
        place.logs("the database file holds everything").await;
        let messages = if has_written { 50 } else { 0 };
        assert_eq!(messages_of_the_file_alone(&place).await, messages);
        other.unlocks().await;
    }
}

#[tokio::test]
async fn a_full_disk_at_the_stop_causes_exit_code_1() {
    let (disk, place) = (Disk::failing(), Workplace::new());
    let mut server = place.serves(&[disk.preload()]).await;
    let (alice, _) = place.alice_and_bob(&server);
    fs::write(place.path().join("full"), "").unwrap();
    for number in 0..50 {
        alice.sends(&number.to_string()).await;
    }
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(1), "{}", place.log());
    let log = place.log();
    assert!(log.lines().last().unwrap().contains("chatserver.db-wal: keep"), "{log}");
    let _again = place.starts_at(server.address, &["serve"], &[]).await;
    assert_eq!(alice.reads().await.len(), 50);
}
