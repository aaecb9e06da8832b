//! Stops that a lock, a disk, a reader or a migration obstructs. They end in time, and exit code 0 means that
//! the database file alone holds everything.

use std::fs;
use std::path::Path;

use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};

use crate::binary::{Process, Workplace, free_address};
use crate::durability::failing_disk;
use crate::store_metrics::{oldest_change, serves_metrics};
use crate::world::{Person, message, until};

/// Opens the database as another program does.
async fn opens(place: &Workplace) -> SqliteConnection {
    let file = place.path().join("chatserver.db");
    SqliteConnectOptions::new().filename(file).connect().await.unwrap()
}

async fn runs(on: &mut SqliteConnection, statement: &'static str) {
    sqlx::raw_sql(statement).execute(on).await.unwrap();
}

/// Sends a message without waiting for the answer, which may never come.
fn begins_to_send(person: &Person, instance: &str) {
    let message = message("on its way", &person.date());
    let fields = json!({
        "conversationid": person.conversation, "instance": instance, "message": message,
    });
    let request = person.prepares("chatconversation", "add", &fields);
    tokio::spawn(async move { request.tried().await });
}

async fn is_stopping(server: &Process) {
    let url = format!("http://{}/readyz", server.address);
    until("it is stopping", async || {
        !reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success())
    })
    .await;
}

/// Returns the number of messages in a copy of the database file without its log.
async fn messages_of_the_file_alone(place: &Workplace) -> i64 {
    let copy = Workplace::new();
    let to = copy.path().join("chatserver.db");
    fs::copy(place.path().join("chatserver.db"), to).unwrap();
    let count = sqlx::query_scalar("SELECT count(*) FROM messages");
    count.fetch_one(&mut opens(&copy).await).await.unwrap()
}

fn size(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |metadata| metadata.len())
}

#[tokio::test]
async fn a_lock_of_another_program_holds_no_stop() {
    let place = Workplace::new();
    let (mut server, metrics) = serves_metrics(&place).await;
    let (alice, _) = place.alice_and_bob(&server);
    let instance = alice.instance().await;
    let mut other = opens(&place).await;
    runs(&mut other, "BEGIN IMMEDIATE").await;
    begins_to_send(&alice, &instance);
    until("the change waits", async || oldest_change(metrics).await > 0.0).await;
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(1), "{}", place.log());
}

#[tokio::test]
async fn a_flush_that_hangs_holds_no_stop() {
    for held in ["held", "held-log"] {
        let (tools, place) = (Workplace::new(), Workplace::new());
        let library = failing_disk(tools.path());
        let preload = [("LD_PRELOAD", library.to_str().unwrap())];
        let mut server = place.serves(&preload).await;
        let (alice, _) = place.alice_and_bob(&server);
        let instance = alice.instance().await;
        fs::write(place.path().join(held), "").unwrap();
        begins_to_send(&alice, &instance);
        server.signal("TERM");
        assert_eq!(server.ended().await.code(), Some(1), "{held}: {}", place.log());
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_whatever_hangs() {
    let (tools, place) = (Workplace::new(), Workplace::new());
    let library = failing_disk(tools.path());
    let drain = ("CHATSERVER_HTTP__DRAIN_SECONDS", "600");
    let mut server = place.serves(&[("LD_PRELOAD", library.to_str().unwrap()), drain]).await;
    let (alice, _) = place.alice_and_bob(&server);
    let instance = alice.instance().await;
    for held in ["held", "held-log"] {
        fs::write(place.path().join(held), "").unwrap();
    }
    begins_to_send(&alice, &instance);
    server.signal("TERM");
    is_stopping(&server).await;
    server.signal("INT");
    assert_eq!(server.ended().await.code(), Some(1), "{}", place.log());
    assert!(place.log().contains("stopped by a second signal"), "{}", place.log());
}

#[tokio::test]
async fn a_signal_ends_it_while_the_database_is_opened() {
    for signal in ["TERM", "INT"] {
        let place = Workplace::new();
        place.tells(&["migrate"]);
        let mut other = opens(&place).await;
        runs(&mut other, "DELETE FROM _sqlx_migrations WHERE version > 3; BEGIN IMMEDIATE").await;
        let mut server = place.starts_without_waiting(free_address(), &["serve"], &[]);
        until("it waits for the other program", async || {
            place.log().contains("waiting for another process that writes to the database")
        })
        .await;
        server.signal(signal);
        assert_eq!(server.ended().await.code(), Some(1), "{}", place.log());
        let told = format!("stopped by SIG{signal} before the server was started");
        assert!(place.log().contains(&told), "{}", place.log());
    }
}

#[tokio::test]
async fn a_hangup_ends_a_demo_but_no_server() {
    let place = Workplace::new();
    let mut server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    server.signal("HUP");
    until("it is logged", async || place.log().contains("SIGHUP ignored")).await;
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
async fn after_exit_code_0_the_file_alone_holds_everything() {
    let place = Workplace::new();
    let mut server = place.serves(&[]).await;
    let (alice, _) = place.alice_and_bob(&server);
    // This program keeps the file open, so no connection of the server is the last to close.
    let mut other = opens(&place).await;
    runs(&mut other, "SELECT count(*) FROM messages").await;
    for number in 0..50 {
        alice.sends(&number.to_string()).await;
    }
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(0), "{}", place.log());
    assert_eq!(size(&place.path().join("chatserver.db-wal")), 0);
    assert_eq!(messages_of_the_file_alone(&place).await, 50);
    drop(other);

    // Commands empty the log, too.
    let mut other = opens(&place).await;
    runs(&mut other, "SELECT count(*) FROM messages").await;
    place.tells(&["user", "add", "dave@example.com", "--nick", "Dave"]);
    assert_eq!(size(&place.path().join("chatserver.db-wal")), 0);
}

#[tokio::test]
async fn a_reader_that_keeps_the_log_makes_it_exit_code_1() {
    let place = Workplace::new();
    let mut server = place.serves(&[]).await;
    let (alice, _) = place.alice_and_bob(&server);
    alice.sends("before").await;
    let mut other = opens(&place).await;
    runs(&mut other, "BEGIN; SELECT count(*) FROM messages").await;
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

    runs(&mut other, "COMMIT").await;
    let mut server = place.starts_at(server.address, &["serve"], &[]).await;
    assert_eq!(alice.reads().await.len(), 51);
    assert_eq!(place.tells(&["user", "show", "dave@example.com"])["nick"], "Dave");
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(0), "{}", place.log());
    assert_eq!(messages_of_the_file_alone(&place).await, 51);
}

#[tokio::test]
async fn a_lock_that_holds_nothing_back_makes_it_exit_code_0() {
    for has_written in [false, true] {
        let place = Workplace::new();
        let mut server = place.serves(&[]).await;
        let (alice, _) = place.alice_and_bob(&server);
        let mut other = opens(&place).await;
        if has_written {
            for number in 0..50 {
                alice.sends(&number.to_string()).await;
            }
        } else {
            runs(&mut other, "PRAGMA wal_checkpoint(TRUNCATE)").await;
        }
        runs(&mut other, "PRAGMA wal_checkpoint(PASSIVE); BEGIN IMMEDIATE").await;
        server.signal("TERM");
        assert_eq!(server.ended().await.code(), Some(0), "{}", place.log());
        assert!(place.log().contains("the database file holds everything"), "{}", place.log());
        let messages = if has_written { 50 } else { 0 };
        assert_eq!(messages_of_the_file_alone(&place).await, messages);
        runs(&mut other, "ROLLBACK").await;
    }
}

#[tokio::test]
async fn a_full_disk_makes_it_exit_code_1() {
    let (tools, place) = (Workplace::new(), Workplace::new());
    let library = failing_disk(tools.path());
    let mut server = place.serves(&[("LD_PRELOAD", library.to_str().unwrap())]).await;
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
