//! Which message an ID means. The database has hashes of them: of most in a table, of the youngest in their conversation.

use serde_json::json;
use sha2::{Digest as _, Sha256};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};
use uuid::Uuid;

use crate::world::{Person, World, message_with_id};

/// What stands for an ID of a message in the database.
pub fn hash(id: &str) -> i64 {
    let hash: [u8; 32] = Sha256::digest(id).into();
    i64::from_be_bytes(*hash.first_chunk().unwrap())
}

/// Has a person send `count` messages, half of them with a UUID as ID.
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
async fn an_id_is_found_however_many_came_after_it() {
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
}

#[tokio::test]
async fn a_hash_alone_decides_nothing() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut ids = sends_many(&world, &alice, 40).await;
    // As if messages had IDs with the hashes of these.
    let options = SqliteConnectOptions::new().filename(world.database());
    let mut database: SqliteConnection = options.connect().await.unwrap();
    for seq in 1..=3 {
        let listed =
            sqlx::query("INSERT INTO message_ids SELECT generation, $1, $2 FROM conversations");
        let listed = listed.bind(hash("like-the-first-ones")).bind(seq);
        listed.execute(&mut database).await.unwrap();
    }
    let young = hash("like-a-young-one").to_be_bytes();
    let young =
        sqlx::query("UPDATE conversations SET young = CAST($1 || substr(young, 9) AS BLOB)")
            .bind(&young[..]);
    young.execute(&mut database).await.unwrap();

    for id in ["like-the-first-ones", "like-a-young-one"] {
        let from = json!({ "firstmessageid": id });
        assert_eq!(alice.does("download", from.clone()).await.message_ids(), ids, "it is unknown");
        bob.reports_as("viewed", &[id]).await.ok();
        let message = message_with_id(id, "new", &world.clock.date());
        alice.adds(&message).await.ok();
        bob.adds(&message).await.refused(409, "message_conflict");
        assert_eq!(alice.does("download", from).await.message_ids(), [id]);
        ids.push(id.to_owned());
    }
    assert_eq!(bob.reads().await[40..], ["new", "new"]);
    let told = alice.told().await;
    assert!(told.iter().all(|(kind, _)| kind == "delivered"), "{told:?}");
}
