//! `/readyz`: 503 soon after changes fail, and 200 again when they succeed.

use crate::harness::person::message;
use crate::harness::process::Workplace;
use crate::harness::world::{World, until};

const NO_CHANGE: &str = "no change can be made\n";

#[tokio::test]
async fn a_server_whose_database_is_locked_is_not_ready() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    assert!(alice.reads().await.is_empty());
    let mut other = place.opens_database().await;
    other.locks().await;
    until("it is not ready", async || server.gets("/readyz").await == (503, NO_CHANGE.to_owned()))
        .await;
    assert!(alice.reads().await.is_empty(), "reads go on");
    other.unlocks().await;
    until("it is ready again", async || server.gets("/readyz").await == (200, "OK\n".to_owned()))
        .await;
    alice.sends("hello").await;
    assert_eq!(bob.reads().await, ["hello"]);
}

#[tokio::test]
async fn a_server_without_one_of_its_tables_is_not_ready() {
    for table in ["messages", "replays", "changes"] {
        let place = Workplace::new();
        let server = place.serves(&[]).await;
        place.opens_database().await.runs(&format!("DROP TABLE {table}")).await;
        until("it is not ready", async || {
            server.gets("/readyz").await == (503, NO_CHANGE.to_owned())
        })
        .await;
        place.logs("the store is not ready").await;
    }
}

#[tokio::test]
async fn a_server_all_of_whose_changes_fail_is_not_ready() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, _bob) = place.alice_and_bob(&server);
    let instance = alice.instance().await;
    let mut other = place.opens_database().await;
    other.refuses("messages").await;
    let sends =
        async || alice.prepares_add(&instance, &message("hello", &alice.date())).sent().await;
    until("it is not ready", async || {
        sends().await.refused(503, "unavailable");
        server.gets("/readyz").await == (503, NO_CHANGE.to_owned())
    })
    .await;
    other.takes("messages").await;
    sends().await.ok();
    assert_eq!(server.gets("/readyz").await, (200, "OK\n".to_owned()), "one success is enough");
}

#[tokio::test]
async fn a_server_on_a_nearly_full_disk_is_ready_with_a_note() {
    let place = Workplace::new();
    // A reserve larger than any disk.
    let reserve = [("CHATSERVER_LIMITS__DISK_RESERVE_BYTES", "1000000000000000")];
    let server = place.serves(&reserve).await;
    let body = "storage_full: what grows the data is refused\n";
    assert_eq!(server.gets("/readyz").await, (200, body.to_owned()));
}

#[tokio::test]
async fn readyz_leaves_nothing_behind_and_its_probes_are_rate_limited() {
    let world = World::start().await;
    let mut database = world.opens_database().await;
    database.runs("CREATE TABLE probes (nth INTEGER PRIMARY KEY)").await;
    database.runs(
        "CREATE TRIGGER counts AFTER DELETE ON replays BEGIN INSERT INTO probes VALUES (NULL); END",
    )
    .await;
    for _ in 0..200 {
        assert_eq!(world.gets("/readyz").await.0, 200);
    }
    let probes = database.counts("probes").await;
    assert!((1..20).contains(&probes), "{probes} probes");
    assert_eq!(database.counts("replays").await, 0);
}

#[tokio::test]
async fn the_command_health_tells_what_readyz_answers() {
    let place = Workplace::new();
    let mut server = place.serves(&[("CHATSERVER_HTTP__DRAIN_SECONDS", "3600")]).await;
    let asked_at = server.metrics_address().to_string();
    let health = |at: &str| {
        place.runs_with(&["health", "--json"], "", &[("CHATSERVER_HTTP__METRICS_LISTEN", at)])
    };
    let ready = health(&asked_at);
    assert!(ready.status.success(), "{ready:?}");
    assert_eq!(ready.stdout, b"{\"state\":\"OK\"}\n");
    server.signal("TERM");
    until("it drains", async || server.gets("/readyz").await.0 == 503).await;
    let refused = |at: &str, code: &str, sentence: &str| {
        let output = health(at);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(code) && said.contains(sentence), "{said}");
    };
    refused(&asked_at, "\"not_ready\"", "is not ready: stopping");
    server.signal("KILL");
    server.ended().await;
    refused(&asked_at, "\"unreachable\"", &format!("http.metrics_listen = {asked_at}: "));
    refused("", "\"invalid_settings\"", "http.metrics_listen is empty");
}
