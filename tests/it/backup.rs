//! Backups of a running server, and what clients find after a restore.

mod refused;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use chatserver::clock::Clock;
use chatserver::store::ServerLock;
use serde_json::{Value, json};

use crate::harness::database::Database;
use crate::harness::disk::Disk;
use crate::harness::notification::Notification;
use crate::harness::person::{Person, message};
use crate::harness::process::{Process, Workplace};
use crate::harness::terminal::Terminal;
use crate::harness::world::until;
use crate::harness::ws_client::WsClient;

/// Waits until a process holds the lock of the database for this task.
pub async fn has_the_lock(place: &Workplace, task: &str) {
    let url = format!("sqlite://{}", place.path().join("chatserver.db").display());
    until("the database is locked", async || {
        ServerLock::holder(&url).unwrap().is_some_and(|holder| holder.task == task)
    })
    .await;
}

/// Starts a server again at the same address. First waits for the second of the restore to end: only requests
/// that are signed after it are accepted.
async fn serves_again(place: &Workplace, address: std::net::SocketAddr) -> Process {
    let restored = Clock::system().now();
    until("the second of the restore is over", async || Clock::system().now() > restored).await;
    place.starts_at(address, &["serve"], &[]).await
}

/// Polls with an acknowledgement. Returns the notification and the epoch.
async fn polls(person: &Person, acknowledged: u64) -> (Notification, String) {
    let fields = json!({ "ack": acknowledged });
    let answer = person.prepares("chatnotification", "download", &fields).sent().await.ok();
    (Notification::read(&answer), answer["epoch"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_backup_under_load_holds_all_that_was_acknowledged_before() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let instance = alice.instance().await;
    let (enough, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let sends = async |sender: &Person| {
        while !enough.load(Ordering::SeqCst) {
            let fields = json!({ "instance": instance, "message": message("hi", &sender.date()) });
            sender.does("add", fields).await.ok();
            sent.fetch_add(1, Ordering::SeqCst);
        }
    };
    let backs_up = async {
        until("there are messages", async || sent.load(Ordering::SeqCst) > 200).await;
        let before = sent.load(Ordering::SeqCst);
        place.tells_meanwhile(&["backup", "chat.backup"]).await;
        until("the load goes on", async || sent.load(Ordering::SeqCst) > before + 10).await;
        enough.store(true, Ordering::SeqCst);
        before
    };
    let ((), (), before) = tokio::join!(sends(&alice), sends(&bob), backs_up);

    let backup = place.path().join("chat.backup");
    assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    let verified = place.tells(&["backup", "verify", "chat.backup"]);
    let messages = usize::try_from(verified["messages"].as_u64().unwrap()).unwrap();
    let all = sent.load(Ordering::SeqCst);
    assert!((before..all).contains(&messages), "{before} <= {messages} < {all}");
    assert_eq!((&verified["users"], &verified["friendships"]), (&json!(2), &json!(1)));

    let bytes = fs::read(&backup).unwrap();
    let error = place.fails(&["backup", "chat.backup"]);
    assert!(error.contains("exists already"), "{error}");
    assert!(fs::read(&backup).unwrap() == bytes, "nothing was overwritten");
    let told = place.runs(&["backup", "other.backup"]);
    let progress = String::from_utf8(told.stderr).unwrap();
    assert!(progress.contains("copied") && progress.contains("MiB"), "{progress}");
    let left: Vec<_> = fs::read_dir(place.path()).unwrap().map(Result::unwrap).collect();
    assert!(left.iter().all(|file| !file.file_name().to_str().unwrap().contains("journal")));

    let (elsewhere, address) = (Workplace::new(), server.address);
    server.stops(&place).await;
    fs::copy(place.database_key_file(), elsewhere.database_key_file()).unwrap();
    elsewhere.tells(&["restore", backup.to_str().unwrap()]);
    let _restored = serves_again(&elsewhere, address).await;
    assert_eq!(alice.downloads().await.message_ids().len(), messages);
}

#[tokio::test]
async fn a_failed_backup_leaves_nothing_behind() {
    let place = Workplace::new();
    let error = place.fails(&["backup", "chat.backup"]);
    assert!(error.contains("there is no database at"), "{error}");
    fs::write(place.path().join("chatserver.db"), "Dear Alice, ".repeat(1000)).unwrap();
    let error = place.fails(&["backup", "chat.backup"]);
    assert!(error.contains("not a database"), "{error}");
    let error = place.fails(&["backup"]);
    assert!(error.contains("<FILE>"), "{error}");
    fs::remove_file(place.path().join("chatserver.db")).unwrap();
    place.tells(&["migrate"]);
    let error = place.fails(&["backup", "nowhere/chat.backup"]);
    assert!(error.contains("nowhere/chat.backup"), "{error}");
    assert!(!place.path().join("chat.backup").exists());
}

/// Returns the temporary folders with this prefix. A command builds its output there and renames it when it is
/// complete.
fn unfinished(place: &Workplace, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix)).collect()
}

/// Waits until such a folder is not empty.
async fn is_at_work(place: &Workplace, prefix: &str) {
    let is_filled =
        |folder: &PathBuf| fs::read_dir(folder).is_ok_and(|mut made| made.next().is_some());
    until("it is at work", async || unfinished(place, prefix).iter().any(is_filled)).await;
}

#[tokio::test]
async fn an_interrupted_backup_leaves_no_partial_backup() {
    let (disk, place) = (Disk::failing(), Workplace::new());
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let held = place.path().join("held");
    fs::write(&held, "").unwrap();
    for (signal, code, left) in [("TERM", Some(1), 0), ("KILL", None, 1)] {
        let mut backup = disk.begins(&place, &["backup", "chat.backup"]);
        is_at_work(&place, ".chatserver-backup-").await;
        assert!(!place.path().join("chat.backup").exists());
        backup.signal(signal);
        assert_eq!(backup.ended().await.code(), code);
        assert!(!place.path().join("chat.backup").exists());
        assert_eq!(unfinished(&place, ".chatserver-backup-").len(), left, "after SIG{signal}");
    }
    fs::remove_file(held).unwrap();
    place.tells(&["backup", "chat.backup"]);
    let told = place.runs(&["backup", "verify", "chat.backup"]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(
        told.ends_with("1 user, 0 friendships, 0 conversations, 0 messages, 0 reports\n"),
        "{told}"
    );
}

#[tokio::test]
async fn a_damaged_or_foreign_file_is_neither_verified_nor_restored() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, _) = place.alice_and_bob(&server);
    for _ in 0..200 {
        alice.sends(&"hello ".repeat(100)).await;
    }
    place.tells(&["backup", "sound"]);
    let sound = fs::read(place.path().join("sound")).unwrap();
    let half = sound.len() / 2;
    let mut torn = sound.clone();
    for byte in &mut torn[half..half + 4096] {
        *byte ^= 0x55;
    }
    fs::write(place.path().join("torn"), torn).unwrap();
    fs::write(place.path().join("cut"), &sound[..half]).unwrap();
    fs::write(place.path().join("letter"), "Dear Alice, ".repeat(1000)).unwrap();
    fs::write(place.path().join("empty"), "").unwrap();
    // Simulates a database that was combined with a foreign write-ahead log: each page is valid, but rows are
    // missing.
    place.tells(&["backup", "mixed"]);
    let mut mixed = Database::opens(&place.path().join("mixed")).await;
    mixed.runs("DELETE FROM messages").await;
    mixed.closes().await;
    // Simulates a copy made by hand: the file of a running server with its log beside it.
    for suffix in ["", "-wal"] {
        let from = place.path().join(format!("chatserver.db{suffix}"));
        fs::copy(from, place.path().join(format!("copied{suffix}"))).unwrap();
    }
    server.stops(&place).await;
    let before = fs::read(place.path().join("chatserver.db")).unwrap();
    for name in ["torn", "cut", "letter", "empty", "mixed", "copied", "nowhere"] {
        for command in [&["backup", "verify", name][..], &["restore", name, "--force"]] {
            let error = place.fails(command);
            assert!(error.contains(name), "{command:?}: {error}");
        }
    }
    assert!(fs::read(place.path().join("chatserver.db")).unwrap() == before);
    let error = place.fails(&["backup", "verify", "torn", "--json"]);
    let told: Value = serde_json::from_str(&error).unwrap();
    assert_eq!(told["errorcode"], "invalid_backup");
    place.tells(&["backup", "verify", "sound"]);
    assert!(fs::read(place.path().join("sound")).unwrap() == sound, "verifying changes nothing");
}

#[tokio::test]
async fn a_restore_needs_the_database_to_itself_and_force_to_replace_it() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    place.alice_and_bob(&server);
    place.tells(&["backup", "sound"]);
    let error = place.fails(&["restore", "sound", "--force"]);
    assert!(error.contains("in use by another process (server"), "{error}");
    server.stops(&place).await;
    let error = place.fails(&["restore", "sound"]);
    assert!(error.contains("--force replaces it"), "{error}");
    let database = place.database();
    let mut shell = place.opens_database().await;
    shell.runs("SELECT count(*) FROM users").await;
    let error = place.fails(&["restore", "sound", "--force"]);
    assert!(error.contains("another program has the database"), "{error}");
    shell.closes().await;
    place.tells(&["restore", "sound", "--force"]);

    fs::write(&database, "no database").unwrap();
    let told = place.tells(&["restore", "sound", "--force"]);
    assert!(told["unreadable"].as_str().unwrap().contains("not a database"), "{told}");
    assert_eq!(place.tells(&["user", "list"])["users"].as_array().unwrap().len(), 2);
    assert_eq!(fs::metadata(&database).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_downgrade_restores_a_backup_over_a_migrated_database() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    place.tells(&["backup", "before.db"]);
    let later = "INSERT INTO _sqlx_migrations SELECT version + 1, 'later', installed_on, success, checksum, execution_time
                 FROM _sqlx_migrations ORDER BY version DESC LIMIT 1";
    let mut database = place.opens_database().await;
    database.runs(later).await;
    database.closes().await;
    assert!(place.fails(&["user", "list"]).contains("has the schema of a newer version"));
    place.tells(&["restore", "before.db", "--force"]);
    assert_eq!(place.tells(&["user", "list"])["users"][0]["email"], "alice@example.com");
}

#[tokio::test]
async fn a_running_restore_refuses_every_other_change() {
    let (disk, place) = (Disk::failing(), Workplace::new());
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    place.tells(&["backup", "sound"]);
    let held = place.path().join("held");
    fs::write(&held, "").unwrap();
    let mut restore = disk.begins(&place, &["restore", "sound", "--force"]);
    has_the_lock(&place, "restore").await;
    let error = place.fails(&["user", "disable", "alice@example.com", "--json"]);
    let told: Value = serde_json::from_str(&error).unwrap();
    assert_eq!(told["errorcode"], "in_use");
    assert!(error.contains(&format!("restore, process id {}", restore.id())), "{error}");
    fs::remove_file(held).unwrap();
    assert!(restore.ended().await.success());
    place.tells(&["user", "disable", "alice@example.com"]);
}

/// Starts a restore that blocks while it copies. The backup holds Alice; the database holds Alice and Bob.
async fn copies(disk: &Disk, place: &Workplace) -> Process {
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    place.tells(&["backup", "sound"]);
    place.tells(&["user", "add", "bob@example.com", "--nick", "Bob"]);
    fs::write(place.path().join("held-copy"), "").unwrap();
    let restore = disk.begins(place, &["restore", "sound", "--force"]);
    is_at_work(place, ".restoring-").await;
    restore
}

#[tokio::test]
async fn a_restore_can_be_stopped_while_it_copies() {
    let (disk, place) = (Disk::failing(), Workplace::new());
    let mut restore = copies(&disk, &place).await;
    restore.signal("TERM");
    assert_eq!(restore.ended().await.code(), Some(1));
    assert!(unfinished(&place, ".restoring-").is_empty());
    assert_eq!(place.tells(&["user", "list"])["users"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_restored_epoch_begins_when_the_copy_is_complete() {
    let (disk, place) = (Disk::failing(), Workplace::new());
    let mut restore = copies(&disk, &place).await;
    let copying = Clock::system().now();
    until("some time has passed", async || Clock::system().now() > copying).await;
    fs::remove_file(place.path().join("held-copy")).unwrap();
    assert!(restore.ended().await.success());
    let mut database = place.opens_database().await;
    assert!(database.number("SELECT began_at FROM epoch").await > copying.unix());
    database.closes().await;
}

#[tokio::test]
async fn a_restore_removes_the_log_of_a_killed_server_and_lists_what_it_undoes() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let address = server.address;
    let (alice, bob) = place.alice_and_bob(&server);
    alice.sends("before").await;
    place.tells(&["backup", "sound"]);
    place.tells(&["user", "disable", "alice@example.com"]);
    place.tells(&["user", "rotate-key", "bob@example.com"]);
    place.adds(&server, "Carol");
    server.dies().await;
    let log = place.path().join("chatserver.db-wal");
    assert!(fs::metadata(&log).unwrap().len() > 0);
    let told = place.tells(&["restore", "sound", "--force"]);
    assert!(!log.exists() && !place.path().join("chatserver.db-shm").exists());
    let emails = |nick: &str| json!([format!("{nick}@example.com")]);
    assert_eq!(told["disabledsince"], emails("alice"));
    assert_eq!(told["rotatedsince"], emails("bob"));
    assert_eq!(told["addedsince"], emails("carol"));
    let server = serves_again(&place, address).await;
    assert_eq!(bob.reads().await, ["before"]);
    assert_eq!(alice.reads().await, ["before"]);
    server.stops(&place).await;
}

#[test]
fn a_restore_prints_commands_that_can_be_pasted() {
    let (place, alice) = (Workplace::new(), "o'brien@example.com");
    let url = ["--database-url", "sqlite://it's here.db"];
    let user = |arguments: &[&str]| place.tells(&[&["user"], arguments, &url].concat());
    user(&["add", alice, "--nick", "Alice"]);
    user(&["add", "carol@example.com", "--nick", "Carol"]);
    place.tells(&[&["backup", "sound"], &url[..]].concat());
    user(&["disable", alice]);
    user(&["delete", "carol@example.com", "--yes"]);
    user(&["add", "bob@example.com", "--nick", "Bob"]);
    let restored = place.runs(&[&["restore", "sound", "--force"], &url[..]].concat());
    let told = String::from_utf8(restored.stdout).unwrap();
    let commands = told.lines().filter_map(|line| line.split_once(": chatserver "));
    let commands: Vec<_> = commands.map(|(_, command)| command.to_owned()).collect();
    assert_eq!(commands.len(), 3, "{told}");
    let binary = env!("CARGO_BIN_EXE_chatserver");
    for command in &commands {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("'{binary}' {command}")]).current_dir(place.path());
        // A deletion asks.
        let terminal = Terminal::new();
        terminal.types("carol@example.com");
        shell.stdin(terminal.stdin());
        let done = shell.output().unwrap();
        assert!(done.status.success(), "{command}: {done:?}");
    }
    assert_eq!(user(&["show", "bob@example.com"])["nick"], "NICK");
    assert_eq!(user(&["show", alice])["disabled"], true);
    assert_eq!(user(&["list"])["users"].as_array().unwrap().len(), 2);
}

#[test]
fn a_restore_calls_nobody_deleted_whom_an_older_database_lacked() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    place.tells(&["backup", "old"]);
    place.tells(&["user", "add", "bob@example.com", "--nick", "Bob"]);
    place.tells(&["backup", "right"]);
    assert_eq!(
        place.tells(&["restore", "old", "--force"])["addedsince"],
        json!(["bob@example.com"])
    );
    let told = String::from_utf8(place.runs(&["restore", "right", "--force"]).stdout).unwrap();
    let line = "bob@example.com is in the backup, and was not in the replaced database";
    assert!(told.lines().any(|told| told == line), "{told}");
    assert!(!told.contains("delete"), "{told}");
    let told = place.tells(&["restore", "right", "--force"]);
    assert_eq!((&told["missing"], &told["deletedsince"]), (&json!([]), &json!([])));
}

#[test]
fn a_restore_lists_what_the_audit_log_had_since_the_backup() {
    let place = Workplace::new();
    for nick in ["alice", "bob"] {
        place.tells(&["user", "add", &format!("{nick}@example.com"), "--nick", nick]);
    }
    place.tells(&["friend", "add", "alice@example.com", "bob@example.com"]);
    place.tells(&["user", "invite", "carol@example.com"]);
    place.tells(&["backup", "sound"]);
    place.tells(&["user", "uninvite", "carol@example.com"]);
    place.tells(&["friend", "remove", "alice@example.com", "bob@example.com"]);
    let told = place.tells(&["restore", "sound", "--force"]);
    let undone = [
        "invitation_revoked carol@example.com",
        "friendship_ended alice@example.com bob@example.com",
    ];
    assert_eq!(told["undone"], json!(undone));
}

#[tokio::test]
async fn acknowledgements_from_before_a_restore_hide_nothing() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let address = server.address;
    let (alice, bob) = place.alice_and_bob(&server);
    let listening = bob.elsewhere();
    let mut listener = listening.listens().await;
    listener.takes().await;
    let (first, epoch) = polls(&bob, 0).await;
    polls(&bob, first.sequence).await;
    alice.sends("before").await;
    place.tells(&["backup", "sound"]);
    alice.sends("lost").await;
    let (lost, _) = polls(&bob, first.sequence).await;
    let lost_by_listener = listener.is_told().await;
    server.stops(&place).await;
    place.tells(&["restore", "sound", "--force"]);
    let _server = serves_again(&place, address).await;

    // There are as many changes as before the restore, so the change numbers that the client remembers are used
    // again.
    alice.sends("new").await;
    for _ in 0..2 {
        let (told, new_epoch) = polls(&bob, lost.sequence).await;
        assert_ne!(new_epoch, epoch);
        assert_eq!(told.conversations, [bob.conversation.as_str()], "{told:?}");
        assert!(told.sequence < 1 << 53);
    }
    let (told, _) = polls(&bob, 0).await;
    let (told, _) = polls(&bob, told.sequence).await;
    assert!(told.is_empty(), "{told:?}");
    let mut listener = listening.listens().await;
    let told = listener.is_told().await;
    assert_eq!(told.conversations, [bob.conversation.as_str()]);
    listener.acknowledges(&lost_by_listener).await;
    listener.is_heard().await;
    drop(listener);
    let mut listener = listening.listens().await;
    assert_eq!(
        listener.is_told().await.conversations,
        told.conversations,
        "nothing was acknowledged"
    );
    assert_eq!(bob.reads().await, ["before", "new"]);
}

#[tokio::test]
async fn requests_signed_before_a_restore_are_refused() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let address = server.address;
    let (alice, bob) = place.alice_and_bob(&server);
    place.tells(&["backup", "sound"]);
    let fields =
        json!({ "conversationid": alice.conversation, "instance": alice.instance().await });
    let clear = alice.prepares("chatconversation", "clear", &fields);
    let mute = alice.prepares(
        "chatconversation",
        "mute",
        &json!({ "conversationid": alice.conversation }),
    );
    mute.sent().await.ok();
    let subscription = bob.subscription();
    server.stops(&place).await;
    place.tells(&["restore", "sound", "--force"]);
    let server = serves_again(&place, address).await;
    for request in [&clear, &mute] {
        let refused = request.sent().await.refused(401, "timestamp_out_of_range");
        assert!(refused["errormessage"].as_str().unwrap().contains("restored"), "{refused}");
        assert!(refused["servertime"].is_string(), "{refused}");
    }
    let mut listener = WsClient::opens(address).await;
    listener.says(&subscription).await;
    listener.is_refused("timestamp_out_of_range").await;
    assert_eq!(alice.sees().await["properties"][0]["ismuted"], false);
    alice.sends("signed anew").await;
    bob.listens().await;

    // A clock that ran ahead during the restore must not lock users out.
    server.stops(&place).await;
    let ahead = Clock::system().now().unix() + 3600;
    let mut connection = place.opens_database().await;
    connection.runs(&format!("UPDATE epoch SET began_at = {ahead}")).await;
    connection.closes().await;
    let _server = place.starts_at(address, &["serve"], &[]).await;
    until("requests are accepted", async || alice.asks("list", json!({})).await.status == 200)
        .await;
}
