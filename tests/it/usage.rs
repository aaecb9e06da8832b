//! `chatserver usage`: which users and conversations take the space.

use serde_json::{Value, json};

use crate::harness::process::Workplace;
use crate::harness::reports::settled;

/// Returns the sums that an object of the report holds: bytes, messages and reports.
fn space(of: &Value) -> [i64; 3] {
    ["bytes", "messages", "reports"].map(|name| of[name].as_i64().unwrap())
}

fn emails(users: &Value) -> Vec<&str> {
    users.as_array().unwrap().iter().map(|user| user["email"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn users_and_conversations_are_listed_with_the_most_bytes_first() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (mut alice, bob) = place.alice_and_bob(&server);
    let mut carol = place.adds(&server, "Carol");
    place.adds(&server, "Dave");
    let with_bob = alice.clone();
    place.befriends(&mut alice, &mut carol);
    // Three bytes of text are four of base64.
    with_bob.sends("one").await;
    bob.sends("two").await;
    settled(&with_bob, &bob).await;
    alice.sends("some more text than in the other conversation").await;

    let told = place.tells(&["usage"]);
    assert_eq!(space(&told["total"]), [68, 3, 2]);
    assert_eq!((&told["total"]["users"], &told["total"]["conversations"]), (&json!(4), &json!(2)));
    let users = &told["users"];
    assert_eq!(
        emails(users),
        ["alice@example.com", "carol@example.com", "bob@example.com", "dave@example.com"]
    );
    let of_users: Vec<_> = users.as_array().unwrap().iter().map(space).collect();
    assert_eq!(of_users, [[68, 3, 2], [60, 1, 0], [8, 2, 2], [0, 0, 0]]);
    let of_each: Vec<_> =
        users.as_array().unwrap().iter().map(|user| &user["conversations"]).collect();
    assert_eq!(of_each, [&json!(2), &json!(1), &json!(1), &json!(0)]);
    let conversations = told["conversations"].as_array().unwrap();
    assert_eq!(conversations.len(), 2);
    assert_eq!(conversations[0]["conversationid"], alice.conversation);
    assert_eq!(conversations[0]["emails"], json!(["alice@example.com", "carol@example.com"]));
    assert_eq!(space(&conversations[0]), [60, 1, 0]);
    assert_eq!(conversations[1]["conversationid"], bob.conversation);
    assert_eq!(space(&conversations[1]), [8, 2, 2]);

    let top = place.tells(&["usage", "--top", "1"]);
    assert_eq!(top["total"], told["total"], "the sums are those of all");
    assert_eq!(emails(&top["users"]), ["alice@example.com"]);
    assert_eq!(top["conversations"], json!([conversations[0]]));

    let printed = String::from_utf8(place.runs(&["usage"]).stdout).unwrap();
    let conversation = format!(
        "conversation {} alice@example.com carol@example.com bytes of data: 60, messages: 1, reports: 0",
        alice.conversation
    );
    for line in [
        "users: 4, conversations: 2, bytes of data: 68, messages: 3, reports: 2",
        "user carol@example.com bytes of data: 60, messages: 1, reports: 0, conversations: 1",
        &conversation,
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line} in {printed}");
    }

    with_bob.clears().await.ok();
    let told = place.tells(&["usage"]);
    assert_eq!(space(&told["total"]), [60, 1, 0], "a cleared conversation takes no space");
}

#[tokio::test]
async fn usage_tells_the_size_of_the_database() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, _bob) = place.alice_and_bob(&server);
    alice.sends("hello").await;
    let told = place.tells(&["usage"]);
    assert!(told["databasebytes"].as_u64().unwrap() > 10_000, "{told}");
    let is_file = std::fs::exists(place.path().join("chatserver.db")).unwrap();
    for name in ["freebytes", "logbytes"] {
        assert_eq!(told[name].is_u64(), is_file, "{told}");
        assert_eq!(told[name].is_null(), !is_file, "PostgreSQL does not tell: {told}");
    }
}

#[tokio::test]
async fn usage_of_many_conversations_is_read_in_steps() {
    let place = Workplace::new();
    place.tells(&["migrate"]);
    let mut database = place.opens_database().await;
    // More rows than a step reads.
    let numbers = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 2500)";
    let user = "'00000000000000000000000000' || (100000 + n)";
    for statement in [
        format!(
            "{numbers} INSERT INTO users (number, id, email, nick, full_name, api_key, api_key_digest, private_key, public_key)
             SELECT n, {user}, 'user-' || n || '@example.com', 'N', '', 'k', 'digest-' || n, '', '' FROM numbers"
        ),
        format!(
            "{numbers} INSERT INTO conversations (number, id, generation, instance, next_seq, last_message_id, last_access, data_bytes)
             SELECT n, {user}, n, 'aaaaaaaaaa', 2, 'm-1', 0, n FROM numbers"
        ),
        format!(
            "{numbers} INSERT INTO participants (place, user_id, user_number, conversation_id, conversation_number, standing, secret, display_name)
             SELECT n * 4294967296 + n, {user}, n, {user}, n, 'open', '', '' FROM numbers"
        ),
    ] {
        database.runs(&statement).await;
    }
    database.closes().await;
    let told = place.tells(&["usage", "--top", "2"]);
    assert_eq!(space(&told["total"]), [2500 * 2501 / 2, 2500, 0]);
    assert_eq!(emails(&told["users"]), ["user-2500@example.com", "user-2499@example.com"]);
}

#[test]
fn usage_of_no_database_creates_none() {
    let place = Workplace::new();
    let said = place.fails(&["usage", "--database-url", "sqlite://nowhere.db"]);
    assert!(said.contains("nowhere.db"), "{said}");
    assert!(!place.path().join("nowhere.db").exists());
    let said = place.fails(&["usage", "--top", "0"]);
    assert!(said.contains("--top"), "{said}");
}
