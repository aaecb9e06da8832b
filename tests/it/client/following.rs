//! `read --follow` and `listen` without a command.

use std::fs;

use serde_json::Value;

use crate::harness::process::Workplace;
use crate::harness::world::until;

#[tokio::test]
async fn a_follower_shows_each_message_once_across_a_restart_of_the_server() {
    let place = Workplace::new();
    let mut server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    alice.sends("Bob", "before");
    let follower = bob.starts("followed.txt", &["read", "Alice", "--follow"]);
    follower.prints("before").await;
    alice.sends("Bob", "live");
    follower.prints("live").await;

    let address = server.address;
    server.signal("TERM");
    assert!(server.ended().await.success());
    let mut server = place.starts_at(address, &["serve"], &[]).await;
    alice.sends("Bob", "after a stop");
    follower.prints("after a stop").await;
    server.signal("KILL");
    server.ended().await;
    let _server = place.starts_at(address, &["serve"], &[]).await;
    bob.sends("Alice", "after a crash");
    follower.prints("after a crash").await;

    let printed = follower.printed();
    let lines: Vec<_> = printed.lines().map(|line| &line[20..]).collect();
    let expected = ["Alice: before", "Alice: live", "Alice: after a stop", "Bob: after a crash"];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn a_follower_goes_on_after_the_conversation_was_cleared() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    alice.sends("Bob", "before");
    let follower = bob.starts("followed.txt", &["read", "Alice", "--follow", "--json"]);
    follower.prints("before").await;
    alice.person.clears().await.ok();
    alice.sends("Bob", "after");
    follower.prints("after").await;
    let printed = follower.printed();
    let messages: Vec<Value> =
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(messages.len(), 2, "{printed}");
    assert_ne!(messages[0]["instance"], messages[1]["instance"]);
}

#[tokio::test]
async fn a_follower_and_a_listener_do_not_disturb_each_other() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let follower = bob.starts("followed.txt", &["read", "Alice", "--follow"]);
    let listener = bob.starts("listened.txt", &["listen"]);
    for text in ["one", "two"] {
        // The listener may begin behind the first message.
        alice.sends("Bob", text);
        follower.prints(text).await;
    }
    listener.prints("two").await;
}

#[tokio::test]
async fn a_listener_goes_on_where_the_last_one_ended() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    alice.sends("Bob", "long ago");
    let positions = bob.positions();
    let listener = bob.starts("first.txt", &["listen"]);
    until("it listens", async || positions.exists()).await;
    let before = fs::read(&positions).unwrap();
    alice.sends("Bob", "heard");
    listener.prints("heard").await;
    until("it has recorded that", async || fs::read(&positions).unwrap() != before).await;
    drop(listener);

    alice.sends("Bob", "missed");
    let listener = bob.starts("second.txt", &["listen"]);
    listener.prints("missed").await;
    let printed = listener.printed();
    assert!(!printed.contains("long ago") && !printed.contains("heard"), "{printed}");
}

#[tokio::test]
async fn a_second_listener_of_a_profile_replaces_the_first() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let mut first = bob.starts("first.txt", &["listen", "--json"]);
    alice.sends("Bob", "one");
    first.prints("one").await;
    let second = bob.starts("second.txt", &["listen"]);
    first.prints(r#""errorcode":"replaced""#).await;
    assert_eq!(first.child.wait().unwrap().code(), Some(1));
    alice.sends("Bob", "two");
    second.prints("two").await;
}
