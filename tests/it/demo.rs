//! `chatserver demo`, used as people use it: the printed commands are pasted into a shell.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::harness::database::Database;
use crate::harness::disk::Disk;
use crate::harness::openssl::SealedKey;
use crate::harness::person::Person;
use crate::harness::process::{Process, Workplace, free_address};
use crate::harness::shells::{SHELLS, pasted};
use crate::harness::world::until;

/// Reads `demo.json`.
fn cast(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("demo.json")).unwrap()).unwrap()
}

async fn ends_at_ctrl_c(mut demo: Process) {
    demo.signal("INT");
    assert_eq!(demo.ended().await.code(), Some(0));
}

/// Pastes everything that a demo prints, twice.
#[tokio::test]
async fn the_printed_commands_work_in_every_shell() {
    let talk =
        ["Hi Bob, have you seen the new server?", "I am typing on it!", "Then everything works."];
    let (hello, reply, key) = ("Hello from the shell", "Hello, Alice", "RSA key ok");
    for shell in SHELLS {
        let place = Workplace::new();
        let demo = place.starts(&["demo"], &[]).await;
        let printed = place.printed();
        let lines = pasted(shell, place.path(), &printed.repeat(2));
        let (envelopes, others): (Vec<_>, Vec<_>) =
            lines.iter().map(String::as_str).partition(|line| line.starts_with('{'));
        assert_eq!(envelopes.len(), 10, "login, list, add, download and add: {envelopes:?}");
        for envelope in envelopes {
            assert!(envelope.starts_with(r#"{"status":"OK","errormessage":"""#), "{envelope}");
        }
        // The commands clear nothing, so that users can continue with the conversation.
        let first = [&[key][..], &talk, &[hello], &talk, &[hello, reply]].concat();
        let again = [&talk[..], &[hello, reply, hello]].concat();
        let second = [&[key][..], &again, &again, &[reply]].concat();
        assert_eq!(others, [&first[..], &second].concat(), "{shell:?}");
        ends_at_ctrl_c(demo).await;
    }
}

#[tokio::test]
async fn a_demo_whose_database_is_in_the_log_alone_is_not_published() {
    let (disk, place) = (Disk::failing(), Workplace::new());
    let (database, held) = (place.path().join("unfinished.db"), place.path().join("held-log"));
    fs::write(&held, "").unwrap();
    let demo = ["demo", "--data", "."];
    let mut ended = place.starts_without_waiting(free_address(), &demo, &[disk.preload()]);
    let log = place.path().join("unfinished.db-wal");
    until("it writes", async || fs::metadata(&log).is_ok_and(|log| log.len() > 0)).await;
    let mut reader = Database::opens(&database).await;
    reader.runs("BEGIN; SELECT count(*) FROM sqlite_schema").await;
    fs::remove_file(held).unwrap();
    assert_eq!(ended.ended().await.code(), Some(1), "{}", place.log());
    place.logs("unfinished.db-wal: keep").await;
    assert!(!place.path().join("chatserver.db").exists());
    reader.closes().await;

    let demo = place.starts(&demo, &[]).await;
    assert!(!place.path().join("unfinished.db").exists());
    ends_at_ctrl_c(demo).await;
}

#[tokio::test]
async fn a_demo_prints_its_users_and_keeps_them_in_a_folder() {
    let place = Workplace::new();
    let folder = place.path().join("kept");
    let demo = place.starts(&["demo", "--data", "kept"], &[]).await;
    let told = cast(&folder);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&folder.join("demo.json")), 0o600);
    assert_eq!(mode(&folder.join("chatserver.db")), 0o600);
    let printed = place.printed();
    let links: Vec<_> = printed.lines().skip(2).take(2).collect();
    let ending: Vec<_> = printed.lines().rev().take(3).collect();
    assert_eq!(links, [ending[2], ending[1]], "the last lines have the links again");
    for ((name, nick), link) in [("alice", "Alice"), ("bob", "Bob  ")].into_iter().zip(links) {
        let shown = |field: &str| told[name][field].as_str().unwrap();
        let (key, password) = (shown("apikey"), shown("encryptionpassword"));
        let fragment = format!("apikey={key}&password={password}");
        assert_eq!(link, format!("  {nick}  http://{}/app/#{fragment}", demo.address));
        for field in ["email", "userid", "apikey", "encryptionpassword"] {
            let value = told[name][field].as_str().unwrap();
            assert!(printed.contains(value), "{name}'s {field}");
        }
        let person = Person::added(&told[name], demo.address);
        let key = SealedKey::of(&person.logs_in().await.ok(), person.password.as_str());
        assert!(key.public().is_some(), "the printed password opens {name}'s key");
    }
    let mut alice = Person::added(&told["alice"], demo.address);
    told["conversationid"].as_str().unwrap().clone_into(&mut alice.conversation);
    alice.sends("one more").await;
    let messages = async |alice: &Person| alice.downloads().await.ok()["messages"].clone();
    let before = messages(&alice).await;
    assert_eq!(before.as_array().unwrap().len(), 4);
    ends_at_ctrl_c(demo).await;

    let demo = place.starts(&["demo", "--data", "kept"], &[]).await;
    assert_eq!(cast(&folder), told);
    let again = place.printed();
    assert!(again.contains(told["bob"]["apikey"].as_str().unwrap()));
    let mut alice = Person::added(&told["alice"], demo.address);
    told["conversationid"].as_str().unwrap().clone_into(&mut alice.conversation);
    assert_eq!(messages(&alice).await, before);
    ends_at_ctrl_c(demo).await;
}

#[tokio::test]
async fn a_demo_without_a_folder_leaves_nothing_behind() {
    let place = Workplace::new();
    let temporary = place.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let demo = place.starts(&["demo"], &[("TMPDIR", temporary.to_str().unwrap())]).await;
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 1, "its folder is there");
    ends_at_ctrl_c(demo).await;
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    assert!(!place.path().join("chatserver.db").exists());
}

#[tokio::test]
async fn a_demo_refuses_the_database_of_a_server() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let refused = place.fails(&["demo", "--data", ".", "--listen", "127.0.0.1:0"]);
    assert!(refused.contains("demo.json"), "{refused}");
    let users = place.tells(&["user", "list"])["users"].as_array().unwrap().len();
    assert_eq!(users, 1);
}
