//! Reports: receipts that tell a sender what became of a message.

mod asked;
mod clearing;
mod made;
mod pages;
mod random;
mod whole;

use chatserver::domain::{Parse as _, Timestamp};
use serde_json::Value;

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
    let (conversation, user) = (&sender.conversation, sender.user);
    let now = Timestamp::parse(&world.clock.date()).unwrap().unix();
    let hashes = (1..=messages).map(|n| format!("({}, {n})", hash(&format!("m-{n}"))));
    let hashes = hashes.collect::<Vec<_>>().join(", ");
    database
        .runs(&format!(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {messages})
             INSERT INTO messages
             SELECT (c.generation << 32) + n, 'm-' || n, u.number, NULL, {now}, '', {now}, 'QUJD', n
             FROM conversations c, users u, numbers WHERE c.id = '{conversation}' AND u.id = '{user}';
             INSERT INTO message_ids SELECT c.generation, column1, column2
             FROM conversations c, (VALUES {hashes}) AS listed WHERE c.id = '{conversation}';
             UPDATE conversations
             SET next_seq = {messages} + 1, last_message_id = 'm-{messages}', last_access = {now},
                 max_accepted_at = {now}, longest_data = 4
             WHERE id = '{conversation}'"
        ))
        .await;
}

/// Waits until whatever was queued has been written: sends a replay, which goes through the queue and writes nothing.
async fn whatever_was_queued_is_written(earlier: &Prepared) {
    earlier.sent().await.refused(409, "replayed");
}

/// Returns the number of the newest change of the conversation for this person, and the hash of the station that made
/// it.
async fn noted(world: &World, person: &Person) -> (i64, i64) {
    let note = format!(
        "SELECT x.number, x.station FROM changes x
         JOIN users u ON u.number = x.user_number
         JOIN conversations c ON c.number = x.subject
         WHERE u.id = '{}' AND x.kind = 1 AND c.id = '{}'",
        person.user, person.conversation
    );
    world.opens_database().await.rows(&note).await[0]
}
