//! `/readyz`: 503 soon after changes fail, and 200 again when they succeed.

use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _};

use crate::binary::{Process, Workplace};
use crate::world::{World, message, until};

async fn ready(server: &Process) -> (u16, String) {
    let answer = reqwest::get(format!("http://{}/readyz", server.address)).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Opens the database of a server, as another process would.
async fn another_process(place: &Workplace) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(place.path().join("chatserver.db"));
    options.connect().await.unwrap()
}

async fn runs(on: &mut SqliteConnection, statement: &'static str) {
    sqlx::query(AssertSqlSafe(statement)).execute(on).await.unwrap();
}

const NO_CHANGE: &str = "no change can be made\n";

#[tokio::test]
async fn a_server_whose_database_is_locked_is_not_ready() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    assert!(alice.reads().await.is_empty());
    let mut other = another_process(&place).await;
    runs(&mut other, "BEGIN IMMEDIATE").await;
    until("it is not ready", async || ready(&server).await == (503, NO_CHANGE.to_owned())).await;
    assert!(alice.reads().await.is_empty(), "reads go on");
    runs(&mut other, "ROLLBACK").await;
    until("it is ready again", async || ready(&server).await == (200, "OK\n".to_owned())).await;
    alice.sends("hello").await;
    assert_eq!(bob.reads().await, ["hello"]);
}

#[tokio::test]
async fn a_server_that_misses_a_table_is_not_ready() {
    for table in ["messages", "replays", "changes"] {
        let place = Workplace::new();
        let server = place.serves(&[]).await;
        let drop = format!("DROP TABLE {table}");
        let mut other = another_process(&place).await;
        sqlx::query(AssertSqlSafe(drop)).execute(&mut other).await.unwrap();
        until("it is not ready", async || ready(&server).await == (503, NO_CHANGE.to_owned()))
            .await;
        until("it is in the log", async || place.log().contains("the store is not ready")).await;
    }
}

#[tokio::test]
async fn a_server_all_of_whose_changes_fail_is_not_ready() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, _bob) = place.alice_and_bob(&server);
    let instance = alice.instance().await;
    let mut other = another_process(&place).await;
    runs(
        &mut other,
        "CREATE TRIGGER broken BEFORE INSERT ON messages BEGIN SELECT RAISE(ABORT, 'broken'); END",
    )
    .await;
    let sends = async || {
        let fields = json!({
            "conversationid": alice.conversation, "instance": instance,
            "message": message("hello", &alice.date()),
        });
        alice.prepares("chatconversation", "add", &fields).sent().await
    };
    until("it is not ready", async || {
        sends().await.refused(503, "unavailable");
        ready(&server).await == (503, NO_CHANGE.to_owned())
    })
    .await;
    runs(&mut other, "DROP TRIGGER broken").await;
    sends().await.ok();
    assert_eq!(ready(&server).await, (200, "OK\n".to_owned()), "one success is enough");
}

#[tokio::test]
async fn a_server_on_a_nearly_full_disk_is_ready_and_says_so() {
    let place = Workplace::new();
    // A reserve larger than any disk.
    let reserve = [("CHATSERVER_LIMITS__DISK_RESERVE_BYTES", "1000000000000000")];
    let server = place.serves(&reserve).await;
    let body = "storage_full: what grows the data is refused\n";
    assert_eq!(ready(&server).await, (200, body.to_owned()));
}

#[tokio::test]
async fn asking_leaves_nothing_behind_and_writes_now_and_then_alone() {
    let world = World::start().await;
    let options = SqliteConnectOptions::new().filename(world.database());
    let mut database = options.connect().await.unwrap();
    runs(&mut database, "CREATE TABLE probes (nth INTEGER PRIMARY KEY)").await;
    runs(
        &mut database,
        "CREATE TRIGGER counts AFTER DELETE ON replays BEGIN INSERT INTO probes VALUES (NULL); END",
    )
    .await;
    for _ in 0..200 {
        let ready = reqwest::get(format!("http://{}/readyz", world.address)).await.unwrap();
        assert_eq!(ready.status(), 200);
    }
    let mut count = async |statement: &'static str| {
        sqlx::query_scalar::<_, i64>(statement).fetch_one(&mut database).await.unwrap()
    };
    let probes = count("SELECT count(*) FROM probes").await;
    assert!((1..20).contains(&probes), "{probes} probes");
    assert_eq!(count("SELECT count(*) FROM replays").await, 0);
}
