//! The index from message IDs to messages. It holds hashes: of most IDs in a table, of the most recent in the row of
//! their conversation.

use serde_json::json;
use sha2::{Digest as _, Sha256};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};
use uuid::Uuid;

use crate::world::{Person, World, message_with_id};

/// Returns the hash that the index stores for a message ID.
pub fn hash(id: &str) -> i64 {
    let hash: [u8; 32] = Sha256::digest(id).into();
    i64::from_be_bytes(*hash.first_chunk().unwrap())
}

/// Asserts that the index has each message of the current generations: in the table for whole runs of 32, in the row of
/// the conversation for the rest.
pub async fn all_are_kept(database: &mut SqliteConnection) {
    let conversations = "SELECT generation, next_seq, young FROM conversations";
    let conversations: Vec<(i64, i64, Vec<u8>)> =
        sqlx::query_as(conversations).fetch_all(&mut *database).await.unwrap();
    for (generation, next_seq, young) in conversations {
        let ids = "SELECT id FROM messages WHERE place >> 32 = $1 ORDER BY place";
        let ids: Vec<String> =
            sqlx::query_scalar(ids).bind(generation).fetch_all(&mut *database).await.unwrap();
        assert_eq!(i64::try_from(ids.len()).unwrap(), next_seq - 1);
        let listed = "SELECT hash, seq FROM message_ids WHERE generation = $1 ORDER BY seq";
        let listed: Vec<(i64, i64)> =
            sqlx::query_as(listed).bind(generation).fetch_all(&mut *database).await.unwrap();
        let (whole, rest) = ids.split_at(ids.len() / 32 * 32);
        let whole: Vec<_> = whole.iter().map(|id| hash(id)).zip(1..).collect();
        let rest: Vec<_> = rest.iter().flat_map(|id| hash(id).to_be_bytes()).collect();
        assert_eq!((listed, young), (whole, rest), "of {} messages", ids.len());
    }
}

/// Opens the database of this world.
pub async fn database(world: &World) -> SqliteConnection {
    SqliteConnectOptions::new().filename(world.database()).connect().await.unwrap()
}

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
    all_are_kept(&mut database(&world).await).await;
}

#[tokio::test]
async fn what_an_older_server_has_begun_is_begun() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    sends_many(&world, &alice, 20).await;
    alice.clears().await;
    // An older server leaves hashes of cleared messages in `young`, which it does not know.
    let mut database = database(&world).await;
    let left = "UPDATE conversations SET young = CAST(zeroblob(160) AS BLOB)";
    sqlx::query(left).execute(&mut database).await.unwrap();
    sends_many(&world, &alice, 40).await;
    all_are_kept(&mut database).await;
}

#[tokio::test]
async fn a_hash_alone_decides_nothing() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut ids = sends_many(&world, &alice, 40).await;
    // Inserts index entries as if existing messages had IDs with these hashes.
    let mut database = database(&world).await;
    for seq in 2..=4 {
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
