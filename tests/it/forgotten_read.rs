//! A read transaction that another program, such as a `sqlite3` shell, never ends.

use chatserver::domain::{ConversationId, Instance, Message, MessageId, Parse as _, Timestamp};
use chatserver::store::AddMessage;

use crate::harness::database::Database;
use crate::harness::person::Person;
use crate::harness::world::{World, until};

const MEBIBYTE: usize = 1024 * 1024;

/// Adds a message of 2 MiB through the store, past the limits of HTTP.
async fn says_much(world: &World, sender: &Person, instance: Instance, n: usize) {
    let now = Timestamp::parse("2024-03-08 12:00:00").unwrap();
    let add = AddMessage {
        conversation: ConversationId::parse(&sender.conversation).unwrap(),
        sender: sender.user,
        station: None,
        instance,
        message: Message {
            id: MessageId::parse(&format!("m-{n}")).unwrap(),
            kind: "Message".to_owned(),
            created: now,
            valid_until: String::new(),
            data: "A".repeat(2 * MEBIBYTE),
        },
        now,
    };
    world.app().store.add_message(add).await.unwrap();
}

/// Returns the number of pages in the write-ahead log since it last restarted.
async fn pages_in_the_log(other: &mut Database) -> i64 {
    let checkpoint = sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)");
    let (_, pages, _): (i64, i64, i64) = checkpoint.fetch_one(other.connection()).await.unwrap();
    pages
}

#[tokio::test]
async fn the_log_restarts_once_a_forgotten_read_has_ended() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let instance = Instance::parse(&alice.instance().await).unwrap();
    let mut reader = world.opens_database().await;
    reader.holds_a_snapshot().await;
    // Exceed the bound of the log. The read keeps its pages from being checkpointed.
    for n in 0..45 {
        says_much(&world, &alice, instance, n).await;
    }
    let mut other = world.opens_database().await;
    let held = pages_in_the_log(&mut other).await;
    assert!(held > 80 * 256, "{held} pages");
    reader.closes().await;
    until("the log is begun anew", async || {
        alice.sends("and on").await;
        pages_in_the_log(&mut other).await < held / 10
    })
    .await;
    other.closes().await;
    assert_eq!(bob.sees().await["participantids"].as_array().unwrap().len(), 2);
}
