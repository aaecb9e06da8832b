//! Reports: receipts that tell a sender what became of a message.

mod asked;
mod clearing;
mod made;
mod pages;
mod random;
mod whole;

use chatserver::domain::{Parse as _, Timestamp};
use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, SqliteConnection};

use crate::message_ids::hash;
use crate::world::{Answer, Person, Prepared, World, until};

/// A date cursor that no entry reaches.
const NEVER: &str = "9999-01-01 00:00:00";

/// Waits until all messages are reported as delivered and returns all that both people can download, byte for byte.
/// After that nothing changes in the background.
pub async fn settled(one: &Person, other: &Person) -> String {
    let mut pages = String::new();
    until("everything is delivered", async || {
        let (mine, theirs) =
            (one.does("download", json!({})).await, other.does("download", json!({})).await);
        pages = mine.text.clone() + &theirs.text;
        let page = mine.ok();
        let reports = page["reports"].as_array().unwrap().iter();
        let delivered = reports.filter(|report| report["Type"] == "delivered").count();
        page.get("more").is_none() && page["messages"].as_array().unwrap().len() == delivered
    })
    .await;
    pages
}

impl Person {
    /// Returns all reports of this person's conversation, in as many pages as it takes.
    pub async fn reports(&self) -> Vec<Value> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let first = all.pop().map_or(json!(""), |last| last["ID"].clone());
            let cursors = json!({ "firstmessagedate": NEVER, "firstreportid": first });
            let page = self.does("download", cursors).await.ok();
            all.extend_from_slice(page["reports"].as_array().unwrap());
            if page.get("more").is_none() {
                return all;
            }
        }
    }

    /// Returns the type and the message ID of each report.
    pub async fn told(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let reports = self.reports().await;
        reports.iter().map(|report| (text(&report["Type"]), text(&report["MessageID"]))).collect()
    }

    /// Prepares a report of messages of the current instance.
    fn prepares_report<T: AsRef<str>>(&self, action: &str, messages: &[T]) -> Prepared {
        let messages: Vec<_> = messages.iter().map(AsRef::as_ref).collect();
        let fields = json!({ "conversationid": self.conversation, "messageids": messages });
        self.prepares("chatreports", action, &fields)
    }

    /// Reports messages of the current instance.
    pub async fn reports_as<T: AsRef<str>>(&self, action: &str, messages: &[T]) -> Answer {
        self.prepares_report(action, messages).sent().await
    }

    /// Returns the ID of the newest report, as the conversation object names it.
    async fn newest_report(&self) -> String {
        self.sees().await["lastreportid"].as_str().unwrap().to_owned()
    }
}

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

/// Opens the database behind the server's back.
async fn database(world: &World) -> SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(world.database());
    options.connect().await.unwrap()
}

/// Queries the database for one number.
async fn number(world: &World, question: &'static str) -> i64 {
    sqlx::query_scalar(question).fetch_one(&mut database(world).await).await.unwrap()
}

/// Asserts that the database has this many reports, with consecutive row keys.
async fn stand_in_line(world: &World, reports: i64) {
    let gaps = "SELECT count(*) - (max(place) - min(place) + 1) FROM reports";
    assert_eq!(number(world, "SELECT count(*) FROM reports").await, reports);
    assert_eq!(number(world, gaps).await, 0);
    assert_eq!(number(world, "SELECT max(next_report_seq) FROM conversations").await, reports + 1);
}

/// Inserts messages `m-1`, `m-2` and so on of this sender into the database directly.
async fn fill(world: &World, sender: &Person, messages: i64) {
    let mut database = database(world).await;
    let insert = sqlx::query(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < $3)
         INSERT INTO messages
         SELECT (c.generation << 32) + n, 'm-' || n, u.number, NULL, $4, '', $4, 'QUJD'
         FROM conversations c, users u, numbers WHERE c.id = $1 AND u.id = $2",
    );
    let now = Timestamp::parse(&world.clock.date()).unwrap().unix();
    let insert = insert.bind(&sender.conversation).bind(sender.user.as_str()).bind(messages);
    insert.bind(now).execute(&mut database).await.unwrap();
    // Hashes of whole runs of 32 belong in the table, the rest in the row of the conversation.
    let whole = messages / 32 * 32;
    let hashes: Vec<_> = (1..=whole).map(|n| (n, hash(&format!("m-{n}")))).collect();
    let list = sqlx::query(
        "INSERT INTO message_ids SELECT c.generation, value ->> 1, value ->> 0
         FROM conversations c, json_each($2) WHERE c.id = $1",
    );
    let list = list.bind(&sender.conversation).bind(json!(hashes).to_string());
    list.execute(&mut database).await.unwrap();
    let young = (whole + 1..=messages).flat_map(|n| hash(&format!("m-{n}")).to_be_bytes());
    let advance = sqlx::query(
        "UPDATE conversations
         SET next_seq = $2 + 1, last_message_id = 'm-' || $2, last_access = $3, max_accepted_at = $3,
             longest_data = 4, young = $4
         WHERE id = $1",
    );
    let advance = advance.bind(&sender.conversation).bind(messages).bind(now);
    let advance = advance.bind(young.collect::<Vec<u8>>());
    advance.execute(&mut database).await.unwrap();
}

/// Blocks or unblocks a person.
async fn blocks(one: &Person, other: &Person, is_blocked: bool) {
    let action = if is_blocked { "block" } else { "unblock" };
    one.asks_blocklist(action, &json!({ "userid": other.user.as_str() })).await.ok();
}

/// Waits until whatever was queued has been written: sends a replay, which goes through the queue and writes nothing.
async fn whatever_was_queued_is_written(earlier: &Prepared) {
    earlier.sent().await.refused(409, "replayed");
}

/// Marks all conversations as holding a message so large that a page may exceed its bound.
async fn weighs(world: &World) {
    let large = sqlx::query("UPDATE conversations SET longest_data = 1000000");
    large.execute(&mut database(world).await).await.unwrap();
}

/// Returns the number of the newest change of the conversation for this person, and the hash of the station that made
/// it.
async fn noted(world: &World, person: &Person) -> (i64, i64) {
    let note = "SELECT x.number, x.station FROM changes x
                JOIN users u ON u.number = x.user_number
                JOIN conversations c ON c.number = x.subject
                WHERE u.id = $1 AND x.kind = 1 AND c.id = $2";
    let note = sqlx::query_as(note).bind(person.user.as_str()).bind(&person.conversation);
    note.fetch_one(&mut database(world).await).await.unwrap()
}
