//! Sending, reading, friends and presence.

use std::fs;

use chatserver::client::{Api, Listener};
use chatserver::clock::Clock;
use chatserver::domain::UserId;
use serde_json::{Value, json};

use super::texts;
use crate::harness::interposer::{Interposer, busy};
use crate::harness::process::Workplace;
use crate::harness::world::World;

#[tokio::test]
async fn a_message_reaches_a_friend_under_each_name() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let (user, conversation) = (bob.person.user.to_string(), bob.person.conversation.clone());
    for name in ["bob@example.com", " Bob@Example.COM", &user, "Bob", &conversation] {
        alice.sends(name, &format!("to {name}"));
    }
    let piped = alice.arguments(&["send", "Bob", "-"]);
    assert!(place.runs_with(&piped, "two\nlines 👋\r\n\n", &[]).status.success());
    let expected = [
        "to bob@example.com",
        "to  Bob@Example.COM",
        &format!("to {user}"),
        "to Bob",
        &format!("to {conversation}"),
        "two\nlines 👋",
    ];
    assert_eq!(bob.reads("Alice"), texts(&expected));
    assert_eq!(alice.reads("Bob"), texts(&expected));

    for text in ["", "\r\n\n"] {
        assert_eq!(alice.fails(&["send", "Bob", ""]), "invalid_argument");
        let output = place.runs_with(&piped, text, &[]);
        assert_eq!(output.status.code(), Some(1), "an empty text: {output:?}");
    }

    assert_eq!(alice.fails(&["send", "carol@example.com", "hi"]), "not_found");
    assert_eq!(alice.fails(&["send", "Carol", "hi"]), "not_found");
    assert_eq!(alice.fails(&["send", "alice@example.com", "hi"]), "not_found");
    place.tells(&["friend", "remove", "alice@example.com", "bob@example.com"]);
    assert_eq!(alice.fails(&["send", "Bob", "hi"]), "not_friends");
}

#[tokio::test]
async fn a_nick_is_not_taken_for_an_address_or_an_id() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let mut alice = place.joins(&server, "Alice");
    let dave = UserId::named("dave@example.com").unwrap().to_string();
    let nicks = ["dave@example.com", &dave, &dave.to_uppercase(), "dave@@example.com"];
    for (n, nick) in nicks.iter().enumerate() {
        let email = format!("mallory{n}@example.com");
        let mut mallory = place.joins_as(&server, &email, nick, &format!("mallory{n}.profile"));
        place.befriends(&mut alice.person, &mut mallory.person);
        assert_eq!(alice.fails(&["send", nick, "for Dave"]), "not_found", "{nick}");
        assert_eq!(mallory.reads("Alice"), []);
    }
}

#[tokio::test]
async fn a_message_that_is_sent_again_under_its_id_is_stored_once() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let first = Interposer::before(server.address, |request| {
        request.contains(r#""action":"add""#).then(busy)
    });
    alice.talks_to(first.address);
    let error = place.fails(&alice.arguments(&["send", "Bob", "once", "--json"]));
    let told: Value = serde_json::from_str(&error).unwrap();
    let id = told["ID"].as_str().unwrap();
    assert_eq!(told["errorcode"], "unavailable");
    assert!(told["errormessage"].as_str().unwrap().contains(&format!("--id {id}")), "{error}");
    alice.talks_to(server.address);
    assert_eq!(alice.prints(&["send", "Bob", "once", "--id", id]), id);
    assert_eq!(alice.fails(&["send", "Bob", "once", "--id", id]), "message_conflict");
    assert_eq!(bob.reads("Alice"), texts(&["once"]));
}

#[tokio::test]
async fn only_a_nick_needs_the_list_of_conversations() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let observed = Interposer::before(server.address, |_| None);
    alice.talks_to(observed.address);
    for name in ["bob@example.com", bob.person.user.as_str(), &bob.person.conversation] {
        alice.sends(name, "hello");
    }
    assert_eq!(observed.count(r#""action":"list""#), 0);
    alice.sends("Bob", "hello");
    assert_eq!(observed.count(r#""action":"list""#), 1);
    assert_eq!(observed.count(r#""extended":true"#), 0);
}

#[tokio::test]
async fn what_the_server_stores_has_no_plaintext() {
    let place = Workplace::new();
    let mut server = place.serves(&[]).await;
    let (alice, _bob) = place.alice_and_bob_chat(&server);
    alice.sends("Bob", "a text that is easily found");
    server.signal("TERM");
    assert!(server.ended().await.success());
    let database = fs::read(place.path().join("chatserver.db")).unwrap();
    let found = database.windows(6).any(|window| window == b"easily");
    assert!(!found);
}

#[tokio::test]
async fn a_reader_chooses_how_much_to_read() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let ids: Vec<_> = ["one", "two", "three"].map(|text| alice.sends("Bob", text)).into();
    let lines = bob.prints(&["read", "Alice", "--limit", "2"]);
    let lines: Vec<_> = lines.lines().map(|line| &line[20..]).collect();
    assert_eq!(lines, ["Alice: two", "Alice: three"]);
    let since = |id: &str| {
        let read = bob.tells(&["read", "Alice", "--since", id]);
        let messages = read["messages"].as_array().unwrap().clone();
        messages
            .iter()
            .map(|message| message["ID"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(since(&ids[0]), ids[1..]);
    assert!(since(&ids[2]).is_empty());
    assert_eq!(bob.fails(&["read", "Alice", "--since", "nothing"]), "not_found");

    let message = &bob.tells(&["read", "Alice", "--limit", "1"])["messages"][0];
    let expected = json!({
        "conversationid": bob.person.conversation, "instance": bob.person.instance().await,
        "ID": ids[2], "created": message["created"], "from": alice.person.user.as_str(),
        "nick": "Alice", "text": "three",
    });
    assert_eq!(*message, expected);
}

#[tokio::test]
async fn a_message_shown_on_a_terminal_has_no_control_characters() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let text = "\u{1b}[2J\u{1b}]0;owned\u{7}\nBob: I did not write this\u{202e}";
    alice.sends("Bob", text);
    let shown = bob.prints(&["read", "Alice"]);
    assert_eq!(shown.lines().count(), 1, "{shown}");
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    assert!(shown.ends_with(r"\u{1b}[2J\u{1b}]0;owned\u{7}\nBob: I did not write this\u{202e}"));
    assert_eq!(bob.reads("Alice"), texts(&[text]), "JSON has the exact text");
}

#[tokio::test]
async fn a_reader_reports_only_what_they_ask_for_as_viewed() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let id = alice.sends("Bob", "seen?");
    let viewed = async || {
        let page = alice.person.does("download", json!({})).await.ok();
        let reports = page["reports"].as_array().unwrap().clone();
        reports.iter().any(|report| report["Type"] == "viewed" && report["MessageID"] == id)
    };
    bob.prints(&["read", "Alice"]);
    assert!(!viewed().await);
    bob.prints(&["read", "Alice", "--viewed"]);
    assert!(viewed().await);
}

#[tokio::test]
async fn two_strangers_become_friends_and_part() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = (place.joins(&server, "Alice"), place.joins(&server, "Bob"));
    alice.prints(&["friends", "add", "bob@example.com"]);
    let requests = alice.tells(&["friends", "requests"]);
    assert_eq!(requests["outgoing"][0]["userid"], bob.person.user.as_str());
    assert_eq!(bob.prints(&["friends", "requests"]), format!("from {} Alice", alice.person.user));
    bob.prints(&["friends", "decline", "Alice"]);
    assert_eq!(bob.fails(&["friends", "accept", "Alice"]), "not_found");
    bob.prints(&["friends", "add", "alice@example.com"]);

    bob.prints(&["presence", "set", "busy"]);
    let friends = alice.tells(&["friends", "list"]);
    let expected =
        json!([{ "userid": bob.person.user.as_str(), "nick": "Bob", "availability": "busy" }]);
    assert_eq!(friends["friends"], expected);
    assert_eq!(alice.tells(&["presence"]), friends);
    assert_eq!(alice.tells(&["presence", "show"]), friends);

    let conversations = alice.tells(&["conversations"]);
    assert_eq!(conversations["conversations"][0]["nick"], "Bob");
    alice.prints(&["friends", "remove", "Bob"]);
    assert_eq!(alice.tells(&["friends", "list"])["friends"], json!([]));
    assert_eq!(alice.fails(&["friends", "add", "no address"]), "invalid_argument");
}

/// The server's clock stands in the year 2024, and the client has that of the machine.
#[tokio::test]
async fn a_wrong_clock_is_corrected_by_that_of_the_server() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    let url = format!("http://{}/", world.address).parse().unwrap();
    let api = Api::new(url, Clock::system()).unwrap();
    let list = json!({ "action": "list" });
    let listed = api.call(&alice.credentials(), "chatconversation", &list).await.unwrap();
    let listed: Value = listed.parse().unwrap();
    assert_eq!(listed["conversations"][0]["id"], alice.conversation);
    assert_eq!(api.now()[..16], world.clock.date()[..16]);

    let url = api.url().clone();
    let api = Api::new(url, Clock::system()).unwrap();
    let notification = Listener::new(&api, alice.credentials()).next().await.unwrap();
    assert_eq!(notification.conversationchangedof, [alice.conversation]);
}

#[tokio::test]
async fn messages_of_a_deleted_friend_stay_readable() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    alice.sends("Bob", "Hello, Bob");
    bob.sends("Alice", "Hello, Alice");
    place.tells(&["user", "delete", "alice@example.com", "--yes"]);
    let read = bob.tells(&["read", "Deleted user"]);
    let shown = read["messages"].as_array().unwrap().iter().map(|one| (&one["nick"], &one["text"]));
    let shown: Vec<_> = shown.map(|(nick, text)| [nick, text]).collect();
    assert_eq!(shown, [["Deleted user", "Hello, Bob"], ["Bob", "Hello, Alice"]]);
    assert_eq!(bob.fails(&["send", "Deleted user", "anybody?"]), "not_friends");
}
