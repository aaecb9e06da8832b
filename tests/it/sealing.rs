//! API keys at rest: sealed in the database, under keys that only the key file has.

mod nodes;
mod rotation;
mod secrets;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::harness::person::Person;
use crate::harness::process::Workplace;
use crate::harness::world::until;

/// Returns how often the text occurs in the database file and its write-ahead log.
fn copies(database: &Path, text: &str) -> usize {
    let names = ["", "-wal"].map(|suffix| format!("{}{suffix}", database.display()));
    let files = names.iter().filter_map(|name| fs::read(name).ok());
    let count = |bytes: Vec<u8>| {
        bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
    };
    files.map(count).sum()
}

/// Returns the fingerprints that `keys status` shows.
fn fingerprints(place: &Workplace) -> Vec<String> {
    let keys = place.tells(&["keys", "status"])["keys"].clone();
    let keys = keys.as_array().unwrap().iter();
    keys.map(|key| key["fingerprint"].as_str().unwrap().to_owned()).collect()
}

/// Makes the default database one of an earlier version: API keys are in clear, also in free pages and in the log.
async fn is_of_an_earlier_version(place: &Workplace, people: &[&Person]) {
    let mut old = place.opens_database().await;
    old.runs("PRAGMA secure_delete = OFF; PRAGMA wal_autocheckpoint = 0").await;
    for person in people {
        old.holds_in_clear(person.user.as_str(), person.api_key.as_str()).await;
    }
    let statements = "
        CREATE TABLE gone AS SELECT id, api_key FROM users, (SELECT 1 UNION ALL SELECT 2);
        DROP TABLE gone;
        DROP INDEX users_by_sealing_key;
        ALTER TABLE users DROP COLUMN sealing_key;
        ALTER TABLE users DROP COLUMN sealed_api_key;
        DROP TABLE sealing_keys;
        DROP TABLE audit;
        DROP TABLE admin_links;
        DROP INDEX users_by_state;
        DELETE FROM _sqlx_migrations WHERE version >= (SELECT version FROM _sqlx_migrations
                                                       WHERE description = 'sealed api keys');";
    old.runs(statements).await;
    old.closes().await;
    fs::remove_file(place.database_key_file()).unwrap();
}

#[tokio::test]
async fn an_upgrade_leaves_no_api_key_in_clear() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    alice.sends("before").await;
    let address = server.address;
    server.stops(&place).await;
    is_of_an_earlier_version(&place, &[&alice, &bob]).await;
    let clear = |of: &Person| copies(&place.database(), of.api_key.as_str());
    assert!(clear(&alice) > 1 && clear(&bob) > 1, "{} and {}", clear(&alice), clear(&bob));

    let server = place.starts_at(address, &["serve"], &[]).await;
    assert_eq!((clear(&alice), clear(&bob)), (0, 0));
    place.logs("API keys sealed api_keys=2").await;
    for person in [&alice, &bob] {
        person.logs_in().await.ok();
    }
    bob.sends("after").await;
    assert_eq!(alice.reads().await, ["before", "after"]);
    assert_eq!(server.metric::<u8>("chatserver_store_is_sealing").await, 1);
    server.stops(&place).await;
    assert_eq!((clear(&alice), clear(&bob)), (0, 0));
    let mode = fs::metadata(place.database_key_file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn an_upgrade_that_ended_before_the_rewriting_is_finished_by_the_next_start() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let alice = place.adds(&server, "Alice");
    server.stops(&place).await;
    is_of_an_earlier_version(&place, &[&alice]).await;
    place.tells(&["migrate"]);
    assert_eq!(copies(&place.database(), alice.api_key.as_str()), 0);
    // As a crash leaves it that comes between sealing and rewriting.
    let mut database = place.opens_database().await;
    database.runs("UPDATE sealing_keys SET is_active = FALSE; PRAGMA secure_delete = OFF").await;
    let gone = format!("CREATE TABLE gone AS SELECT '{}' AS key", alice.api_key.as_str());
    database.runs(&format!("{gone}; DROP TABLE gone")).await;
    database.closes().await;
    assert!(copies(&place.database(), alice.api_key.as_str()) > 0);
    place.tells(&["migrate"]);
    assert_eq!(copies(&place.database(), alice.api_key.as_str()), 0);
    let status = place.tells(&["keys", "status"]);
    assert_eq!(status["keys"][0]["users"], 1);
    assert_eq!(status["keys"][0]["current"], true);
}

#[tokio::test]
async fn new_and_rotated_api_keys_are_never_in_clear() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let alice = place.adds(&server, "Alice");
    let told = place.tells(&["user", "rotate-key", &alice.email]);
    let rotated =
        alice.with_key(chatserver::domain::Parse::parse(told["apikey"].as_str().unwrap()).unwrap());
    alice.logs_in().await.refused(401, "invalid_credentials");
    rotated.logs_in().await.ok();
    rotated.lists().await;
    for key in [&alice.api_key, &rotated.api_key] {
        assert_eq!(copies(&place.database(), key.as_str()), 0);
    }
}

#[test]
fn a_key_file_that_others_can_read_is_refused_by_every_command() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let file = place.database_key_file();
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    for arguments in [&["user", "list"][..], &["serve"], &["keys", "status"]] {
        let said = place.fails(&[arguments, &["--json"]].concat());
        let help = format!("chmod 600 {}", file.canonicalize().unwrap().display());
        assert!(said.contains(&help) && said.contains("has mode 640"), "{said}");
        assert!(said.contains("\"errorcode\":\"key_file\""), "{said}");
    }
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    place.tells(&["user", "list"]);
}

/// Moves the key file away and puts the one of another database in its place. Returns where it is now, and the fingerprint
/// of each of the two.
fn has_the_key_file_of_another_database(place: &Workplace) -> (PathBuf, [String; 2]) {
    let (file, kept) = (place.database_key_file(), place.path().join("kept"));
    let ours = fingerprints(place).remove(0);
    let other = Workplace::new();
    other.tells(&["user", "add", "bob@example.com", "--nick", "Bob"]);
    let theirs = fingerprints(&other).remove(0);
    assert_ne!(ours, theirs);
    fs::rename(&file, &kept).unwrap();
    fs::copy(other.database_key_file(), &file).unwrap();
    (kept, [ours, theirs])
}

#[test]
fn a_missing_or_foreign_key_file_is_refused_and_never_replaced() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    place.tells(&["backup", "chat.backup"]);
    let file = place.database_key_file();
    let (kept, [ours, theirs]) = has_the_key_file_of_another_database(&place);
    let copy = ["copy", "--from", "sqlite://chatserver.db", "--to", "sqlite://copy.db"];
    let commands =
        [&["serve"][..], &["user", "list"], &["restore", "chat.backup", "--force"], &copy];
    for arguments in commands {
        if arguments == copy {
            fs::copy(&file, place.path().join("copy.db.key")).unwrap();
        }
        let said = place.fails(arguments);
        for part in [&ours, &theirs, &"key file ".to_owned()] {
            assert!(said.contains(part), "{arguments:?}: {said}");
        }
    }
    fs::remove_file(&file).unwrap();
    for arguments in &commands[..3] {
        let said = place.fails(arguments);
        let part = format!("there is no key file {}", file.display());
        assert!(said.contains(&part) && said.contains(&ours), "{arguments:?}: {said}");
        assert!(!file.exists(), "{arguments:?} has made one");
    }
    fs::rename(kept, &file).unwrap();
    place.tells(&["restore", "chat.backup", "--force"]);
    assert_eq!(place.tells(&["user", "list"])["users"][0]["email"], "alice@example.com");
}

#[test]
fn a_damaged_key_file_is_told_by_its_line() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let file = place.database_key_file();
    let text = fs::read_to_string(&file).unwrap();
    let (_, key) = text.lines().last().unwrap().split_once(' ').unwrap();
    fs::write(&file, text.replace(key, &key[1..])).unwrap();
    let said = place.fails(&["user", "list"]);
    assert!(said.contains("line 3 of the key file") && !said.contains(&key[1..]), "{said}");
    fs::write(&file, "# empty\n").unwrap();
    assert!(place.fails(&["user", "list"]).contains("has no key"));
}

#[tokio::test]
async fn a_backup_is_restored_elsewhere_with_the_key_file_alone() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let told = place.tells(&["backup", "chat.backup"]);
    let file = place.database_key_file().canonicalize().unwrap();
    assert_eq!(told["keyfile"], file.to_str().unwrap());
    let backup = place.path().join("chat.backup");
    let (address, elsewhere) = (server.address, Workplace::new());
    server.stops(&place).await;
    let restore = ["restore", backup.to_str().unwrap()];
    let said = elsewhere.fails(&restore);
    assert!(said.contains("there is no key file") && said.contains("needs key 1"), "{said}");
    assert!(!elsewhere.database().exists());
    fs::copy(&file, elsewhere.database_key_file()).unwrap();
    elsewhere.tells(&restore);
    let _server = elsewhere.starts_at(address, &["serve"], &[]).await;
    // A login is not signed, so it may come in the second of the restore.
    for person in [&alice, &bob] {
        person.logs_in().await.ok();
    }
}

#[tokio::test]
async fn a_copied_file_takes_its_key_file_along() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, _bob) = place.alice_and_bob(&server);
    let address = server.address;
    server.stops(&place).await;
    place.tells(&["copy", "--from", "sqlite://chatserver.db", "--to", "sqlite://copy.db"]);
    let keys = ["chatserver.db.key", "copy.db.key"].map(|name| place.path().join(name));
    assert_eq!(fs::read(&keys[0]).unwrap(), fs::read(&keys[1]).unwrap());
    assert_eq!(fs::metadata(&keys[1]).unwrap().permissions().mode() & 0o777, 0o600);
    let on_copy = [("CHATSERVER_DATABASE__URL", "sqlite://copy.db")];
    let _server = place.starts_at(address, &["serve"], &on_copy).await;
    alice.logs_in().await.ok();
    until("Alice sends", async || alice.sends("on the copy").await.len() > 1).await;
}
