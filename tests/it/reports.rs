//! Reports: receipts that tell a sender what became of a message.

mod asked;
mod clearing;
mod made;
mod pages;
mod random;
mod whole;

use chatserver::domain::{Parse as _, Timestamp};
use serde_json::{Value, json};

use crate::harness::database::hash;
use crate::harness::person::{Person, Prepared};
use crate::harness::world::World;

fn delivered(id: &str) -> (String, String) {
    ("delivered".to_owned(), id.to_owned())
}

fn viewed(id: &str) -> (String, String) {
    ("viewed".to_owned(), id.to_owned())
}

/// Returns the ID of a report as conversation objects name it: without hyphens.
fn bare(report: &Value) -> String {
    report["ID"].as_str().unwrap().replace('-', "")
}

/// Asserts that the database has this many reports, with consecutive row keys.
async fn stand_in_line(world: &World, reports: i64) {
    let gaps = "SELECT count(*) - (max(place) - min(place) + 1) FROM reports";
    assert_eq!(world.number("SELECT count(*) FROM reports").await, reports);
    assert_eq!(world.number(gaps).await, 0);
    assert_eq!(world.number("SELECT max(next_report_seq) FROM conversations").await, reports + 1);
}

/// Inserts messages `m-1`, `m-2` and so on of this sender into the database directly.
async fn fill(world: &World, sender: &Person, messages: i64) {
    let mut database = world.opens_database().await;
    let insert = sqlx::query(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < $3)
         INSERT INTO messages
         SELECT (c.generation << 32) + n, 'm-' || n, u.number, NULL, $4, '', $4, 'QUJD', n
         FROM conversations c, users u, numbers WHERE c.id = $1 AND u.id = $2",
    );
    let now = Timestamp::parse(&world.clock.date()).unwrap().unix();
    let insert = insert.bind(&sender.conversation).bind(sender.user.as_str()).bind(messages);
    insert.bind(now).execute(database.connection()).await.unwrap();
    let hashes: Vec<_> = (1..=messages).map(|n| (n, hash(&format!("m-{n}")))).collect();
    let list = sqlx::query(
        "INSERT INTO message_ids SELECT c.generation, value ->> 1, value ->> 0
         FROM conversations c, json_each($2) WHERE c.id = $1",
    );
    let list = list.bind(&sender.conversation).bind(json!(hashes).to_string());
    list.execute(database.connection()).await.unwrap();
    let advance = sqlx::query(
        "UPDATE conversations
         SET next_seq = $2 + 1, last_message_id = 'm-' || $2, last_access = $3, max_accepted_at = $3,
             longest_data = 4
         WHERE id = $1",
    );
    let advance = advance.bind(&sender.conversation).bind(messages).bind(now);
    advance.execute(database.connection()).await.unwrap();
}

/// Waits until whatever was queued has been written: sends a replay, which goes through the queue and writes nothing.
async fn whatever_was_queued_is_written(earlier: &Prepared) {
    earlier.sent().await.refused(409, "replayed");
}

/// Returns the number of the newest change of the conversation for this person, and the hash of the station that made
/// it.
async fn noted(world: &World, person: &Person) -> (i64, i64) {
    let note = "SELECT x.number, x.station FROM changes x
                JOIN users u ON u.number = x.user_number
                JOIN conversations c ON c.number = x.subject
                WHERE u.id = $1 AND x.kind = 1 AND c.id = $2";
    let note = sqlx::query_as(note).bind(person.user.as_str()).bind(&person.conversation);
    note.fetch_one(world.opens_database().await.connection()).await.unwrap()
}
