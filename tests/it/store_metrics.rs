//! Observability of the store: metrics, and log lines when changes fail.

use std::error::Error as _;

use chatserver::error::Error;
use chatserver::store;
use futures_util::future::join_all;
use serde_json::json;

use crate::harness::disk::Disk;
use crate::harness::person::{message, message_with_id};
use crate::harness::process::Workplace;
use crate::harness::world::until;

#[tokio::test]
async fn metrics_show_sizes_build_and_process() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, _bob) = place.alice_and_bob(&server);
    alice.sends("hi").await;
    let file = |name: &str| std::fs::metadata(place.path().join(name)).unwrap().len();
    let value = async |name: &str| server.metric::<u64>(name).await;
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
async fn a_held_write_lock_ages_the_oldest_change_and_delays_no_read() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    alice.sends("before").await;
    bob.reads().await;
    let oldest = async || server.oldest_change().await;
    let mut other = place.opens_database().await;
    other.locks().await;
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
        other.closes().await;
    });
    changed.ok();
    until("no change waits", async || oldest().await == 0.0).await;
    assert_eq!(bob.reads().await, ["before", "meanwhile"]);
}

#[tokio::test]
async fn a_hanging_checkpoint_ages_the_oldest_change() {
    let (disk, place) = (Disk::failing(), Workplace::new());
    let server = place.serves(&[disk.preload()]).await;
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
        until("the change waits", async || server.oldest_change().await > 0.5).await;
        std::fs::remove_file(&held).unwrap();
    };
    tokio::join!(sends, release);
    until("no change waits", async || server.oldest_change().await == 0.0).await;
    assert!(!bob.reads().await.is_empty());
}

#[tokio::test]
async fn failed_batches_and_changes_are_reported_with_their_cause() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    alice.sends("before").await;
    let mut other = place.opens_database().await;
    other.locks().await;
    let poison = "CREATE TRIGGER poison BEFORE INSERT ON messages WHEN new.id = 'poison'
                  BEGIN SELECT raise(ABORT, 'a disk that is no good'); END";
    other.runs(poison).await;
    let sends = |id: &str| {
        let (alice, add) = (alice.clone(), message_with_id(id, id, &alice.date()));
        async move { alice.adds(&add).await.status.as_u16() }
    };
    let depth = async || server.metric::<u64>("chatserver_store_queue_depth").await;
    let together = async {
        until("the first one is with the writer", async || server.oldest_change().await > 0.0)
            .await;
        join_all([sends("poison"), sends("two")]).await
    };
    let release = async {
        until("the others wait", async || depth().await == 2).await;
        other.runs("COMMIT").await;
    };
    let (first, others, ()) = tokio::join!(sends("one"), together, release);
    assert_eq!((first, others), (200, vec![503, 200]));
    let failed = "chatserver_store_failed_changes_total{cause=\"constraint\"}";
    assert_eq!(server.metric::<u64>(failed).await, 1);
    // A thread of its own writes the log.
    place.logs("batch failed").await;
    let log = place.log();
    let line = log.lines().find(|line| line.contains("batch failed")).unwrap();
    assert!(line.contains("cause=\"constraint\"") && line.contains("no good"), "{line}");
    assert_eq!(bob.reads().await, ["before", "one", "two"]);
}

#[test]
fn a_full_queue_and_a_full_disk_are_not_logged_as_store_failures() {
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
