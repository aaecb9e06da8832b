//! Several nodes on PostgreSQL: the upgrade from a version without sealing, and the key file on each machine.

use std::fs;
use std::sync::Arc;

use crate::harness::database::Database;
use crate::harness::person::Person;
use crate::harness::postgres::PostgresDatabase;
use crate::harness::process::{KEY_FILE, Process, Workplace};

/// Statement by which a node of the previous version reads a signing key.
const OLD_SIGNING_KEY: &str = "SELECT api_key FROM users WHERE NOT is_disabled ORDER BY email";

/// Makes the database one that nodes of the previous version have filled.
async fn is_of_an_earlier_version(database: &PostgresDatabase, people: &[&Person]) {
    let mut old = Database::Server(database.connects().await);
    for person in people {
        old.holds_in_clear(person.user.as_str(), person.api_key.as_str()).await;
    }
    old.runs("DELETE FROM sealing_keys").await;
}

#[tokio::test]
async fn nodes_of_the_previous_version_read_every_key_until_the_rotation() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let database = Arc::new(database);
    let (place, beside) =
        (Workplace::on(Arc::clone(&database)), Workplace::on(Arc::clone(&database)));
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let address = server.address;
    server.stops(&place).await;
    is_of_an_earlier_version(&database, &[&alice, &bob]).await;

    let server = place.starts_at(address, &["serve"], &[]).await;
    let other = beside.serves(&[]).await;
    place.logs("run `chatserver keys rotate` once").await;
    let carol = place.adds(&server, "Carol");
    place.tells_meanwhile(&["user", "rotate-key", &bob.email]).await;
    let read = database.texts(OLD_SIGNING_KEY).await;
    assert_eq!(
        (read.len(), &*read[0], &*read[2]),
        (3, alice.api_key.as_str(), carol.api_key.as_str())
    );
    assert!(read[1] != bob.api_key.as_str() && read[1].len() == 64, "Bob has another key");
    assert_eq!(other.metric::<u8>("chatserver_store_is_sealing").await, 0);
    let status = place.tells_meanwhile(&["keys", "status"]).await;
    assert_eq!((&status["inclear"], &status["keys"][0]["current"]), (&3.into(), &false.into()));

    let told = place.tells_meanwhile(&["keys", "rotate"]).await;
    assert_eq!((&told["number"], &told["sealed"]), (&1.into(), &3.into()));
    assert_eq!(database.texts(OLD_SIGNING_KEY).await, ["", "", ""]);
    for person in [&alice, &carol] {
        for node in [&server, &other] {
            person.asks_at(node.address).logs_in().await.ok();
            person.asks_at(node.address).lists().await;
        }
    }
    assert_eq!(other.metric::<u8>("chatserver_store_is_sealing").await, 1);
}

/// Two nodes on one database, each with a key file of its own machine.
struct Machines {
    place: Workplace,
    server: Process,
    beside: Workplace,
    other: Process,
}

impl Machines {
    async fn start() -> Option<Self> {
        let database = Arc::new(PostgresDatabase::migrated()?);
        let (place, beside) = (Workplace::on(Arc::clone(&database)), Workplace::on(database));
        let server = place.serves(&[]).await;
        let there = beside.path().join("keys");
        fs::copy(place.key_file(), &there).unwrap();
        let other = beside.starts(&["serve"], &[(KEY_FILE, there.to_str().unwrap())]).await;
        Some(Self { place, server, beside, other })
    }

    /// Copies the key file of the first machine to the second one.
    fn brings_the_key_file(&self) {
        fs::copy(self.place.key_file(), self.beside.path().join("keys")).unwrap();
    }
}

#[tokio::test]
async fn a_new_key_is_brought_to_every_node_before_it_seals() {
    let Some(machines) = Machines::start().await else { return };
    let Machines { place, server, beside, other } = &machines;
    let (alice, bob) = place.alice_and_bob(server);

    let said = place.fails(&["keys", "rotate", "--json"]);
    assert!(said.contains("no_new_key") && said.contains("keys rotate --add-only"), "{said}");
    assert_eq!(place.tells_meanwhile(&["keys", "rotate", "--add-only"]).await["number"], 2);
    machines.brings_the_key_file();
    let told = place.tells_meanwhile(&["keys", "rotate"]).await;
    assert_eq!((&told["number"], &told["sealed"]), (&2.into(), &2.into()));
    for person in [&alice, &bob] {
        for node in [server, other] {
            let person = person.asks_at(node.address).elsewhere();
            person.logs_in().await.ok();
            person.listens().await;
        }
    }
    beside.logs("key file read again").await;
    place.tells_meanwhile(&["keys", "drop", "1"]).await;
    alice.asks_at(other.address).logs_in().await.ok();
}

#[tokio::test]
async fn a_node_without_the_new_key_says_which_one_it_lacks() {
    let Some(machines) = Machines::start().await else { return };
    let Machines { place, server, beside, other } = &machines;
    let alice = place.adds(server, "Alice");
    for rotate in [&["keys", "rotate", "--add-only"][..], &["keys", "rotate"]] {
        place.tells_meanwhile(rotate).await;
    }
    let at_other = alice.asks_at(other.address);
    at_other.does("list", serde_json::json!({})).await.refused(503, "unavailable");
    let lacks = format!("the key file {} has no key 2", beside.path().join("keys").display());
    beside.logs(&lacks).await;
    machines.brings_the_key_file();
    at_other.lists().await;
    at_other.logs_in().await.ok();
}

#[tokio::test]
async fn a_node_with_another_key_file_does_not_start() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let database = Arc::new(database);
    let place = Workplace::on(Arc::clone(&database));
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let foreign = Workplace::new();
    foreign.tells(&["user", "add", "bob@example.com", "--nick", "Bob"]);
    let fingerprints = [&place, &foreign].map(|place| super::fingerprints(place).remove(0));
    let foreign = foreign.database_key_file();
    let output = place.runs_with(&["serve"], "", &[(KEY_FILE, foreign.to_str().unwrap())]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in fingerprints.iter().map(String::as_str).chain([foreign.to_str().unwrap()]) {
        assert!(said.contains(part), "{said}");
    }
    let output = place.runs_with(&["serve"], "", &[(KEY_FILE, "")]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("auth.key_file = \"\": must be set for a PostgreSQL database"), "{said}");
}
