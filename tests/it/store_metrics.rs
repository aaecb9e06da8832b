//! Observability of the store: metrics, and log lines when changes fail.

use std::error::Error as _;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::str::FromStr;

use chatserver::error::Error;
use chatserver::store;
use futures_util::future::join_all;
use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use crate::binary::{Process, Workplace, free_address};
use crate::durability::failing_disk;
use crate::world::{message, message_with_id, until};

/// Starts a server with metrics at a separate address.
pub async fn serves_metrics(place: &Workplace) -> (Process, SocketAddr) {
    let metrics = free_address();
    let listen = metrics.to_string();
    (place.serves(&[("CHATSERVER_HTTP__METRICS_LISTEN", listen.as_str())]).await, metrics)
}

async fn scrape(metrics: SocketAddr) -> String {
    reqwest::get(format!("http://{metrics}/metrics")).await.unwrap().text().await.unwrap()
}

/// Returns the value of a metric. `name` includes its labels.
async fn value<T: FromStr<Err: Debug>>(metrics: SocketAddr, name: &str) -> T {
    let text = scrape(metrics).await;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
}

/// Returns the age of the oldest queued change, in seconds.
pub async fn oldest_change(metrics: SocketAddr) -> f64 {
    value(metrics, "chatserver_store_oldest_change_seconds").await
}

/// Opens a connection that holds the write lock until it is closed, as another program would.
async fn holds_the_lock(place: &Workplace) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(place.path().join("chatserver.db"));
    let mut other = options.connect().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    other
}

#[tokio::test]
async fn sizes_the_build_and_the_process_are_measured() {
    let place = Workplace::new();
    let (server, metrics) = serves_metrics(&place).await;
    let (alice, _bob) = place.alice_and_bob(&server);
    alice.sends("hi").await;
    let file = |name: &str| std::fs::metadata(place.path().join(name)).unwrap().len();
    let value = async |name: &str| value::<u64>(metrics, name).await;
    until("the sizes are those of the files", async || {
        value("chatserver_store_database_bytes").await == file("chatserver.db")
            && value("chatserver_store_log_bytes").await == file("chatserver.db-wal")
    })
    .await;
    assert!(value("chatserver_store_free_bytes").await > 0);
    assert_eq!(value("chatserver_store_is_full").await, 0);
    let build = format!("chatserver_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(value(&build).await, 1);
    for name in ["process_resident_memory_bytes", "process_open_fds", "process_threads"] {
        assert!(value(name).await > 0, "{name}");
    }
}

#[tokio::test]
async fn a_held_lock_makes_the_oldest_change_old_and_no_read_wait() {
    let place = Workplace::new();
    let (server, metrics) = serves_metrics(&place).await;
    let (alice, bob) = place.alice_and_bob(&server);
    alice.sends("before").await;
    bob.reads().await;
    let oldest = async || oldest_change(metrics).await;
    let other = holds_the_lock(&place).await;
    let add = message("meanwhile", &alice.date());
    let (changed, ()) = tokio::join!(alice.adds(&add), async {
        until("the change waits", async || oldest().await > 0.5).await;
        assert_eq!(bob.reads().await, ["before"]);
        bob.lists().await;
        bob.friends().await;
        bob.reports().await;
        bob.requests().await;
        bob.asks_blocklist("blocklist", &json!({})).await.ok();
        bob.logs_in().await.ok();
        assert!(oldest().await > 0.5, "the lock is still held");
        other.close().await.unwrap();
    });
    changed.ok();
    until("no change waits", async || oldest().await == 0.0).await;
    assert_eq!(bob.reads().await, ["before", "meanwhile"]);
}

#[tokio::test]
async fn a_checkpoint_that_hangs_makes_the_oldest_change_old() {
    let (tools, place, metrics) = (Workplace::new(), Workplace::new(), free_address());
    let (library, listen) = (failing_disk(tools.path()), metrics.to_string());
    let preload = ("LD_PRELOAD", library.to_str().unwrap());
    let server =
        place.serves(&[preload, ("CHATSERVER_HTTP__METRICS_LISTEN", listen.as_str())]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    alice.sends("before").await;
    let held = place.path().join("held-cut");
    std::fs::write(&held, "").unwrap();
    // Clearing truncates the write-ahead log too, which now hangs.
    alice.clears().await.ok();
    let sends = async {
        while held.exists() {
            alice.sends("meanwhile").await;
        }
    };
    let release = async {
        until("the change waits", async || oldest_change(metrics).await > 0.5).await;
        std::fs::remove_file(&held).unwrap();
    };
    tokio::join!(sends, release);
    until("no change waits", async || oldest_change(metrics).await == 0.0).await;
    assert!(!bob.reads().await.is_empty());
}

#[tokio::test]
async fn a_failed_batch_and_its_failed_changes_name_their_cause() {
    let place = Workplace::new();
    let (server, metrics) = serves_metrics(&place).await;
    let (alice, bob) = place.alice_and_bob(&server);
    alice.sends("before").await;
    let mut other = holds_the_lock(&place).await;
    let poison = "CREATE TRIGGER poison BEFORE INSERT ON messages WHEN new.id = 'poison'
                  BEGIN SELECT raise(ABORT, 'a disk that is no good'); END";
    sqlx::raw_sql(poison).execute(&mut other).await.unwrap();
    let sends = |id: &str| {
        let (alice, add) = (alice.clone(), message_with_id(id, id, &alice.date()));
        async move { alice.adds(&add).await.status.as_u16() }
    };
    let depth = async || value::<u64>(metrics, "chatserver_store_queue_depth").await;
    let together = async {
        until("the first one is with the writer", async || oldest_change(metrics).await > 0.0)
            .await;
        join_all([sends("poison"), sends("two")]).await
    };
    let release = async {
        until("the others wait", async || depth().await == 2).await;
        sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    };
    let (first, others, ()) = tokio::join!(sends("one"), together, release);
    assert_eq!((first, others), (200, vec![503, 200]));
    let failed = "chatserver_store_failed_changes_total{cause=\"constraint\"}";
    assert_eq!(value::<u64>(metrics, failed).await, 1);
    let log = place.log();
    let line = log.lines().find(|line| line.contains("batch failed")).expect(&log);
    assert!(line.contains("cause=\"constraint\"") && line.contains("no good"), "{line}");
    assert_eq!(bob.reads().await, ["before", "one", "two"]);
}

#[test]
fn a_full_queue_and_a_full_disk_are_no_failures_of_the_store() {
    let refused = [
        (store::Error::QueueFull, "unavailable"),
        (store::Error::StorageFull { free: 1, reserve: 2 }, "storage_full"),
    ];
    for (error, code) in refused {
        let error = Error::from(error);
        assert_eq!(error.code(), code);
        assert!(error.source().is_none(), "an ERROR line for each request: {error:?}");
    }
}
