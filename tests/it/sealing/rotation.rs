//! `chatserver keys rotate` and `keys drop`, beside a server on a file.

use std::fs;

use super::copies;
use crate::harness::process::Workplace;

#[tokio::test]
async fn keys_are_rotated_while_a_server_runs() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let mut listener = bob.listens_from_now_on().await;
    for number in 2..=3 {
        let told = place.tells_meanwhile(&["keys", "rotate"]).await;
        assert_eq!((&told["number"], &told["sealed"]), (&number.into(), &2.into()));
        alice.logs_in().await.ok();
        alice.sends("hello").await;
        assert_eq!(listener.takes().await.conversations, [bob.conversation.as_str()]);
        bob.elsewhere().listens().await;
    }
    let carol = place.adds(&server, "Carol");
    carol.logs_in().await.ok();
    let status = place.tells_meanwhile(&["keys", "status"]).await;
    let keys = status["keys"].as_array().unwrap();
    let users: Vec<_> = keys.iter().map(|key| key["users"].as_u64().unwrap()).collect();
    let current: Vec<_> = keys.iter().map(|key| key["current"].as_bool().unwrap()).collect();
    assert_eq!((users, current), (vec![0, 0, 3], vec![false, false, true]));
    assert_eq!(status["inclear"], 0);
    // What is left of a deleted user has no API key.
    place.tells_meanwhile(&["user", "delete", &carol.email, "--yes"]).await;
    let told = place.tells_meanwhile(&["keys", "rotate"]).await;
    assert_eq!((&told["number"], &told["sealed"]), (&4.into(), &2.into()));
    place.logs("key file read again").await;
}

#[tokio::test]
async fn an_interrupted_rotation_goes_on() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let mut database = place.opens_database().await;
    database.runs("CREATE TABLE before AS SELECT id, api_key_digest, sealing_key, sealed_api_key FROM users").await;
    place.tells_meanwhile(&["keys", "rotate"]).await;
    // Bob's key is sealed with the old key, as after an interruption.
    database
        .runs(&format!(
            "UPDATE users SET (api_key_digest, sealing_key, sealed_api_key) =
                 (SELECT api_key_digest, sealing_key, sealed_api_key FROM before WHERE before.id = users.id)
             WHERE id = '{}'; DROP TABLE before",
            bob.user
        ))
        .await;
    for person in [&alice, &bob] {
        person.logs_in().await.ok();
        person.lists().await;
    }
    let said = place.fails(&["keys", "drop", "1", "--json"]);
    assert!(said.contains("in_use") && said.contains("the API keys of 1 users"), "{said}");
    let told = place.tells_meanwhile(&["keys", "rotate"]).await;
    assert_eq!((&told["number"], &told["sealed"]), (&2.into(), &1.into()));
    bob.logs_in().await.ok();
    place.tells_meanwhile(&["keys", "drop", "1"]).await;
    for person in [&alice, &bob] {
        person.logs_in().await.ok();
    }
}

#[tokio::test]
async fn an_old_key_is_dropped_once_nothing_needs_it() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let alice = place.adds(&server, "Alice");
    let said = place.fails(&["keys", "drop", "1"]);
    assert!(said.contains("key 1 is needed: new API keys are sealed with it"), "{said}");
    let said = place.fails(&["keys", "drop", "7", "--json"]);
    assert!(said.contains("not_found") && said.contains("has no key 7"), "{said}");
    place.tells(&["backup", "sealed-with-1"]);
    place.tells(&["keys", "rotate"]);
    let of_both = fs::read(place.database_key_file()).unwrap();
    let told = place.tells(&["keys", "drop", "1"]);
    assert_eq!(told["number"], 1);
    let text = fs::read_to_string(place.database_key_file()).unwrap();
    assert!(!text.contains("\n1 ") && text.contains("\n2 "), "{text}");
    alice.logs_in().await.ok();
    let told = place.tells(&["keys", "rotate"]);
    assert_eq!(told["number"], 3, "a number is never used again");
    alice.logs_in().await.ok();
    let address = server.address;
    server.stops(&place).await;

    let said = place.fails(&["restore", "sealed-with-1", "--force"]);
    assert!(said.contains("lacks key 1, which the database needs"), "{said}");
    fs::write(place.database_key_file(), of_both).unwrap();
    let told = place.tells(&["restore", "sealed-with-1", "--force"]);
    assert_eq!(told["addedsince"].as_array().unwrap().len(), 0);
    let _server = place.starts_at(address, &["serve"], &[]).await;
    alice.logs_in().await.ok();
}

#[tokio::test]
async fn a_restore_tells_rotated_api_keys_from_newly_sealed_ones() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    place.tells(&["backup", "chat.backup"]);
    place.tells(&["keys", "rotate"]);
    place.tells(&["user", "rotate-key", &bob.email]);
    let address = server.address;
    server.stops(&place).await;
    let told = place.tells(&["restore", "chat.backup", "--force"]);
    assert_eq!(told["rotatedsince"].as_array().unwrap(), &[bob.email.as_str()]);
    let _server = place.starts_at(address, &["serve"], &[]).await;
    for person in [&alice, &bob] {
        person.logs_in().await.ok();
    }
    for person in [&alice, &bob] {
        assert_eq!(copies(&place.database(), person.api_key.as_str()), 0);
    }
}

#[test]
fn an_added_key_waits_for_the_rotation() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let told = place.tells(&["keys", "rotate", "--add-only"]);
    assert_eq!((&told["number"], &told["sealed"]), (&2.into(), &0.into()));
    let status = place.tells(&["keys", "status"]);
    assert_eq!(
        (&status["keys"][0]["current"], &status["keys"][1]["current"]),
        (&true.into(), &false.into())
    );
    let told = place.tells(&["keys", "rotate"]);
    assert_eq!((&told["number"], &told["sealed"]), (&2.into(), &1.into()));
}
