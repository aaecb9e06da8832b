//! Concurrent reads: they are coalesced, and each request gets its own answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chatserver::domain::UserId;
use chatserver::store::{Error, Store, WireText};
use futures_util::future::join_all;
use serde_json::json;

use crate::harness::person::{Answer, Person, message};
use crate::harness::world::{PATIENCE, World};

/// Number of concurrent requests. It exceeds a batch (4) and the number of reading connections, and leaves a last batch
/// of three.
const MANY: usize = 51;

/// Returns pairs of friends. The first of each pair has sent the second a message.
async fn pairs(world: &World) -> Vec<(Person, Person)> {
    let mut pairs = Vec::new();
    for pair in 0..MANY {
        let mut one = world.person(&format!("One{pair}")).await;
        let mut other = world.person(&format!("Other{pair}")).await;
        world.befriends(&mut one, &mut other).await;
        one.adds(&message(&format!("of pair {pair}"), &one.date())).await.ok();
        pairs.push((one, other));
    }
    pairs
}

/// Returns the first user of each pair.
fn senders(pairs: &[(Person, Person)]) -> Vec<UserId> {
    pairs.iter().map(|(one, _)| one.user).collect()
}

/// Downloads the newest entries of a conversation. Such short pages are coalesced.
async fn newest(person: &Person) -> Answer {
    person.does("downloadpartial", json!({ "limit": 10 })).await
}

/// Lists the conversations of all users concurrently.
async fn lists(store: &Store, users: &[UserId]) -> Vec<Result<WireText, Error>> {
    join_all(users.iter().map(|user| store.conversations(*user))).await
}

#[tokio::test]
async fn each_coalesced_read_gets_its_own_answer() {
    let world = World::start().await;
    let pairs = pairs(&world).await;
    let read = join_all(pairs.iter().map(|(_, other)| other.reads())).await;
    for (pair, read) in read.iter().enumerate() {
        assert_eq!(read, &[format!("of pair {pair}")]);
    }
    let listed = join_all(pairs.iter().map(|(one, _)| one.lists())).await;
    for ((one, _), listed) in pairs.iter().zip(listed) {
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0]["id"], one.conversation);
    }
    // Every other request is for a conversation of others.
    let answers = join_all(pairs.iter().enumerate().map(async |(pair, (one, _))| {
        let mut asker = one.clone();
        if pair % 2 == 1 {
            asker.conversation.clone_from(&pairs[pair - 1].0.conversation);
        }
        newest(&asker).await
    }));
    for (pair, answer) in answers.await.iter().enumerate() {
        if pair % 2 == 1 {
            answer.refused(404, "conversation_not_found");
        } else {
            let data = BASE64.encode(format!("of pair {pair}"));
            assert_eq!(answer.ok()["messages"][0]["Data"], data, "{answer:?}");
            assert_eq!(answer.message_ids().len(), 1);
        }
    }
}

/// The store separates the parts of a page by bars and spaces. Messages may contain them too.
#[tokio::test]
async fn bars_and_spaces_in_a_message_do_not_confuse_a_page() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut message = message("hi", &alice.date());
    message["Type"] = "| a|1 b |".into();
    alice.adds(&message).await.ok();
    let downloaded = bob.downloads().await.ok();
    assert_eq!(downloaded["messages"], json!([message]));
}

#[tokio::test]
async fn a_closed_store_refuses_reads() {
    let world = World::start().await;
    let (alice, _) = world.alice_and_bob().await;
    let store = &world.app().store;
    store.close().await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, store.conversations(alice.user)).await;
    assert!(matches!(answer, Ok(Err(Error::Closed))), "{answer:?}");
}

#[tokio::test]
async fn queued_reads_of_a_closing_store_are_answered_or_refused() {
    let world = World::start().await;
    let pairs = pairs(&world).await;
    let users = senders(&pairs);
    let store = &world.app().store;
    let mut waiting = Box::pin(lists(store, &users));
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    let both = async { tokio::join!(waiting, store.close()).0 };
    for list in tokio::time::timeout(PATIENCE, both).await.unwrap() {
        assert!(matches!(list, Ok(_) | Err(Error::Closed)), "{list:?}");
    }
}

/// An unreadable row fails only the requests that read it.
#[tokio::test]
async fn a_failing_read_does_not_fail_its_batch() {
    let world = World::start().await;
    let pairs = pairs(&world).await;
    let users = senders(&pairs);
    let broken = users[MANY / 2];
    let mut database = world.opens_database().await;
    // The column accepts only text, unless its table is declared without `STRICT`.
    let lax = "PRAGMA writable_schema = ON;
               UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '') WHERE name = 'participants';
               PRAGMA writable_schema = RESET";
    database.runs(lax).await;
    let no_text = "UPDATE participants SET hide_id = x'ff' WHERE user_id = $1";
    let changed = sqlx::query(no_text).bind(broken.as_str()).execute(database.connection()).await;
    assert_eq!(changed.unwrap().rows_affected(), 1);
    database.closes().await;
    for (user, list) in users.iter().zip(lists(&world.app().store, &users).await) {
        assert_eq!(list.is_err(), *user == broken, "{list:?}");
    }
}

/// A cancelled request is skipped and does not block the requests behind it.
#[tokio::test]
async fn a_cancelled_read_is_skipped() {
    let world = World::start().await;
    let pairs = pairs(&world).await;
    let users = senders(&pairs);
    let store = &world.app().store;
    let (patient, impatient) = users.split_at(MANY / 2);
    let mut going = Box::pin(lists(store, impatient));
    assert!(futures_util::poll!(going.as_mut()).is_pending());
    drop(going);
    for (list, (one, _)) in lists(store, patient).await.into_iter().zip(&pairs) {
        let list = String::from_utf8(list.unwrap()).unwrap();
        assert!(list.contains(&one.conversation));
    }
}
