//! Databases that an earlier version has filled are brought up to date with everything in them.

use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, SqliteConnection};

use crate::binary::Workplace;
use crate::world::Person;

/// The schema of the first version, and what Alice and Bob had in it. Their rows are taken from `new`, a database of
/// this version, as far as there was room for them.
const FIRST: &str = include_str!("../../migrations/sqlite/0001_users_and_conversations.sql");

const FILLED: &str = "
    INSERT INTO users SELECT id, email, nick, full_name, api_key, api_key_digest, is_disabled,
                             private_key, public_key FROM new.users;
    INSERT INTO friends SELECT user_id, friend_id FROM new.friends;
    INSERT INTO conversations SELECT id, 2, instance, 21, 'm-20', 1709899200 FROM new.conversations;
    INSERT INTO participants SELECT conversation_id, user_id, secret, display_name, 1, 0, 0, 'x',
                                    '#bae1ff' FROM new.participants;
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 20)
    INSERT INTO messages SELECT c.id, 2, n, CASE n % 4
                                    WHEN 1 THEN printf('%08x-abcd-4bcd-8bcd-abcdefabcdef', n)
                                    WHEN 2 THEN printf('%08x-ABCD-4bcd-8bcd-abcdefabcdef', n - 1)
                                    ELSE 'm-' || n END,
                                u.id, CASE n WHEN 3 THEN 'Note' ELSE 'Message' END,
                                '2024-03-08 12:00:00', '', 1709899200, 'aGk=' FROM conversations c, users u, numbers
                         WHERE u.email = 'alice@example.com';
    INSERT INTO messages SELECT id, 1, 1, 'm-0', 'x', 'Message', '2024-03-08 12:00:00', '',
                                1709899200, 'aGk=' FROM conversations;
    INSERT INTO purges SELECT id, 1 FROM conversations;";

/// Makes `chatserver.db` a database of the first version, filled with what is in `new.db`.
async fn fills(place: &Workplace) {
    let create = SqliteConnectOptions::new().create_if_missing(true);
    let mut old = create.filename(place.path().join("chatserver.db")).connect().await.unwrap();
    let new = place.path().join("new.db");
    runs(&mut old, format!("ATTACH '{}' AS new", new.display())).await;
    runs(&mut old, FIRST.to_owned()).await;
    let applied = "SELECT sql FROM new.sqlite_schema WHERE name = '_sqlx_migrations'";
    let applied: String = sqlx::query_scalar(applied).fetch_one(&mut old).await.unwrap();
    runs(&mut old, applied).await;
    let first = "INSERT INTO _sqlx_migrations SELECT * FROM new._sqlx_migrations WHERE version = 1";
    runs(&mut old, first.to_owned()).await;
    runs(&mut old, FILLED.to_owned()).await;
    old.close().await.unwrap();
}

async fn runs(database: &mut SqliteConnection, statements: String) {
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(database).await.unwrap();
}

#[tokio::test]
async fn what_the_first_version_has_kept_is_served_by_this_one() {
    let place = Workplace::new();
    let new = ["--database-url", "sqlite://new.db"];
    let added = |email, nick| -> Value {
        place.tells(&[&["user", "add", email, "--nick", nick][..], &new].concat())
    };
    let (alice, bob) = (added("alice@example.com", "Alice"), added("bob@example.com", "Bob"));
    let friends = ["friend", "add", "alice@example.com", "bob@example.com"];
    let conversation = place.tells(&[&friends[..], &new].concat());
    fills(&place).await;

    let server = place.serves(&[]).await;
    let [mut alice, mut bob] = [alice, bob].map(|told| Person::added(&told, server.address));
    for person in [&mut alice, &mut bob] {
        conversation["conversationid"].as_str().unwrap().clone_into(&mut person.conversation);
    }
    let seen = bob.sees().await;
    assert_eq!((&seen["lastmessageid"], &seen["lastreportid"]), (&json!("m-20"), &json!("")));
    assert_eq!(seen["properties"][0]["listitembackgroundcolor"], "#bae1ff");
    let before = bob.downloads().await.ok();
    let messages = before["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 20);
    assert_eq!(
        [&messages[0]["ID"], &messages[1]["ID"]],
        ["00000001-abcd-4bcd-8bcd-abcdefabcdef", "00000001-ABCD-4bcd-8bcd-abcdefabcdef",]
    );
    assert_eq!([&messages[1]["Type"], &messages[2]["Type"]], ["Message", "Note"]);
    for message in messages {
        assert_eq!(message["Created"], "2024-03-08 12:00:00");
        alice.adds(message).await.ok();
    }
    assert_eq!(bob.reads().await, ["hi"; 20], "what was sent again was there");
    let everything = bob.is_notified().await;
    assert_eq!(everything.conversations, [bob.conversation.clone()]);
    assert_eq!(everything.friends, [alice.user.to_string()]);
    bob.reports_as("viewed", &["00000001-ABCD-4bcd-8bcd-abcdefabcdef", "m-20"]).await.ok();
    let told = alice.told().await;
    let viewed = told.iter().filter(|(kind, _)| kind == "viewed").map(|(_, message)| message);
    assert_eq!(viewed.collect::<Vec<_>>(), ["00000001-ABCD-4bcd-8bcd-abcdefabcdef", "m-20"]);
    alice.sends("and on").await;
    assert_eq!(bob.reads().await[20..], ["and on"]);
}
