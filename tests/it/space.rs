//! What is cleared leaves the disk: its space goes back to the file system, and no file holds its text any more.

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::binary::Workplace;
use crate::world::{Person, World, message_with_id, until};

/// Text whose base64 is found wherever it stands in a file: each twelve characters make sixteen.
fn marked(mark: &str, times: usize) -> String {
    assert_eq!(mark.len(), 12);
    mark.repeat(times)
}

/// How often the mark stands in the database file and in its log.
fn copies(database: &Path, mark: &str) -> usize {
    use base64::Engine as _;
    let mark = base64::engine::general_purpose::STANDARD.encode(mark);
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

/// Sends texts of many sizes, as messages have: some stand in a page with others, some need pages of their own.
async fn says_much(sender: &Person, mark: &str) {
    for n in 0..60 {
        let text = marked(mark, [1, 20, 300, 3000][n % 4]);
        sender.adds(&message_with_id(&format!("m-{n}"), &text, &sender.date())).await.ok();
    }
}

#[tokio::test]
async fn of_a_cleared_conversation_no_trace_is_left() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let (mut with_carol, mut carol) = (alice.clone(), world.person("Carol").await);
    world.befriends(&mut with_carol, &mut carol).await;
    let database = world.database();
    for n in 0..2 {
        says_much(&alice, "what is gone").await;
        with_carol.sends(&marked("what remains", 400)).await;
        assert!(copies(&database, "what is gone") > 10_000, "{n}");
        alice.clears().await.ok();
        until("the text is gone", async || copies(&database, "what is gone") == 0).await;
        assert!(size(&database) < 1024 * 1024, "{} bytes are left", size(&database));
    }
    assert_eq!(bob.reads().await, [""; 0]);
    assert_eq!(carol.reads().await, [marked("what remains", 400), marked("what remains", 400)]);
}

#[tokio::test]
async fn a_trace_that_a_stop_has_left_is_removed_by_the_next_start() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    says_much(&alice, "what is gone").await;
    alice.clears().await.ok();
    let world = world.restarts(&[]).await;
    let database = world.database();
    until("the text is gone", async || copies(&database, "what is gone") == 0).await;
}

#[tokio::test]
async fn a_read_that_goes_on_only_delays_it() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    says_much(&alice, "what is gone").await;
    let options = SqliteConnectOptions::new().filename(world.database()).read_only(true);
    let mut reader = options.connect().await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM messages").execute(&mut reader).await.unwrap();
    alice.clears().await.ok();
    alice.sends("and on").await;
    assert!(copies(&world.database(), "what is gone") > 0);
    reader.close().await.unwrap();
    until("the text is gone", async || copies(&world.database(), "what is gone") == 0).await;
}

/// Runs statements on the database of this place.
async fn runs(place: &Workplace, statements: &'static str) -> i64 {
    let options = SqliteConnectOptions::new().filename(place.path().join("chatserver.db"));
    let mut connection = options.connect().await.unwrap();
    let value = sqlx::query_scalar(statements).fetch_optional(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    value.unwrap_or_default()
}

#[tokio::test]
async fn a_database_of_an_earlier_version_is_compacted() {
    const KEEPS: &str = "run `chatserver compact`";
    let place = Workplace::new();
    place.tells(&["migrate"]);
    let database = place.path().join("chatserver.db");
    let mut old = SqliteConnectOptions::new().filename(&database).connect().await.unwrap();
    sqlx::raw_sql("PRAGMA auto_vacuum = NONE; VACUUM").execute(&mut old).await.unwrap();
    old.close().await.unwrap();

    let mut server = place.serves(&[]).await;
    assert!(place.log().contains(KEEPS), "{}", place.log());
    let (alice, bob) = place.alice_and_bob(&server);
    says_much(&alice, "what is gone").await;
    alice.clears().await.ok();
    alice.sends("what remains").await;
    let said = place.fails(&["compact"]);
    assert!(said.contains("chatserver.db is in use by another process (server"), "{said}");
    let purged = async || runs(&place, "SELECT count(*) FROM messages").await == 1;
    until("what was cleared is removed", purged).await;
    server.signal("TERM");
    assert!(server.ended().await.success());
    assert!(copies(&database, "what is gone") > 0, "it is in free pages");

    let before = size(&database);
    let told = place.tells(&["compact"]);
    assert_eq!(told["bytesbefore"], before);
    assert_eq!(told["bytes"], size(&database));
    assert!(size(&database) < before / 2, "{before} before, {} now", size(&database));
    assert_eq!(copies(&database, "what is gone"), 0);
    assert_eq!(runs(&place, "PRAGMA auto_vacuum").await, 2);
    place.tells(&["compact"]);

    let server = place.starts_at(bob.address(), &["serve"], &[]).await;
    assert!(!place.log().contains(KEEPS), "{}", place.log());
    assert_eq!(bob.reads().await, ["what remains"]);
    drop(server);
}

#[tokio::test]
async fn only_a_database_that_nobody_reads_is_compacted() {
    let place = Workplace::new();
    let said = place.fails(&["compact", "--database-url", "sqlite://nowhere.db"]);
    assert!(said.contains("nowhere.db"), "{said}");
    assert!(!place.path().join("nowhere.db").exists());
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    runs(&place, "UPDATE _sqlx_migrations SET checksum = x'00'").await;
    let said = place.fails(&["compact"]);
    assert!(said.contains("by another program"), "{said}");
}
