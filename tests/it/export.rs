//! `user export`: all that is held about a user, as JSON.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::openssl::SealedKey;
use crate::harness::person::message;
use crate::harness::process::Workplace;
use crate::harness::world::until;

const EXPORT: [&str; 3] = ["user", "export", "alice@example.com"];

fn ids(entries: &Value) -> Vec<&str> {
    entries.as_array().unwrap().iter().map(|entry| entry["ID"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_export_has_all_that_is_held_about_the_user() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let (carol, dave) = (place.adds(&server, "Carol"), place.adds(&server, "Dave"));
    let login = alice.logs_in().await.ok();
    let sent = alice.sends("Hi Bob").await;
    let answered = bob.sends("Hi Alice").await;
    alice.does("favorite", json!({})).await.ok();
    alice.does("setlistitembackgroundcolor", json!({ "color": "#ff8800" })).await;
    let viewed = json!({ "conversationid": alice.conversation, "messageids": [answered] });
    alice.prepares("chatreports", "viewed", &viewed).sent().await.ok();
    let add = |other: &str| alice.prepares("chatfriends", "add", &json!({ "friend": other }));
    add(&carol.email).sent().await.ok();
    let asks = json!({ "friend": alice.email });
    dave.prepares("chatfriends", "add", &asks).sent().await.ok();
    let block = json!({ "userid": carol.user.as_str() });
    alice.prepares("chatblocklist", "block", &block).sent().await.ok();
    alice.prepares("chatavailability", "userbusy", &json!({})).sent().await.ok();
    alice.registers("alice.ozeki.chat").await.ok();
    until("the station is bound", async || {
        let stations = place.tells_meanwhile(&["station", "list", "alice@example.com"]).await;
        !stations["stations"].as_array().unwrap().is_empty()
    })
    .await;

    let told = place.tells(&EXPORT);
    let user = &told["user"];
    assert_eq!((&user["email"], &user["nick"]), (&json!(alice.email), &json!("Alice")));
    assert_eq!((&user["userid"], &user["disabled"]), (&json!(alice.user.as_str()), &json!(false)));
    assert_eq!((&user["availability"], &user["rsakey"]), (&json!("busy"), &login["rsakey"]));
    let key = SealedKey::of(user, alice.password.as_str());
    assert_eq!(user["publickey"], key.public().unwrap());
    assert_eq!(told["stations"][0]["stationid"], alice.station.as_str());
    assert_eq!(told["friends"], json!([{ "userid": bob.user.as_str(), "nick": "Bob" }]));
    assert_eq!(
        told["requests"]["received"],
        json!([
            { "userid": dave.user.as_str(), "nick": "Dave", "silent": false },
        ])
    );
    assert_eq!(told["blocked"], json!([carol.user.as_str()]));
    assert_eq!(told["workspaces"][0]["name"], "alice.ozeki.chat");
    let [conversation] = &told["conversations"].as_array().unwrap()[..] else { panic!("{told}") };
    assert_eq!(conversation["conversationid"], alice.conversation);
    assert_eq!(conversation["partnernick"], "Bob");
    assert_eq!((&conversation["access"], &conversation["viewed"]), (&json!("open"), &json!(1)));
    assert_eq!(conversation["isfavorite"], true);
    assert_eq!(key.unwraps(&conversation["secret"]).len(), 32);
    assert_eq!(ids(&conversation["messages"]), [sent.as_str(), &answered]);
    let first = &conversation["messages"][0];
    assert_eq!(
        (&first["UserID"], &first["Type"]),
        (&json!(alice.user.as_str()), &json!("Message"))
    );
    assert_eq!(first["Data"], message("Hi Bob", "")["Data"]);
    let mut reports = conversation["reports"].as_array().unwrap().iter();
    let report = reports.find(|report| report["Type"] == "viewed").unwrap();
    assert_eq!(
        (&report["MessageID"], &report["UserID"]),
        (&json!(answered), &json!(alice.user.as_str()))
    );

    let text = told.to_string();
    assert!(!text.contains(alice.api_key.as_str()), "the API key is in no export");
    assert!(!text.contains(&bob.email), "the addresses of others are not the user's data");
}

#[tokio::test]
async fn an_export_of_many_messages_is_complete_and_in_order() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let mut sent = Vec::new();
    for number in 0..70 {
        let person = if number % 3 == 0 { &bob } else { &alice };
        sent.push(person.sends(&format!("message {number}")).await);
    }
    let told = place.tells(&EXPORT);
    assert_eq!(ids(&told["conversations"][0]["messages"]), sent);
    bob.clears().await.ok();
    let told = place.tells(&EXPORT);
    assert_eq!(told["conversations"][0]["messages"], json!([]), "cleared messages are gone");
}

#[test]
fn an_export_into_a_file_is_for_its_owner_and_overwrites_nothing() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let output = [&EXPORT[..], &["--output", "alice.json"]].concat();
    let told = place.tells(&output);
    let file = place.path().join("alice.json");
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(told, json!({ "file": "alice.json", "bytes": text.len() }));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), place.tells(&EXPORT));
    let error = place.fails(&[&output[..], &["--json"]].concat());
    assert!(error.contains("already_exists") && error.contains("alice.json"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    let error = place.fails(&["user", "export", "bob@example.com", "--output", "bob.json"]);
    assert!(error.contains("there is no user bob@example.com"), "{error}");
    assert!(!place.path().join("bob.json").exists());
}

#[test]
fn an_export_that_can_not_be_printed_fails() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = place.command(&EXPORT).stdin(Stdio::null()).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("No space"), "the reason");
}
