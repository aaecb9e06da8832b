//! No secret is where it does not belong: in the log, the metrics, an answer, the database or a backup.

use std::collections::BTreeMap;
use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use crate::harness::openssl::SealedKey;
use crate::harness::person::Person;
use crate::harness::postgres::{PASSWORD, PostgresDatabase, USER};
use crate::harness::process::{Process, Workplace};

/// Secrets by their names, as bytes that must not be found.
type Secrets = BTreeMap<String, Vec<u8>>;

/// Adds a secret of hexadecimal text in its text form and as bytes.
fn add_hex(secrets: &mut Secrets, name: &str, text: &str) {
    secrets.insert(name.to_owned(), text.as_bytes().to_vec());
    secrets.insert(format!("{name} in bytes"), hex::decode(text).unwrap());
    secrets.insert(
        format!("{name} in base64"),
        BASE64.encode(hex::decode(text).unwrap()).into_bytes(),
    );
}

/// Returns the secrets of people and of a key file.
fn secrets_of(people: &[&Person], key_file: &std::path::Path) -> Secrets {
    let mut secrets = Secrets::new();
    for person in people {
        let password = person.password.as_str();
        add_hex(&mut secrets, &format!("API key of {}", person.email), person.api_key.as_str());
        add_hex(&mut secrets, &format!("password of {}", person.email), password);
    }
    for line in fs::read_to_string(key_file).unwrap().lines().filter(|line| !line.starts_with('#'))
    {
        let (number, key) = line.split_once(' ').unwrap();
        add_hex(&mut secrets, &format!("key {number} of the file"), key);
    }
    secrets
}

fn has(bytes: &[u8], secret: &[u8]) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret)
}

fn assert_none(secrets: &Secrets, place: &str, bytes: &[u8]) {
    assert!(!bytes.is_empty(), "{place} is empty");
    for (name, secret) in secrets {
        assert!(!has(bytes, secret), "{name} is in {place}");
    }
}

/// Has Alice and Bob do what uses their secrets, rightly and wrongly. Returns all refusals.
async fn use_secrets(alice: &Person, bob: &Person) -> String {
    let mut refusals = String::new();
    for person in [alice, bob] {
        person.logs_in().await.ok();
        person.lists().await;
    }
    alice.sends("hello").await;
    bob.listens_from_now_on().await;
    let wrong = alice.with_key(bob.api_key.clone());
    refusals += &wrong.asks("list", json!({})).await.text;
    refusals += &alice.asks("list", json!({ "apikey": alice.api_key.as_str() })).await.text;
    refusals += &alice.asks("nothing", json!({ "key": alice.api_key.as_str() })).await.text;
    let mut station = alice.clone();
    station.conversation = alice.api_key.as_str().to_owned();
    refusals += &station.does("download", json!({})).await.text;
    refusals += &alice.does(alice.password.as_str(), json!({})).await.text;
    let unknown = alice.with_key(chatserver::domain::ApiKey::generate());
    refusals + &unknown.logs_in().await.text
}

/// Returns the log and the metrics of a server.
async fn told_by(server: &Process, place: &Workplace) -> [(&'static str, Vec<u8>); 2] {
    [("the metrics", server.metrics().await.into_bytes()), ("the log", place.log().into_bytes())]
}

const EVERYTHING: (&str, &str) = ("CHATSERVER_LOG__FILTER", "trace");

#[tokio::test]
async fn no_secret_is_in_the_log_the_metrics_a_refusal_the_database_or_a_backup() {
    let place = Workplace::new();
    let server = place.serves(&[EVERYTHING]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    place.tells_meanwhile(&["keys", "rotate"]).await;
    let refusals = use_secrets(&alice, &bob).await;
    let told = place.tells_meanwhile(&["user", "rotate-key", &bob.email]).await;
    let bob_again =
        bob.with_key(chatserver::domain::Parse::parse(told["apikey"].as_str().unwrap()).unwrap());
    bob_again.logs_in().await.ok();
    place.tells_meanwhile(&["backup", "chat.backup"]).await;
    let mut secrets = secrets_of(&[&alice, &bob], &place.database_key_file());
    add_hex(&mut secrets, "new API key of Bob", bob_again.api_key.as_str());
    let login = alice.logs_in().await.ok();
    // The private exponent.
    let private = SealedKey::of(&login, alice.password.as_str()).private()[300..366].to_vec();
    secrets
        .insert("private key of Alice in base64".to_owned(), BASE64.encode(&private).into_bytes());
    secrets.insert("private key of Alice".to_owned(), private);

    assert_none(&secrets, "a refusal", refusals.as_bytes());
    for (name, bytes) in told_by(&server, &place).await {
        assert_none(&secrets, name, &bytes);
    }
    for name in ["chatserver.db", "chatserver.db-wal", "chat.backup", "chatserver.db-server"] {
        assert_none(&secrets, name, &fs::read(place.path().join(name)).unwrap());
    }
    for command in [&["keys", "status"][..], &["user", "list"], &["check-config"]] {
        assert_none(&secrets, command[0], &place.runs(command).stdout);
    }
}

#[tokio::test]
async fn no_secret_of_a_node_is_in_its_log_its_metrics_or_a_refusal() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    database.runs(&format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {USER}; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {USER}"));
    let url = database.url_of(USER, "127.0.0.1", "sslmode=disable");
    let place = Workplace::on(std::sync::Arc::new(database));
    let password = ("CHATSERVER_DATABASE__PASSWORD", PASSWORD);
    let server = place.serves(&[EVERYTHING, password, ("CHATSERVER_DATABASE__URL", &url)]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let refusals = use_secrets(&alice, &bob).await;
    let mut secrets = secrets_of(&[&alice, &bob], &place.key_file());
    secrets.insert("password of the database".to_owned(), PASSWORD.as_bytes().to_vec());
    assert_none(&secrets, "a refusal", refusals.as_bytes());
    for (name, bytes) in told_by(&server, &place).await {
        assert_none(&secrets, name, &bytes);
    }
}
