//! Copies between SQLite and PostgreSQL: everything comes along, and nothing opens the target before it is complete.

mod refused;

use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::database::Database;
use crate::harness::friends::id_of;
use crate::harness::person::Person;
use crate::harness::postgres::{PASSWORD, PostgresDatabase, USER};
use crate::harness::process::{Process, Workplace, free_address};
use crate::harness::random::setting;
use crate::harness::reports::settled;
use crate::harness::world::until;

/// Returns the URL of a file in the folder of a test.
fn url_of(place: &Workplace, name: &str) -> String {
    format!("sqlite://{}", place.path().join(name).display())
}

/// Copies and returns what the command tells.
#[track_caller]
fn copies(place: &Workplace, from: &str, to: &str) -> Value {
    place.tells(&["copy", "--from", from, "--to", to])
}

/// Starts the server of a person again, on the database at this URL.
async fn serves(place: &Workplace, person: &Person, url: &str) -> Process {
    place.starts_at(person.address(), &["serve"], &[("CHATSERVER_DATABASE__URL", url)]).await
}

/// People with something in every table.
struct People {
    alice: Person,
    bob: Person,
    carol: Person,
    dora: Person,
}

impl People {
    async fn meet(place: &Workplace, server: &Process) -> Self {
        let (alice, bob) = place.alice_and_bob(server);
        let (mut with_carol, mut carol) = (alice.clone(), place.adds(server, "Carol"));
        place.befriends(&mut with_carol, &mut carol);
        let dora = place.adds(server, "Dora");
        bob.is_notified().await;
        carol.sends("gone").await;
        carol.clears().await.ok();
        carol.sends("line\nbreak, tab\tand \\ backslash").await;
        let read = alice.sends("hello").await;
        bob.reports_as("viewed", &[read]).await.ok();
        for n in 0..5 {
            bob.sends(&format!("message {n}")).await;
        }
        settled(&alice, &bob).await;
        dora.wants("bob@example.com").await.ok();
        alice.blocks(carol.user.as_str()).await.ok();
        alice.registers("alice.example.com").await.ok();
        place.tells(&["user", "disable", &dora.email]);
        Self { alice, bob, carol, dora }
    }

    /// Returns everything that the people are told, byte for byte, and of which conversations and lists Bob's device has
    /// yet to be told. A server that has just started does not know yet who is there.
    async fn views(&self) -> (Vec<String>, [Vec<String>; 2]) {
        let mut views = Vec::new();
        for person in [&self.alice, &self.bob, &self.carol] {
            views.extend(person.sees_friends_and_requests().await);
            views.push(person.does("download", json!({})).await.text);
            views.push(person.asks_blocklist("blocklist", &json!({})).await.text);
        }
        self.dora.logs_in().await.refused(401, "invalid_credentials");
        let pending = self.bob.polls(0).await;
        (views, [pending.conversations, pending.lists])
    }

    /// Talks on, which takes new numbers.
    async fn go_on(&self, place: &Workplace, url: &str) {
        let before = self.alice.reads().await.len();
        self.alice.sends("further").await;
        assert_eq!(self.bob.reads().await.len(), before + 1);
        self.bob.clears().await.ok();
        self.bob.sends("anew").await;
        assert_eq!(self.alice.reads().await, ["anew"]);
        let email = "erin@example.com";
        place.tells(&["user", "add", email, "--nick", "Erin", "--database-url", url]);
        place.tells(&["friend", "add", email, &self.bob.email, "--database-url", url]);
        assert!(self.bob.friends().await.get(id_of(email)).is_some());
    }
}

#[tokio::test]
async fn a_copy_to_postgresql_and_back_answers_as_the_original() {
    let Some(database) = PostgresDatabase::empty() else { return };
    let place = Workplace::with_key_file();
    let server = place.serves(&[]).await;
    let people = People::meet(&place, &server).await;
    let expected = people.views().await;
    assert!(expected.1.iter().all(|pending| !pending.is_empty()), "{:?}", expected.1);
    server.stops(&place).await;
    let (from, back) = (url_of(&place, "chatserver.db"), url_of(&place, "back.db"));
    let there = copies(&place, &from, &database.url());
    assert_eq!(there["copied"], there["rows"]);
    for table in [
        "users",
        "friends",
        "stations",
        "friend_requests",
        "blocks",
        "workspaces",
        "conversations",
        "participants",
        "messages",
        "reports",
        "replays",
        "change_numbers",
        "changes",
        "message_ids",
        "epoch",
    ] {
        assert_ne!(there["tables"][table]["rows"], 0, "{table}: {there}");
    }
    let here = copies(&place, &database.url(), &back);
    assert_eq!(here["tables"], there["tables"]);
    for url in [&database.url(), &back] {
        let server = serves(&place, &people.alice, url).await;
        let (views, pending) = people.views().await;
        for (view, expected) in views.iter().zip(&expected.0) {
            assert_eq!(view, expected, "{url}");
        }
        assert_eq!(pending, expected.1, "{url}");
        people.go_on(&place, url).await;
        server.stops(&place).await;
    }
}

#[tokio::test]
async fn a_copy_between_databases_of_one_kind_has_the_same_rows() {
    let place = Workplace::with_key_file();
    let server = place.serves(&[]).await;
    People::meet(&place, &server).await;
    server.stops(&place).await;
    let (from, to) = (url_of(&place, "chatserver.db"), url_of(&place, "copy.db"));
    let first = copies(&place, &from, &to);
    assert_eq!(
        place.tells(&["user", "list"]),
        place.tells(&["user", "list", "--database-url", &to])
    );
    let again = copies(&place, &to, &url_of(&place, "again.db"));
    assert_eq!(again["tables"], first["tables"]);
    let (Some(one), Some(other)) = (PostgresDatabase::empty(), PostgresDatabase::migrated()) else {
        return;
    };
    copies(&place, &from, &one.url());
    assert_eq!(copies(&place, &one.url(), &other.url())["tables"], first["tables"]);
}

#[tokio::test]
async fn a_killed_copy_is_refused_until_it_is_finished() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let place = Workplace::with_key_file();
    let server = place.serves(&[]).await;
    People::meet(&place, &server).await;
    server.stops(&place).await;
    let messages = place.opens_database().await.counts("messages").await;
    let (from, to) = (url_of(&place, "chatserver.db"), database.url());
    // The copy waits in the middle.
    let mut reader = Database::Server(database.connects().await);
    reader.runs("BEGIN; LOCK TABLE reports IN EXCLUSIVE MODE").await;
    let mut command = place.command(&["copy", "--from", &from, "--to", &to]);
    command.stderr(Stdio::null());
    let copy = Process::of(command, free_address());
    let copied = "SELECT count(*) FROM messages";
    until("the messages are there", async || database.number(copied).await == messages).await;
    copy.dies().await;
    // PostgreSQL notices the end of a session when it is its turn.
    reader.closes().await;
    refused::is_unfinished(&place, &to);
    let finished = copies(&place, &from, &to);
    assert!(finished["copied"].as_i64() < finished["rows"].as_i64(), "{finished}");
    place.tells(&["user", "list", "--database-url", &to]);
}

/// A shell that had the file open before the copy took the lock can write to it.
#[tokio::test]
async fn a_copy_of_a_file_that_changes_meanwhile_does_not_finish() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let place = Workplace::with_key_file();
    let server = place.serves(&[]).await;
    People::meet(&place, &server).await;
    server.stops(&place).await;
    let mut shell = place.opens_database().await;
    let messages = shell.counts("messages").await;
    let (from, to) = (url_of(&place, "chatserver.db"), database.url());
    let mut reader = Database::Server(database.connects().await);
    reader.runs("BEGIN; LOCK TABLE reports IN EXCLUSIVE MODE").await;
    let mut command = place.command(&["copy", "--from", &from, "--to", &to, "--json"]);
    let copy = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let copied = "SELECT count(*) FROM messages";
    until("the messages are there", async || database.number(copied).await == messages).await;
    shell.runs("UPDATE users SET nick = 'Bobby' WHERE email = 'bob@example.com'").await;
    reader.closes().await;
    let output = tokio::task::spawn_blocking(|| copy.wait_with_output().unwrap()).await.unwrap();
    let refusal = String::from_utf8(output.stderr).unwrap();
    assert!(refusal.contains("in_use") && refusal.contains("has changed"), "{refusal}");
    refused::is_unfinished(&place, &to);
}

/// Has people meet on a server that stops then, and makes a target that a copy can't fill. Returns the URLs of both, and
/// the target.
async fn onto_a_target_that_refuses_reports(place: &Workplace) -> (String, String, Database) {
    let server = place.serves(&[]).await;
    People::meet(place, &server).await;
    server.stops(place).await;
    let (from, to) = (url_of(place, "chatserver.db"), url_of(place, "copy.db"));
    place.tells(&["migrate", "--database-url", &to]);
    let mut target = Database::opens(&place.path().join("copy.db")).await;
    target.refuses("reports").await;
    (from, to, target)
}

#[tokio::test]
async fn a_copy_that_was_changed_meanwhile_does_not_finish() {
    let place = Workplace::with_key_file();
    let (from, to, mut target) = onto_a_target_that_refuses_reports(&place).await;
    let copy = ["copy", "--from", &from, "--to", &to];
    let refusal = place.fails(&copy);
    assert!(refusal.contains("--to: ") && refusal.contains("refused"), "{refusal}");
    refused::is_unfinished(&place, &to);
    let backup = place.fails(&["backup", "unfinished.db", "--database-url", &to]);
    assert!(backup.contains("unfinished copy"), "{backup}");
    target.takes("reports").await;
    target.runs("UPDATE users SET nick = nick || '!' WHERE email LIKE 'bob@%'").await;
    target.runs("DELETE FROM blocks").await;
    // A copy goes on behind the greatest key of each table, so it misses no row at the end of a table.
    target.runs("DELETE FROM message_ids").await;
    let first = "SELECT user_id, friend_id FROM friends ORDER BY user_id, friend_id LIMIT 1";
    target.runs(&format!("DELETE FROM friends WHERE (user_id, friend_id) = ({first})")).await;
    target.closes().await;
    let differs = place.fails(&[&copy[..], &["--json"]].concat());
    for part in ["copy_differs", "users (values)", "friends (3 rows for 4)"] {
        assert!(differs.contains(part), "{differs}");
    }
    assert!(!differs.contains("blocks") && !differs.contains("message_ids"), "{differs}");
    refused::is_unfinished(&place, &to);
}

#[tokio::test]
async fn the_password_of_the_settings_is_used_where_a_url_has_none() {
    let Some(database) = PostgresDatabase::empty() else { return };
    database.runs(&format!("ALTER DATABASE {} OWNER TO {USER}", database.name));
    let place = Workplace::with_key_file();
    place.tells(&["migrate"]);
    let (from, to) =
        (url_of(&place, "chatserver.db"), database.url_of(USER, "127.0.0.1", "sslmode=disable"));
    for (from, to) in [(&from, &to), (&to, &url_of(&place, "back.db"))] {
        let password = [("CHATSERVER_DATABASE__PASSWORD", PASSWORD)];
        let output = place.runs_with(&["copy", "--from", from, "--to", to], "", &password);
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!said.contains(PASSWORD), "{said}");
        for part in ["copied 2 of 2 rows\n", "verified 2 of 2 rows\n", "2 rows in 19 tables"] {
            assert!(said.contains(part), "{said}");
        }
    }
}

/// Adds this number of messages with their IDs, and a receipt for each tenth.
const MANY: &str = "
    CREATE TABLE many AS WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {messages})
        SELECT n, lower(hex(randomblob(16))) AS id FROM n;
    INSERT INTO messages (place, id, sender_number, created, valid_until, accepted_at, data, nth)
        SELECT ((1 + n / 1000) << 32) + n % 1000, id, 1, 1700000000 + n, '2099-01-01 00:00:00', 1700000000 + n,
               hex(randomblob(100)), n FROM many;
    INSERT INTO message_ids (generation, hash, seq) SELECT 1 + n / 1000, random(), n % 1000 FROM many;
    INSERT INTO reports (place, id, type, created, message_place, user_id)
        SELECT ((1 + n / 1000) << 32) + n % 1000, id, 'viewed', '2024-01-01 00:00:00', n, 'someone' FROM many
        WHERE n % 10 = 0;
    DROP TABLE many";

/// With `CHATSERVER_COPY_MESSAGES=1000000` this is the copy of a million.
#[tokio::test]
async fn a_copy_of_many_rows_goes_in_many_chunks() {
    let Some(database) = PostgresDatabase::empty() else { return };
    let place = Workplace::with_key_file();
    place.tells(&["migrate"]);
    let messages = setting("CHATSERVER_COPY_MESSAGES", 30_000);
    let mut source = place.opens_database().await;
    source.runs(&MANY.replace("{messages}", &messages.to_string())).await;
    source.closes().await;
    let back = url_of(&place, "back.db");
    let there = copies(&place, &url_of(&place, "chatserver.db"), &database.url());
    let here = copies(&place, &database.url(), &back);
    assert_eq!(there["tables"]["messages"]["rows"], messages);
    assert_eq!(here["tables"], there["tables"]);
}
