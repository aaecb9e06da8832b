//! Nodes whose batches meet: they are made again, take turns, and refuse nothing.

use futures_util::future::{join, join_all};
use sqlx::{Connection as _, Executor as _};

use crate::harness::person::{Person, message};
use crate::harness::postgres::PostgresDatabase;
use crate::harness::world::{World, until};

/// Senders at each node, and messages that each sends, one after the other.
const SENDERS: usize = 16;
const MESSAGES: usize = 12;

/// Sends messages one by one, and returns their IDs.
async fn sends_all(person: &Person, instance: &str) -> Vec<String> {
    let mut sent = Vec::new();
    for n in 0..MESSAGES {
        let message = message(&n.to_string(), &person.date());
        person.prepares_add(instance, &message).sent().await.ok();
        sent.push(message["ID"].as_str().unwrap().to_owned());
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_that_write_one_conversation_at_once_refuse_nothing() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let settings = [("limits.requests_per_second", "0")];
    let one = World::on_postgres(database, &settings).await;
    let others = [one.beside(&settings).await.unwrap(), one.beside(&settings).await.unwrap()];
    let (alice, bob) = one.alice_and_bob().await;
    let instance = alice.instance().await;
    let senders: Vec<_> = [&one, &others[0], &others[1]]
        .iter()
        .flat_map(|node| (0..SENDERS / 2).flat_map(|_| [alice.moves_to(node), bob.moves_to(node)]))
        .collect();
    let sent = join_all(senders.iter().map(|sender| sends_all(sender, &instance))).await;
    let stored = one.server().texts("SELECT id FROM messages ORDER BY place").await;
    assert_eq!(stored.len(), senders.len() * MESSAGES);
    for sent in sent {
        let found: Vec<_> = stored.iter().filter(|id| sent.contains(id)).collect();
        assert_eq!(found, sent.iter().collect::<Vec<_>>(), "each once, in the sender's order");
    }
}

#[tokio::test]
async fn a_batch_that_meets_others_three_times_waits_for_its_turn() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let world = World::on_postgres(database, &[]).await;
    let (alice, bob) = world.alice_and_bob().await;
    // A sequence keeps what it counted when a transaction is rolled back.
    world.server().runs(
        "CREATE SEQUENCE meetings;
         CREATE FUNCTION meets() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('meetings') <= 3 THEN RAISE SQLSTATE '40001'; END IF;
             RETURN NULL;
         END $$;
         CREATE TRIGGER meets AFTER INSERT ON messages FOR EACH STATEMENT EXECUTE FUNCTION meets();",
    );
    let mut another = world.server().connects().await;
    let mut its_turn = another.begin().await.unwrap();
    its_turn.execute("LOCK TABLE epoch IN SHARE UPDATE EXCLUSIVE MODE").await.unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE relation = 'epoch'::regclass AND NOT granted";
    let turn = async {
        until("the batch waits", async || world.number(waits).await == 1).await;
        assert_eq!(world.number("SELECT last_value FROM meetings").await, 3);
        its_turn.commit().await.unwrap();
    };
    join(alice.sends("hello"), turn).await;
    assert_eq!(bob.reads().await, ["hello"]);
    assert_eq!(world.number("SELECT last_value FROM meetings").await, 4);
}
