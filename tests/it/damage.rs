//! A damaged database: detectable damage is reported, and readable data is served.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::harness::database::Database;
use crate::harness::disk::Disk;
use crate::harness::person::Person;
use crate::harness::process::Workplace;
use crate::harness::world::until;

/// Returns the salt that SQLite writes into the log header each time it restarts the log.
fn salt(wal: &Path) -> Option<Vec<u8>> {
    fs::read(wal).ok()?.get(16..24).map(<[u8]>::to_vec)
}

/// Sends messages until the write-ahead log restarts. Everything sent before is then in the database file
/// alone.
async fn sends_until_the_log_begins_anew(alice: &Person, wal: &Path) {
    let before = salt(wal);
    until("the log begins anew", async || {
        alice.sends(&"more ".repeat(400)).await;
        salt(wal) != before
    })
    .await;
}

/// Returns the paths of the database and of its log.
fn files(place: &Workplace) -> [PathBuf; 2] {
    ["chatserver.db", "chatserver.db-wal"].map(|name| place.path().join(name))
}

/// Returns the bytes of the database and of its log.
fn contents(place: &Workplace) -> [Vec<u8>; 2] {
    files(place).map(|file| fs::read(file).unwrap())
}

/// Copies the database file to `backup.db`, sends more messages and kills the server. Returns its address.
async fn is_killed_after_a_backup(place: &Workplace) -> SocketAddr {
    let ([file, wal], backup) = (files(place), place.path().join("backup.db"));
    let server = place.serves(&[]).await;
    let (alice, _) = place.alice_and_bob(&server);
    for number in 0..30 {
        alice.sends(&number.to_string()).await;
    }
    let address = server.address;
    server.stops(place).await;
    fs::copy(&file, &backup).unwrap();

    let server = place.starts_at(address, &["serve"], &[]).await;
    for number in 0..60 {
        alice.sends(&format!("{number} {}", "after the backup ".repeat(100))).await;
    }
    sends_until_the_log_begins_anew(&alice, &wal).await;
    sends_until_the_log_begins_anew(&alice, &wal).await;
    alice.sends("the last one").await;
    server.dies().await;
    assert!(fs::metadata(&wal).unwrap().len() > 0);
    address
}

/// Puts a backup in place of the database of a killed server, beside its newer log. Returns the server's
/// address.
async fn mixes(place: &Workplace) -> SocketAddr {
    let address = is_killed_after_a_backup(place).await;
    fs::copy(place.path().join("backup.db"), place.path().join("chatserver.db")).unwrap();
    address
}

/// Asserts that every command refuses the mixture, each time, and changes no file.
fn is_refused_by_all(place: &Workplace) {
    let before = contents(place);
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    let commands =
        [&["user", "list"][..], &serve, &["migrate"], &["compact"], &["backup", "copy.db"]];
    for command in [commands, commands].concat() {
        let error = place.fails(command);
        for told in ["chatserver.db", "chatserver.db-wal don't belong together", "copies"] {
            assert!(error.contains(told), "{command:?}: {error}");
        }
        assert!(contents(place) == before, "{command:?} has changed a file");
    }
    assert!(!place.path().join("copy.db").exists());
}

#[tokio::test]
async fn a_backup_beside_the_log_of_a_killed_server_is_refused() {
    let place = Workplace::new();
    let address = mixes(&place).await;
    is_refused_by_all(&place);

    // Follows the advice of the error message for an operator who wants the backup.
    fs::remove_file(place.path().join("chatserver.db-wal")).unwrap();
    let server = place.starts_at(address, &["serve"], &[]).await;
    let users = place.tells(&["user", "list"]);
    assert_eq!(users["users"].as_array().unwrap().len(), 2);
    server.stops(&place).await;
}

#[tokio::test]
async fn a_failed_restore_leaves_database_and_foreign_log_as_they_were() {
    let (disk, place) = (Disk::failing(), Workplace::new());
    mixes(&place).await;
    let before = contents(&place);
    fs::write(place.path().join("full"), "").unwrap();
    let restore = ["restore", "backup.db", "--force"];
    let output = place.runs_with(&restore, "", &[disk.preload()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(contents(&place) == before, "the restore has changed a file");
    let left = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_str().unwrap().contains("restor")).collect();
    assert!(left.is_empty(), "{left:?}");
    fs::remove_file(place.path().join("full")).unwrap();
    place.tells(&restore);
    place.tells(&["user", "list"]);
}

/// Downgrades the database to a version without an epoch, in the log alone, except for the table of messages. Returns the
/// bytes of the log. `messages` is SQL for that table: what drops its newer column puts all rows into the log.
async fn makes_older(place: &Workplace, messages: &str) -> Vec<u8> {
    let [file, wal] = files(place);
    let mut older = Database::opens_without_checkpoints(&file).await;
    let statements = "DROP TABLE epoch;
                      UPDATE users SET api_key = api_key_digest;
                      DROP INDEX users_by_sealing_key;
                      ALTER TABLE users DROP COLUMN sealing_key;
                      ALTER TABLE users DROP COLUMN sealed_api_key;
                      DROP TABLE sealing_keys;
                      DROP TABLE audit;
                      DROP TABLE admin_links;
                      DROP INDEX users_by_state;
                      DROP TABLE invitations;
                      ALTER TABLE users DROP COLUMN is_deleted;
                      ALTER TABLE participants DROP COLUMN partner_number;
                      ALTER TABLE participants DROP COLUMN read_to;
                      ALTER TABLE conversations DROP COLUMN sent_by_first;
                      DROP INDEX messages_by_validity;
                      DROP INDEX conversations_with_retention;
                      ALTER TABLE conversations DROP COLUMN retention_days;
                      ALTER TABLE conversations DROP COLUMN first_message;
                      ALTER TABLE conversations DROP COLUMN first_report;
                      ALTER TABLE reports DROP COLUMN message_id;
                      ALTER TABLE participants ADD COLUMN people TEXT NOT NULL DEFAULT '';
                      ALTER TABLE conversations ADD COLUMN young BLOB NOT NULL DEFAULT x'';
                      DELETE FROM message_ids WHERE seq > (SELECT (next_seq - 1) / 32 * 32 FROM conversations c
                                                           WHERE c.generation = message_ids.generation);
                      DELETE FROM _sqlx_migrations WHERE version > 6";
    older.runs(statements).await;
    older.runs(messages).await;
    let log = fs::read(wal).unwrap();
    older.closes().await;
    log
}

#[tokio::test]
async fn a_foreign_log_with_an_older_schema_is_refused_and_nothing_changes() {
    let place = Workplace::new();
    is_killed_after_a_backup(&place).await;
    let log = makes_older(&place, "").await;
    let [file, wal] = files(&place);
    fs::copy(place.path().join("backup.db"), file).unwrap();
    fs::write(wal, log).unwrap();
    is_refused_by_all(&place);
}

#[tokio::test]
async fn an_older_database_with_its_own_log_is_migrated_and_whole() {
    let place = Workplace::new();
    let address = is_killed_after_a_backup(&place).await;
    let [file, wal] = files(&place);
    let before = fs::read(&file).unwrap();
    let log = makes_older(&place, "ALTER TABLE messages DROP COLUMN nth").await;
    fs::write(&file, before).unwrap();
    fs::write(&wal, log).unwrap();
    let error = place.fails(&["user", "list"]);
    assert!(error.contains("older schema"), "{error}");
    assert!(fs::metadata(&wal).unwrap().len() > 0, "a refusal leaves the log");
    let server = place.starts_at(address, &["serve"], &[]).await;
    assert_eq!(place.tells(&["user", "list"])["users"].as_array().unwrap().len(), 2);
    server.stops(&place).await;
    place.tells(&["backup", "copy.db"]);
    place.tells(&["backup", "verify", "copy.db"]);
}

/// Waits for the advice in the log, which another thread writes.
async fn says_what_to_do(place: &Workplace) {
    place.logs("the database is damaged: stop the server").await;
}

#[tokio::test]
async fn a_page_with_missing_messages_is_refused_and_makes_the_server_not_ready() {
    let place = Workplace::new();
    let settings = [("CHATSERVER_LIMITS__DOWNLOAD_MESSAGES", "2")];
    let server = place.serves(&settings).await;
    let (alice, _) = place.alice_and_bob(&server);
    for number in 0..30 {
        alice.sends(&number.to_string()).await;
    }
    let address = server.address;
    server.stops(&place).await;
    let mut database = place.opens_database().await;
    database.runs("DELETE FROM messages").await;
    database.closes().await;

    let server = place.starts_at(address, &["serve"], &settings).await;
    alice.downloads().await.refused(503, "unavailable");
    until("it is not ready", async || !server.is_ready().await).await;
    says_what_to_do(&place).await;
}

/// Returns the offset at which these bytes first occur in the file.
fn find(file: &[u8], bytes: &[u8]) -> usize {
    file.windows(bytes.len()).position(|window| window == bytes).unwrap()
}

#[tokio::test]
async fn a_corrupt_page_makes_the_server_not_ready_and_the_log_says_what_to_do() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    for number in 0..50 {
        alice.sends(&format!("message {number}, {}", "long ".repeat(100))).await;
    }
    let address = server.address;
    server.stops(&place).await;
    let file = place.path().join("chatserver.db");
    let mut bytes = fs::read(&file).unwrap();
    let data = BASE64.encode(format!("message 25, {}", "long ".repeat(100)));
    let page = find(&bytes, data.as_bytes()) / 4096 * 4096;
    bytes[page..page + 4096].fill(0xff);
    fs::write(&file, bytes).unwrap();

    let server = place.starts_at(address, &["serve"], &[]).await;
    assert!(server.is_ready().await);
    bob.downloads().await.refused(503, "unavailable");
    until("it is not ready", async || !server.is_ready().await).await;
    says_what_to_do(&place).await;
}

#[tokio::test]
async fn a_flipped_byte_damages_only_its_own_message() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let flipped = [b'A', b'"', b'\\', b'{', b'}', b'|', 0, b'\n', 0xff];
    let text = |number: usize| format!("this is the message with the number {number}");
    for number in 0..flipped.len() {
        alice.sends(&text(number)).await;
    }
    let address = server.address;
    server.stops(&place).await;
    let file = place.path().join("chatserver.db");
    let mut bytes = fs::read(&file).unwrap();
    for (number, byte) in flipped.into_iter().enumerate().skip(1) {
        let at = find(&bytes, BASE64.encode(text(number)).as_bytes());
        bytes[at + 10] = byte;
    }
    fs::write(&file, bytes).unwrap();

    let server = place.starts_at(address, &["serve"], &[]).await;
    let partial = bob.does("downloadpartial", json!({ "limit": 50 })).await;
    for page in [bob.downloads().await.ok(), partial.ok()] {
        let messages = page["messages"].as_array().unwrap();
        assert_eq!(messages.len(), flipped.len());
        let data = |message: &Value| message["Data"].as_str().unwrap().to_owned();
        assert_eq!(data(&messages[0]), BASE64.encode(text(0)), "the others are as they were");
        for (number, byte) in flipped.into_iter().enumerate().skip(1) {
            let (found, stored) = (data(&messages[number]), BASE64.encode(text(number)));
            let seen = if byte == 0xff { '\u{fffd}' } else { char::from(byte) };
            assert_eq!(found.chars().nth(10), Some(seen));
            assert_eq!(found.chars().take(10).collect::<String>(), stored[..10]);
            assert_eq!(found.chars().skip(11).collect::<String>(), stored[11..]);
        }
    }
    assert!(server.is_ready().await);
}
