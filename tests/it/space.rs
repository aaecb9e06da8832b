//! Space on disk: cleared data returns to the file system, and no file still contains its text.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::harness::database::Database;
use crate::harness::disk::Disk;
use crate::harness::person::{Person, message_with_id};
use crate::harness::process::Workplace;
use crate::harness::world::{World, until};

/// Returns text whose base64 is found wherever it is in a file: each twelve characters encode to sixteen.
fn marked(mark: &str, times: usize) -> String {
    assert_eq!(mark.len(), 12);
    mark.repeat(times)
}

/// Returns how often the mark occurs in the database file and its write-ahead log.
fn copies(database: &Path, mark: &str) -> usize {
    let mark = BASE64.encode(mark);
    let names = ["", "-wal"].map(|suffix| format!("{}{suffix}", database.display()));
    let files = names.iter().filter_map(|name| std::fs::read(name).ok());
    let count = |bytes: Vec<u8>| {
        bytes.windows(mark.len()).filter(|window| *window == mark.as_bytes()).count()
    };
    files.map(count).sum()
}

fn size(file: &Path) -> u64 {
    std::fs::metadata(file).unwrap().len()
}

/// Sends texts of many sizes: some share a database page with others, some need several pages.
async fn says_much(sender: &Person, mark: &str) {
    for n in 0..60 {
        let text = marked(mark, [1, 20, 300, 3000][n % 4]);
        sender.adds(&message_with_id(&format!("m-{n}"), &text, &sender.date())).await.ok();
    }
}

#[tokio::test]
async fn a_cleared_conversation_leaves_no_text_on_disk() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let (with_carol, carol) = world.another_friend(&alice, "Carol").await;
    let database = world.database();
    for n in 0..2 {
        says_much(&alice, "what is gone").await;
        with_carol.sends(&marked("what remains", 400)).await;
        assert!(copies(&database, "what is gone") > 10_000, "{n}");
        alice.clears().await.ok();
        until("the text is gone", async || copies(&database, "what is gone") == 0).await;
        // A page may be overwritten before the file is cut.
        until("the space is given back", async || size(&database) < 1024 * 1024).await;
    }
    assert_eq!(bob.reads().await, [""; 0]);
    assert_eq!(carol.reads().await, [marked("what remains", 400), marked("what remains", 400)]);
}

#[tokio::test]
async fn a_reused_page_leaves_no_text_of_a_cleared_message_on_disk() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    let (with_carol, _carol) = world.another_friend(&alice, "Carol").await;
    let database = world.database();
    for n in 0..60 {
        let text = marked("what is gone", 600);
        alice.adds(&message_with_id(&format!("m-{n}"), &text, &alice.date())).await.ok();
        alice.clears().await.ok();
        // Its pages are free until they are cut off. The last page of these messages is nearly empty.
        for _ in 0..4 {
            with_carol.sends(&marked("what remains", 270)).await;
        }
    }
    until("the text is gone", async || copies(&database, "what is gone") == 0).await;
}

#[tokio::test]
async fn text_left_by_a_stop_is_removed_by_the_next_start() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    says_much(&alice, "what is gone").await;
    alice.clears().await.ok();
    let world = world.restarts(&[]).await;
    let database = world.database();
    until("the text is gone", async || copies(&database, "what is gone") == 0).await;
}

#[tokio::test]
async fn an_open_read_only_delays_the_removal_of_cleared_text() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    says_much(&alice, "what is gone").await;
    let mut reader = Database::opens_read_only(&world.database()).await;
    reader.holds_a_snapshot().await;
    alice.clears().await.ok();
    alice.sends("and on").await;
    assert!(copies(&world.database(), "what is gone") > 0);
    reader.closes().await;
    until("the text is gone", async || copies(&world.database(), "what is gone") == 0).await;
}

#[tokio::test]
async fn a_database_without_auto_vacuum_is_compacted() {
    const KEEPS: &str = "run `chatserver compact`";
    let place = Workplace::new();
    place.tells(&["migrate"]);
    let database = place.path().join("chatserver.db");
    let mut old = place.opens_database().await;
    // An earlier version left free pages as they were.
    let gone = BASE64.encode(marked("what is gone", 100_000));
    let statements = format!(
        "PRAGMA auto_vacuum = NONE; VACUUM; PRAGMA secure_delete = OFF;
         CREATE TABLE gone (data TEXT); INSERT INTO gone VALUES ('{gone}'); DROP TABLE gone"
    );
    old.runs(&statements).await;
    old.closes().await;

    let server = place.serves(&[]).await;
    place.logs(KEEPS).await;
    let (alice, bob) = place.alice_and_bob(&server);
    says_much(&alice, "what is gone").await;
    alice.clears().await.ok();
    alice.sends("what remains").await;
    let said = place.fails(&["compact"]);
    assert!(said.contains("chatserver.db is in use by another process (server"), "{said}");
    let purged =
        async || place.opens_database().await.number("SELECT count(*) FROM messages").await == 1;
    until("what was cleared is removed", purged).await;
    server.stops(&place).await;
    assert!(copies(&database, "what is gone") > 0, "it is in free pages");

    let before = size(&database);
    let told = place.tells(&["compact"]);
    assert_eq!(told["bytesbefore"], before);
    assert_eq!(told["bytes"], size(&database));
    assert!(size(&database) < before / 2, "{before} before, {} now", size(&database));
    assert_eq!(copies(&database, "what is gone"), 0);
    assert_eq!(place.opens_database().await.number("PRAGMA auto_vacuum").await, 2);
    place.tells(&["compact"]);

    let server = place.starts_at(bob.address(), &["serve"], &[]).await;
    assert!(!place.log().contains(KEEPS), "{}", place.log());
    assert_eq!(bob.reads().await, ["what remains"]);
    drop(server);
}

#[tokio::test]
async fn text_left_in_the_log_by_a_kill_is_removed_by_the_next_start() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, _bob) = place.alice_and_bob(&server);
    says_much(&alice, "what is gone").await;
    let database = place.path().join("chatserver.db");
    // The open read keeps the log from being truncated. A read-only connection does not checkpoint when it closes.
    let mut reader = Database::opens_read_only(&database).await;
    reader.holds_a_snapshot().await;
    alice.clears().await.ok();
    let left = "SELECT (SELECT count(*) FROM messages) + freelist_count FROM pragma_freelist_count";
    until("what was cleared is removed", async || {
        place.opens_database().await.number(left).await == 0
    })
    .await;
    let address = server.address;
    server.dies().await;
    reader.closes().await;
    assert!(copies(&database, "what is gone") > 0, "it is in the log");
    let _server = place.starts_at(address, &["serve"], &[]).await;
    until("the text is gone", async || copies(&database, "what is gone") == 0).await;
}

/// Leaves a database with free pages and without a write-ahead log. Returns Bob, whose last message is "what remains".
/// The server can be restarted at his address.
async fn is_left_with_free_pages(place: &Workplace) -> Person {
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    says_much(&alice, "what is gone").await;
    bob.sends("what remains").await;
    server.stops(place).await;
    let mut shell = place.opens_database().await;
    let statements = "PRAGMA journal_mode = DELETE; CREATE TABLE gone AS SELECT * FROM messages; DROP TABLE gone";
    shell.runs(statements).await;
    shell.closes().await;
    bob
}

#[tokio::test]
async fn a_killed_compaction_leaves_the_database_as_it_was() {
    let (disk, place) = (Disk::failing(), Workplace::new());
    let bob = is_left_with_free_pages(&place).await;
    let (database, held) = (place.path().join("chatserver.db"), place.path().join("held"));
    let before = std::fs::read(&database).unwrap();
    std::fs::write(&held, "").unwrap();
    let mut compact = disk.begins(&place, &["compact"]);
    until("it is written anew", async || std::fs::read(&database).unwrap() != before).await;
    compact.signal("KILL");
    compact.ended().await;
    assert!(size(&place.path().join("chatserver.db-journal")) > 0);
    std::fs::remove_file(held).unwrap();
    place.tells(&["user", "list"]);
    assert_eq!(std::fs::read(&database).unwrap().len(), before.len());
    let server = place.starts_at(bob.address(), &["serve"], &[]).await;
    assert_eq!(bob.reads().await.last().unwrap(), "what remains");
    place.tells(&["backup", "sound"]);
    place.tells(&["backup", "verify", "sound"]);
    drop(server);
}

#[tokio::test]
async fn a_compaction_on_a_full_disk_fails_as_such() {
    let (disk, place) = (Disk::failing(), Workplace::new());
    let bob = is_left_with_free_pages(&place).await;
    place.tells(&["user", "add", "carol@example.com", "--nick", "Carol"]);
    let full = place.path().join("full");
    std::fs::write(&full, "").unwrap();
    let output = place.runs_with(&["compact"], "", &[disk.preload()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("disk is full"), "{said}");
    std::fs::remove_file(full).unwrap();
    place.tells(&["compact"]);
    for name in ["chatserver.db-wal", "chatserver.db-journal"] {
        assert!(!place.path().join(name).exists(), "{name}");
    }
    let _server = place.starts_at(bob.address(), &["serve"], &[]).await;
    assert_eq!(bob.reads().await.last().unwrap(), "what remains");
}

#[tokio::test]
async fn a_database_in_use_or_of_another_program_is_not_compacted() {
    let place = Workplace::new();
    let said = place.fails(&["compact", "--database-url", "sqlite://nowhere.db"]);
    assert!(said.contains("nowhere.db"), "{said}");
    assert!(!place.path().join("nowhere.db").exists());
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let mut shell = place.opens_database().await;
    shell.runs("SELECT count(*) FROM users").await;
    let said = place.fails(&["compact", "--json"]);
    assert!(said.contains("in_use") && said.contains("another program has the database"), "{said}");
    shell.closes().await;
    place.tells(&["compact"]);
    place.opens_database().await.runs("UPDATE _sqlx_migrations SET checksum = x'00'").await;
    let said = place.fails(&["compact"]);
    assert!(said.contains("by another program"), "{said}");
}
