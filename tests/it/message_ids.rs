//! The table that finds a message by the hash of its ID.

use serde_json::json;
use uuid::Uuid;

use crate::harness::database::hash;
use crate::harness::person::{Person, message_with_id};
use crate::harness::world::World;

/// Sends `count` messages, half of them with a UUID as ID, and returns their IDs.
async fn sends_many(world: &World, person: &Person, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        let id = if n % 2 == 0 { Uuid::new_v4().to_string() } else { format!("m-{n}") };
        person.adds(&message_with_id(&id, "hi", &world.clock.date())).await.ok();
        ids.push(id);
    }
    ids
}

#[tokio::test]
async fn a_message_id_is_found_behind_any_number_of_later_ones() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let ids = sends_many(&world, &alice, 70).await;
    for (n, id) in ids.iter().enumerate() {
        alice.adds(&message_with_id(id, "hi", &world.clock.date())).await.ok();
        let other = message_with_id(id, "other", &world.clock.date());
        alice.adds(&other).await.refused(409, "message_conflict");
        let page = alice.does("download", json!({ "firstmessageid": id })).await;
        assert_eq!(page.message_ids(), ids[n..], "from {id} on");
        let page = alice.does("downloadpartial", json!({ "lastmessageid": id, "limit": 70 })).await;
        assert_eq!(page.message_ids(), ids[..n], "before {id}");
    }
    bob.reports_as("viewed", &ids).await.ok();
    let told = alice.told().await;
    let viewed = told.iter().filter(|(kind, _)| kind == "viewed").map(|(_, message)| message);
    assert_eq!(viewed.collect::<Vec<_>>(), ids.iter().collect::<Vec<_>>());
    world.opens_database().await.indexes_all_messages().await;
}

#[tokio::test]
async fn a_hash_collision_confuses_no_messages() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let ids = sends_many(&world, &alice, 40).await;
    // Inserts index entries as if existing messages had IDs with these hashes.
    let mut database = world.opens_database().await;
    for seq in 2..=4 {
        let listed =
            sqlx::query("INSERT INTO message_ids SELECT generation, $1, $2 FROM conversations");
        let listed = listed.bind(hash("like-the-first-ones")).bind(seq);
        listed.execute(database.connection()).await.unwrap();
    }

    let id = "like-the-first-ones";
    let from = json!({ "firstmessageid": id });
    assert_eq!(alice.does("download", from.clone()).await.message_ids(), ids, "it is unknown");
    bob.reports_as("viewed", &[id]).await.ok();
    let message = message_with_id(id, "new", &world.clock.date());
    alice.adds(&message).await.ok();
    bob.adds(&message).await.refused(409, "message_conflict");
    assert_eq!(alice.does("download", from).await.message_ids(), [id]);
    assert_eq!(bob.reads().await[40..], ["new"]);
    let told = alice.told().await;
    assert!(told.iter().all(|(kind, _)| kind == "delivered"), "{told:?}");
}
