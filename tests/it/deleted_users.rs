//! Deleted users: what is gone, and what others keep.

use std::fs;
use std::path::Path;
use std::process::Command;

use chatserver::domain::{Instance, Parse as _};
use serde_json::{Value, json};

use crate::harness::database::Database;
use crate::harness::friends::NONE;
use crate::harness::openssl::SealedKey;
use crate::harness::person::{Person, message};
use crate::harness::process::Workplace;
use crate::harness::reports::{NEVER, settled};
use crate::harness::terminal::Terminal;
use crate::harness::world::{World, until};

impl Person {
    /// Returns the entry of the other participant of this person's conversation, as extended answers have it.
    async fn sees_partner(&self) -> Value {
        let listed = self.asks("list", json!({ "extended": true })).await.ok();
        let conversations = listed["conversations"].as_array().unwrap().clone();
        let mine = conversations.into_iter().find(|one| one["id"] == self.conversation).unwrap();
        let mut others = mine["participants"].as_array().unwrap().clone();
        others.retain(|other| other["userid"] != self.user.as_str());
        assert_eq!(others.len(), 1);
        others.remove(0)
    }

    async fn unwraps(&self, wrapped: &Value) -> Vec<u8> {
        SealedKey::of(&self.logs_in().await.ok(), self.password.as_str()).unwraps(wrapped)
    }
}

#[tokio::test]
async fn others_keep_the_conversation_with_a_deleted_user() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.sends("hello").await;
    bob.sends("hi").await;
    settled(&alice, &bob).await;
    assert!(bob.sees_partner().await.get("deleted").is_none());
    let secret = bob.sees().await["secret"].clone();
    bob.is_notified().await;

    let deleted = world.deletes(&alice).await;
    let told = bob.is_notified().await;
    assert_eq!(told.conversations, [bob.conversation.as_str()]);
    assert_eq!((told.friends, told.lists), (Vec::new(), vec![bob.user.to_string()]));
    assert_eq!(bob.friends().await, json!({}));
    let seen = bob.sees().await;
    assert_eq!(seen["secret"], secret);
    assert_eq!(bob.unwraps(&seen["displayname"]).await, b"Deleted user");
    let entry = json!({ "userid": deleted.as_str(), "username": "Deleted user" });
    assert!(seen["participants"].as_array().unwrap().contains(&entry), "{seen}");
    assert!(seen["participantids"].as_array().unwrap().contains(&json!(deleted.as_str())));
    let entry = json!({ "userid": deleted.as_str(), "username": "Deleted user", "deleted": true });
    assert_eq!(bob.sees_partner().await, entry);
    assert_eq!(bob.reads().await, ["hello", "hi"]);
    let page = bob.does("download", json!({ "extended": true })).await.ok();
    assert_eq!(page["messages"][0]["UserID"], deleted.as_str());
    assert_eq!(page["messages"][1]["UserID"], bob.user.as_str());
    bob.adds(&message("to nobody", &bob.date())).await.refused(403, "not_friends");
    bob.elsewhere().is_notified().await;

    world.clock.advances(10);
    alice.asks("list", json!({})).await.refused(401, "invalid_signature");
    alice.logs_in().await.refused(401, "invalid_credentials");
}

#[tokio::test]
async fn requests_of_a_user_who_was_just_deleted_change_nothing() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let (carol, sent) = (world.person("Carol").await, bob.sends("hello").await);
    carol.wants(&alice.email).await.ok();
    alice.lists().await;
    world.deletes(&alice).await;
    // The server still knows the key.
    alice.wants("dave@example.com").await.ok();
    carol.wants(&alice.email).await.ok();
    alice.wants(&carol.email).await.ok();
    carol.removes(alice.user.as_str()).await.ok();
    alice.accepts(&carol).await.ok();
    alice.wants(&carol.email).await.ok();
    alice.declines(&bob).await.ok();
    alice.removes(bob.user.as_str()).await.ok();
    alice.blocks(bob.user.as_str()).await.ok();
    alice.registers("team.example.com").await.ok();
    alice.elsewhere().prepares_poll().sent().await.refused(401, "invalid_signature");
    alice.does("mute", json!({})).await.refused(404, "conversation_not_found");
    alice.does("download", json!({})).await.refused(404, "conversation_not_found");
    alice.reports_as("viewed", &[&sent]).await.refused(404, "conversation_not_found");
    alice.asks("list", json!({})).await.ok();
    alice.chooses("useravailable").await.ok();
    assert_eq!(carol.requests().await, NONE);
    for table in ["friends", "friend_requests", "blocks", "workspaces", "stations"] {
        let rows = format!("SELECT count(*) FROM {table} t, users u WHERE u.id = '{}'", alice.user);
        assert_eq!(world.number(&rows).await, 0);
    }
}

#[tokio::test]
async fn receipts_of_a_deleted_user_go_and_those_of_others_stay() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut alices = Vec::new();
    for _ in 0..3 {
        alices.push(alice.sends("hello").await);
        bob.sends("hi").await;
    }
    settled(&alice, &bob).await;
    assert_eq!(world.number("SELECT count(*) FROM reports").await, 6);
    world.deletes(&alice).await;
    let left = bob.reports().await;
    let about: Vec<_> = left.iter().map(|report| report["MessageID"].as_str().unwrap()).collect();
    assert_eq!(about, alices);
    assert!(left.iter().all(|report| report["UserID"] == bob.user.as_str()), "{left:?}");
    let last = left.last().unwrap()["ID"].as_str().unwrap();
    assert_eq!(bob.newest_report().await, last.replace('-', ""));
    let behind = json!({ "firstmessagedate": NEVER, "firstreportid": last });
    assert_eq!(bob.does("download", behind).await.ok()["reports"], json!([left[2]]));
    assert_eq!(world.number("SELECT count(*) FROM reports").await, 3);
    let world = world.restarts(&[]).await;
    assert_eq!(bob.moves_to(&world).reports().await, left);
}

#[tokio::test]
async fn many_receipts_move_up_in_order() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut alices = Vec::new();
    for _ in 0..400 {
        alices.push(alice.sends("hello").await);
        bob.sends("hi").await;
    }
    settled(&alice, &bob).await;
    world.deletes(&alice).await;
    let left = bob.reports().await;
    let about: Vec<_> = left.iter().map(|report| report["MessageID"].as_str().unwrap()).collect();
    assert_eq!(about, alices);
}

#[tokio::test]
async fn requests_blocks_and_workspaces_of_a_deleted_user_go() {
    let world = World::start().await;
    let mut people = Vec::new();
    for nick in ["Alice", "Carol", "Dave", "Erin", "Frank"] {
        people.push(world.person(nick).await);
    }
    let [alice, carol, dave, erin, frank] = people.try_into().ok().unwrap();
    carol.wants(&alice.email).await.ok();
    alice.wants(&dave.email).await.ok();
    erin.blocks(alice.user.as_str()).await.ok();
    alice.blocks(frank.user.as_str()).await.ok();
    alice.registers("team.example.com").await.ok();
    let touched = [&carol, &dave, &erin];
    for person in touched {
        person.is_notified().await;
    }
    world.deletes(&alice).await;
    for person in touched {
        let told = person.is_notified().await;
        assert_eq!(told.lists, [person.user.as_str()]);
        assert_eq!(person.requests().await, NONE);
        assert_eq!(person.blocklist().await, [json!([]), json!([])]);
    }
    frank.registers("team.example.com").await.ok();
}

#[tokio::test]
async fn an_address_that_is_added_again_begins_with_a_new_secret() {
    let world = World::start().await;
    let (alice, mut bob) = world.alice_and_bob().await;
    alice.sends("between Alice and Bob").await;
    settled(&alice, &bob).await;
    let before = bob.sees().await;
    let secret = bob.unwraps(&before["secret"]).await;
    let deleted = world.deletes(&alice).await;

    let mut alice = world.person("Alice").await;
    assert_eq!(alice.lists().await, Vec::<Value>::new());
    bob.is_notified().await;
    world.befriends(&mut alice, &mut bob).await;
    let told = bob.is_notified().await;
    assert_eq!(told.lists, [bob.user.as_str()]);
    let (mine, theirs) = (alice.sees().await, bob.sees().await);
    assert_eq!(theirs["id"], before["id"]);
    assert_ne!(theirs["instance"], before["instance"]);
    assert!(Instance::parse(theirs["instance"].as_str().unwrap()).is_some());
    let new_secret = bob.unwraps(&theirs["secret"]).await;
    assert_ne!(new_secret, secret);
    assert_eq!(alice.unwraps(&mine["secret"]).await, new_secret);
    assert_eq!(bob.unwraps(&theirs["displayname"]).await, b"Alice");
    assert!(!theirs.to_string().contains(deleted.as_str()), "{theirs}");
    assert_eq!((alice.reads().await, bob.reads().await), (Vec::<String>::new(), Vec::new()));
    bob.sends("hello again").await;
    assert_eq!(alice.reads().await, ["hello again"]);
    settled(&alice, &bob).await;
    until("the old messages are gone", async || {
        world.number("SELECT count(*) FROM messages").await == 1
    })
    .await;
}

#[tokio::test]
async fn a_user_who_is_enabled_during_the_deletion_is_deleted_all_the_same() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    for _ in 0..100 {
        alice.sends("hello").await;
        bob.sends("hi").await;
    }
    settled(&alice, &bob).await;
    let enabling = async {
        let mut enabled = 0;
        while enabled < 20 && world.app().store.set_disabled(alice.user, false).await.unwrap() {
            enabled += 1;
        }
        enabled
    };
    // The deletion disables the user first, and the first enabling follows that.
    let (deleted, enabled) = tokio::join!(world.deletes(&alice), enabling);
    assert!(enabled > 0, "the deletion was made in one step");
    assert_ne!(deleted, alice.user);
    assert_eq!(world.number("SELECT count(*) FROM users WHERE is_deleted").await, 1);
    world.clock.advances(10);
    alice.asks("list", json!({})).await.refused(401, "invalid_signature");
    assert_eq!(bob.reads().await.len(), 200);
}

#[tokio::test]
async fn a_conversation_without_people_is_cleared() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.sends("hello").await;
    world.deletes(&alice).await;
    assert_eq!(bob.reads().await, ["hello"]);
    world.deletes(&bob).await;
    until("the messages are gone", async || {
        world.number("SELECT count(*) FROM messages").await == 0
    })
    .await;
    let (mut alice, mut bob) = (world.person("Alice").await, world.person("Bob").await);
    world.befriends(&mut alice, &mut bob).await;
    alice.talks_with(&bob).await;
}

#[tokio::test]
async fn a_nick_changes_after_a_friend_was_deleted() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let (_, carol) = world.another_friend(&bob, "Carol").await;
    world.deletes(&alice).await;
    let store = &world.app().store;
    let nick = chatserver::domain::Nick::parse("Bobby").unwrap();
    chatserver::users::rename(store, bob.user, Some(nick), None).await.unwrap();
    assert_eq!(carol.friends().await, json!({ bob.user.as_str(): "Bobby" }));
}

/// Returns the first of these texts that the database file or its log has.
fn found(database: &Path, texts: &[String]) -> Option<String> {
    ["", "-wal"].iter().find_map(|suffix| {
        let path = format!("{}{suffix}", database.display());
        let bytes = fs::read(&path).unwrap_or_default();
        let is_there = |text: &&String| memmem(&bytes, text.as_bytes());
        texts.iter().find(is_there).map(|text| format!("{text} in {path}"))
    })
}

fn memmem(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// Returns texts of a user's account that must not survive.
async fn traces(database: &mut Database, person: &Person) -> Vec<String> {
    let select = format!(
        "SELECT nick, full_name, public_key, private_key, sealed_api_key FROM users WHERE id = '{}'",
        person.user
    );
    let row: Vec<(String, String, String, String, String)> = database.rows(&select).await;
    let (nick, full_name, public, private, api_key) = row.into_iter().next().unwrap();
    let lines = private.lines();
    let private = [6, 20].map(|number| lines.clone().nth(number).unwrap().to_owned());
    let public = [public[60..90].to_owned(), public[300..330].to_owned()];
    let names = [nick, full_name, person.email.clone(), person.user.to_string()];
    let keys = [api_key, person.station.as_str().to_owned()];
    let mut all = [&private[..], &public, &names, &keys].concat();
    all.retain(|text| !text.is_empty());
    all
}

#[tokio::test]
async fn a_busy_user_leaves_no_trace_in_the_compacted_pages_of_a_file() {
    let world = World::start().await;
    let mut alice = world.person_at("unmistakable@example.com", "Unmistakable").await;
    let mut others: Vec<Person> = Vec::new();
    for number in 0..120 {
        let mut other = world.person(&format!("Other{number}")).await;
        if number % 3 == 0 {
            world.befriends(&mut alice, &mut other).await;
            alice.sends("hello").await;
            other.reads().await;
            other.sends("hi").await;
            alice.reads().await;
        } else {
            other.wants(&alice.email).await.ok();
        }
        others.push(other);
    }
    let mut database = world.opens_database().await;
    let mut traces = traces(&mut database, &alice).await;
    // Keys are shared by the people of the tests.
    traces.retain(|text| !text.contains('/') && !text.contains('+') && text.len() != 30);
    database.closes().await;
    assert!(found(&world.database(), &traces).is_some());
    world.deletes(&alice).await;
    assert_eq!(others[0].reads().await, ["hello", "hi"]);
    let home = world.ends().await;
    let mut compact = Command::new(env!("CARGO_BIN_EXE_chatserver"));
    compact.args(["compact", "--database-url", &home.url()]);
    assert!(compact.output().unwrap().status.success());
    assert_eq!(found(&home.file(), &traces), None);
}

#[tokio::test]
async fn a_deletion_leaves_no_trace_of_its_user_in_a_server_of_a_file() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    alice.sends("hello").await;
    settled(&alice, &bob).await;
    let mut database = place.opens_database().await;
    let (alices, bobs) = (traces(&mut database, &alice).await, traces(&mut database, &bob).await);
    database.closes().await;
    for trace in &alices {
        assert!(found(&place.database(), std::slice::from_ref(trace)).is_some(), "{trace}");
    }
    place.tells(&["user", "delete", &alice.email, "--yes"]);
    until("nothing of Alice is left", async || found(&place.database(), &alices).is_none()).await;
    server.stops(&place).await;
    place.tells(&["user", "delete", &bob.email, "--yes"]);
    assert_eq!(found(&place.database(), &bobs), None);
    assert_eq!(place.tells(&["user", "list"]), json!({ "users": [] }));
}

#[tokio::test]
async fn a_deletion_is_confirmed_and_names_the_user() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let refused = place.fails(&["user", "delete", "alice@example.com"]);
    assert!(refused.contains("--yes"), "{refused}");
    let refused = place.fails(&["user", "delete", "bob@example.com", "--yes"]);
    assert!(refused.contains("there is no user bob@example.com"), "{refused}");
    for (typed, is_deleted) in [("alice", false), ("Alice@example.com", true)] {
        let terminal = Terminal::new();
        terminal.types(typed);
        let mut command = place.command(&["user", "delete", "alice@example.com"]);
        let output = command.stdin(terminal.stdin()).output().unwrap();
        let asked = String::from_utf8(output.stderr).unwrap();
        assert!(asked.contains("Type the address"), "{asked}");
        assert_eq!(output.status.success(), is_deleted, "{asked}");
    }
    place.fails(&["user", "show", "alice@example.com"]);
}
