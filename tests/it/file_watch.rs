//! Database files removed under a running server: it notices, acknowledges nothing more and exits.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::path::Path;

use crate::harness::person::Person;
use crate::harness::process::Workplace;
use crate::harness::world::until;

/// Has Alice send while `tamper` changes the files. Returns her and the IDs acknowledged by the time the server
/// has ended.
async fn acknowledged_while(
    place: &Workplace,
    taken: &str,
    tamper: impl FnOnce(&Path),
) -> (Person, Vec<String>) {
    let mut server = place.serves(&[]).await;
    let (alice, _) = place.alice_and_bob(&server);
    let sent = RefCell::new(Vec::new());
    let sending =
        alice.sends_until_refused(|number| number.to_string(), |id| sent.borrow_mut().push(id));
    let tampering = async {
        until("messages are acknowledged", async || sent.borrow().len() > 20).await;
        tamper(place.path());
    };
    tokio::join!(sending, tampering);
    assert_eq!(server.ended().await.code(), Some(1), "{}", place.log());
    let log = place.log();
    let noticed = log.lines().find(|line| line.contains("replaced, renamed or deleted"));
    assert!(noticed.is_some_and(|line| line.contains(taken)), "{log}");
    (alice, sent.into_inner())
}

/// Restarts the server and asserts that all these messages are stored.
async fn are_there(place: &Workplace, alice: &Person, sent: &[String]) {
    let _again = place.starts_at(alice.address(), &["serve"], &[]).await;
    let stored: HashSet<_> = alice.downloads().await.message_ids().into_iter().collect();
    assert!(sent.iter().all(|id| stored.contains(id)), "acknowledged, but not there");
}

#[tokio::test]
async fn a_renamed_database_stops_the_server_and_holds_everything() {
    let place = Workplace::new();
    let (alice, sent) = acknowledged_while(&place, "chatserver.db", |folder| {
        fs::rename(folder.join("chatserver.db"), folder.join("moved.db")).unwrap();
    })
    .await;
    fs::remove_file(place.path().join("chatserver.db-wal")).unwrap();
    fs::rename(place.path().join("moved.db"), place.path().join("chatserver.db")).unwrap();
    are_there(&place, &alice, &sent).await;
}

#[tokio::test]
async fn a_deleted_database_stops_the_server() {
    let place = Workplace::new();
    acknowledged_while(&place, "chatserver.db", |folder| {
        fs::remove_file(folder.join("chatserver.db")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_replaced_database_stops_the_server_and_is_left_unchanged() {
    let place = Workplace::new();
    let other = Workplace::new();
    other.tells(&["user", "add", "zoe@example.com", "--nick", "Zoe"]);
    acknowledged_while(&place, "chatserver.db", |folder| {
        fs::copy(other.path().join("chatserver.db"), folder.join("new.db")).unwrap();
        fs::rename(folder.join("new.db"), folder.join("chatserver.db")).unwrap();
    })
    .await;
    fs::copy(other.path().join("chatserver.db.key"), place.path().join("chatserver.db.key"))
        .unwrap();
    let users = place.tells(&["user", "list"]);
    let users = users["users"].as_array().unwrap();
    assert_eq!(users.iter().map(|user| &user["nick"]).collect::<Vec<_>>(), ["Zoe"]);
}

#[tokio::test]
async fn a_deleted_log_stops_the_server_and_loses_nothing() {
    let place = Workplace::new();
    let (alice, sent) = acknowledged_while(&place, "chatserver.db-wal", |folder| {
        fs::remove_file(folder.join("chatserver.db-wal")).unwrap();
    })
    .await;
    are_there(&place, &alice, &sent).await;
}
