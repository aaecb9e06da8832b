//! Migrations of filled databases from earlier versions. Nothing in them is lost.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::database::{Database, hash};
use crate::harness::person::Person;
use crate::harness::process::{Workplace, free_address};
use crate::harness::world::until;

/// Schema of version 1. `FIRST_FILLED` fills it from the tables of `new`, a database of the current version, and adds
/// 40 messages from Alice to each of her friends.
pub const FIRST: &str = include_str!("../../migrations/sqlite/0001_users_and_conversations.sql");

const FIRST_FILLED: &str = "
    INSERT INTO users SELECT id, email, nick, full_name, api_key, api_key_digest, is_disabled,
                             private_key, public_key FROM new.users;
    INSERT INTO friends SELECT user_id, friend_id FROM new.friends;
    INSERT INTO conversations SELECT id, 2, instance, 41, 'm-40', 1709899200 FROM new.conversations;
    INSERT INTO participants SELECT conversation_id, user_id, secret, display_name, 1, 0, 0, 'x',
                                    '#bae1ff' FROM new.participants;
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 40)
    INSERT INTO messages SELECT c.id, 2, n, CASE n % 4
                                    WHEN 1 THEN printf('%08x-abcd-4bcd-8bcd-abcdefabcdef', n)
                                    WHEN 2 THEN printf('%08x-ABCD-4bcd-8bcd-abcdefabcdef', n - 1)
                                    ELSE 'm-' || n END,
                                u.id, CASE n WHEN 3 THEN 'a \"Note\" \\ 😀' ELSE 'Message' END,
                                '2024-03-08 12:00:00', '', 1709899200, 'aGk=' FROM conversations c, users u, numbers
                         WHERE u.email = 'alice@example.com';
    INSERT INTO messages SELECT id, 1, 1, 'm-0', 'x', 'Message', '2024-03-08 12:00:00', '',
                                1709899200, 'aGk=' FROM conversations;
    INSERT INTO purges SELECT id, 1 FROM conversations;";

/// Schema changes of version 2. `SECOND_FILLED` adds reports: ten of Alice's messages are delivered to Bob and three
/// viewed. It adds positions of Bob's two stations, and Alice blocks Carol.
const SECOND: &str = include_str!("../../migrations/sqlite/0002_reports_stations_and_changes.sql");

const SECOND_FILLED: &str = "
    CREATE TEMP TABLE bob AS SELECT user_id, conversation_id FROM participants
        WHERE user_id = (SELECT id FROM users WHERE email = 'bob@example.com');
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 13)
    INSERT INTO reports SELECT conversation_id, 2, n, printf('11111111-1111-8111-8111-%012x', n),
                               CASE WHEN n <= 10 THEN 'delivered' ELSE 'viewed' END,
                               '2024-03-08 12:00:01', CASE WHEN n <= 10 THEN n ELSE n - 10 END, user_id
                        FROM bob, numbers;
    UPDATE conversations SET next_report_seq = 14, last_report_id = '11111111-1111-8111-8111-00000000000d'
        WHERE id = (SELECT conversation_id FROM bob);
    UPDATE participants SET delivered_to = 10 WHERE user_id = (SELECT user_id FROM bob);
    INSERT INTO change_numbers SELECT user_id, 5 FROM bob;
    INSERT INTO changes SELECT user_id, 'conversation', conversation_id, 5, '', 0 FROM bob;
    INSERT INTO changes SELECT user_id, 'list', '', 3, '', 0 FROM bob;
    INSERT INTO stations SELECT user_id, '00000000000000000000000000000000', 1709899200, 1709899200, 4 FROM bob;
    INSERT INTO stations SELECT user_id, '00000000000000000000000000000001', 1709899200, 1709899200, 5 FROM bob;
    INSERT INTO replays SELECT user_id, 'cafe', 4102444800 FROM bob;
    INSERT INTO blocks SELECT a.id, c.id FROM users a, users c
        WHERE a.email = 'alice@example.com' AND c.email = 'carol@example.com';
    DROP TABLE bob;";

/// Schema changes of version 3, which introduces integer keys. `THIRD_FILLED` cuts Alice's and Carol's conversation to
/// one whole run of 32 messages. It adds a conversation that is longer than a step of the migration, and an empty one.
const THIRD: &str = include_str!("../../migrations/sqlite/0003_short_keys.sql");

const THIRD_FILLED: &str = "
    CREATE TEMP TABLE carols AS SELECT number, generation FROM conversations
        WHERE id = (SELECT conversation_id FROM participants
                    WHERE user_id = (SELECT id FROM users WHERE email = 'carol@example.com'));
    DELETE FROM messages WHERE place > ((SELECT generation FROM carols) << 32) + 32
        AND place < ((SELECT generation FROM carols) + 1) << 32;
    UPDATE conversations SET next_seq = 33, last_message_id = 'm-32'
        WHERE number = (SELECT number FROM carols);
    DROP TABLE carols;
    INSERT INTO conversations (id, generation, instance, next_seq, last_message_id, last_access)
    VALUES ('long', 1000, 'long', 9001, 'm-9000', 1709899200), ('empty', 1001, 'empty', 1, '', 0);
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 9000)
    INSERT INTO messages SELECT (1000 << 32) + n, 'm-' || n, 1, NULL, 1709899200, '', 1709899200, 'aGk=' FROM numbers;";

/// Schema changes of versions 4 to 8, which list the newest messages of a generation in a column.
const FOURTH_TO_EIGHTH: [&str; 5] = [
    include_str!("../../migrations/sqlite/0004_hashes_of_message_ids.sql"),
    include_str!("../../migrations/sqlite/0005_quota.sql"),
    include_str!("../../migrations/sqlite/0006_true_dates.sql"),
    include_str!("../../migrations/sqlite/0007_epoch.sql"),
    include_str!("../../migrations/sqlite/0008_plain_rows.sql"),
];

/// Schema changes of versions 9 and 10. `TENTH_FILLED` makes every third message of Alice's and Bob's conversation Bob's,
/// and Bob has viewed up to the twentieth.
const NINTH_AND_TENTH: [&str; 2] = [
    include_str!("../../migrations/sqlite/0009_message_ids.sql"),
    include_str!("../../migrations/sqlite/0010_read_positions.sql"),
];

const TENTH_FILLED: &str = "
    CREATE TEMP TABLE bobs AS SELECT p.user_number, p.place, c.generation << 32 AS base
        FROM participants p JOIN conversations c ON c.number = p.conversation_number
        WHERE p.user_id = (SELECT id FROM users WHERE email = 'bob@example.com');
    UPDATE messages SET sender_number = bobs.user_number
        FROM bobs WHERE (messages.place - base) BETWEEN 1 AND 40 AND (messages.place - base) % 3 = 0;
    UPDATE participants SET read_to = base + 20 FROM bobs WHERE participants.place = bobs.place;
    DROP TABLE bobs;";

/// Makes `chatserver.db` a database of an earlier version, from the users and friends in `new.db` and the SQL of each
/// step.
pub async fn fills(place: &Workplace, steps: &[&str], version: u8) {
    let mut old = Database::creates(&place.database()).await;
    let new = place.path().join("new.db");
    old.runs(&format!("ATTACH '{}' AS new", new.display())).await;
    for step in steps {
        old.runs(step).await;
    }
    let applied = "SELECT sql FROM new.sqlite_schema WHERE name = '_sqlx_migrations'";
    let applied = old.text(applied).await;
    old.runs(&applied).await;
    let earlier = format!(
        "INSERT INTO _sqlx_migrations SELECT * FROM new._sqlx_migrations WHERE version <= {version}"
    );
    old.runs(&earlier).await;
    old.closes().await;
}

/// Output of the commands that added Alice and her two friends.
struct Added {
    people: [Value; 3],
    with_bob: Value,
    with_carol: Value,
}

struct People {
    alice: Person,
    bob: Person,
    /// Alice, with her conversation with Carol selected.
    alice_to_carol: Person,
    carol: Person,
}

/// Adds Alice, Bob and Carol to `new.db`, and makes Alice a friend of both others. Their API
/// keys are in clear, as in earlier versions.
async fn adds(place: &Workplace) -> Added {
    let tells = |command: &[&str]| -> Value {
        place.tells(&[command, &["--database-url", "sqlite://new.db"]].concat())
    };
    let people = ["Alice", "Bob", "Carol"].map(|nick| {
        tells(&["user", "add", &format!("{}@example.com", nick.to_lowercase()), "--nick", nick])
    });
    let befriends = |friend| tells(&["friend", "add", "alice@example.com", friend]);
    let (with_bob, with_carol) = (befriends("bob@example.com"), befriends("carol@example.com"));
    let mut new = Database::opens(&place.path().join("new.db")).await;
    for told in &people {
        new.holds_in_clear(told["userid"].as_str().unwrap(), told["apikey"].as_str().unwrap())
            .await;
    }
    new.closes().await;
    Added { people, with_bob, with_carol }
}

impl Added {
    fn at(&self, address: SocketAddr) -> People {
        let in_conversation = |told, with: &Value| {
            let mut person = Person::added(told, address);
            with["conversationid"].as_str().unwrap().clone_into(&mut person.conversation);
            person
        };
        let [alice, bob, carol] = &self.people;
        People {
            alice: in_conversation(alice, &self.with_bob),
            bob: in_conversation(bob, &self.with_bob),
            alice_to_carol: in_conversation(alice, &self.with_carol),
            carol: in_conversation(carol, &self.with_carol),
        }
    }
}

#[tokio::test]
async fn data_of_version_1_is_served_after_the_migration() {
    let place = Workplace::new();
    let people = adds(&place).await;
    fills(&place, &[FIRST, FIRST_FILLED], 1).await;

    let server = place.serves(&[]).await;
    let People { alice, bob, .. } = people.at(server.address);
    let seen = bob.sees().await;
    assert_eq!((&seen["lastmessageid"], &seen["lastreportid"]), (&json!("m-40"), &json!("")));
    assert_eq!(seen["properties"][0]["listitembackgroundcolor"], "#bae1ff");
    let before = bob.downloads().await.ok();
    let messages = before["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 40);
    assert_eq!(
        [&messages[0]["ID"], &messages[1]["ID"]],
        ["00000001-abcd-4bcd-8bcd-abcdefabcdef", "00000001-ABCD-4bcd-8bcd-abcdefabcdef",]
    );
    assert_eq!([&messages[1]["Type"], &messages[2]["Type"]], ["Message", "a \"Note\" \\ 😀"]);
    for message in messages {
        assert_eq!(message["Created"], "2024-03-08 12:00:00");
        alice.adds(message).await.ok();
    }
    assert_eq!(bob.reads().await, ["hi"; 40], "what was sent again was there");
    let everything = bob.is_notified().await;
    assert_eq!(everything.conversations, std::slice::from_ref(&bob.conversation));
    assert_eq!(everything.friends, [alice.user.to_string()]);
    bob.reports_as("viewed", &["00000001-ABCD-4bcd-8bcd-abcdefabcdef", "m-40"]).await.ok();
    let told = alice.told().await;
    let viewed = told.iter().filter(|(kind, _)| kind == "viewed").map(|(_, message)| message);
    assert_eq!(viewed.collect::<Vec<_>>(), ["00000001-ABCD-4bcd-8bcd-abcdefabcdef", "m-40"]);
    alice.sends("and on").await;
    assert_eq!(bob.reads().await[40..], ["and on"]);
}

/// Extends one conversation of version 1 to 300,000 messages.
const MANY: &str = "
    WITH RECURSIVE numbers (n) AS (SELECT 41 UNION ALL SELECT n + 1 FROM numbers WHERE n < 300000)
    INSERT INTO messages SELECT min(c.id), 2, n, 'm-' || n, u.id, 'Message', '2024-03-08 12:00:00', '', 1709899200, 'aGk='
        FROM conversations c, users u, numbers WHERE u.email = 'alice@example.com' GROUP BY n, u.id;
    UPDATE conversations SET next_seq = 300001, last_message_id = 'm-300000'
        WHERE id = (SELECT min(id) FROM conversations);";

#[tokio::test]
async fn a_migration_logs_its_progress_and_a_signal_ends_it() {
    let place = Workplace::new();
    adds(&place).await;
    fills(&place, &[FIRST, FIRST_FILLED, MANY], 1).await;
    let mut server = place.starts_without_waiting(free_address(), &["serve"], &[]);
    place.logs("running a migration migration=3 ").await;
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(1), "{}", place.log());
    assert!(place.log().contains("stopped by SIGTERM before the server was started"));
    let mut database = place.opens_database().await;
    let version = database.number("SELECT max(version) FROM _sqlx_migrations").await;
    assert_eq!(version, 1, "nothing of it is kept");
    database.closes().await;
    place.tells(&["migrate"]);
}

#[tokio::test]
async fn data_of_version_3_is_served_after_the_migration() {
    let place = Workplace::new();
    let people = adds(&place).await;
    let steps = [FIRST, FIRST_FILLED, SECOND, SECOND_FILLED, THIRD, THIRD_FILLED];
    fills(&place, &steps, 3).await;

    let server = place.serves(&[]).await;
    let People { alice, bob, alice_to_carol, carol } = people.at(server.address);
    let mut database = place.opens_database().await;
    database.indexes_all_messages().await;
    let sizes =
        "SELECT id, data_bytes FROM conversations WHERE id IN ('empty', 'long') ORDER BY id";
    let sizes: Vec<(String, i64)> =
        sqlx::query_as(sizes).fetch_all(database.connection()).await.unwrap();
    assert_eq!(sizes, [("empty".to_owned(), 0), ("long".to_owned(), 9000 * 4)]);
    database.closes().await;
    for (sender, reader, messages) in [(alice, bob, 40), (alice_to_carol, carol, 32)] {
        let before = reader.downloads().await.ok();
        let before = before["messages"].as_array().unwrap();
        for message in before {
            sender.adds(message).await.ok();
        }
        assert_eq!(reader.reads().await, vec!["hi"; messages], "what was sent again was there");
    }
}

#[tokio::test]
async fn newest_messages_of_version_8_are_listed_by_the_migration() {
    let place = Workplace::new();
    adds(&place).await;
    // The eighth version lists whole runs of 32 messages.
    let whole = (1..=9000 / 32 * 32).map(|n| format!("(1000, {}, {n})", hash(&format!("m-{n}"))));
    let whole = format!("INSERT INTO message_ids VALUES {}", whole.collect::<Vec<_>>().join(", "));
    let first = (1..=32).map(|n| {
        let id = match n % 4 {
            1 => format!("{n:08x}-abcd-4bcd-8bcd-abcdefabcdef"),
            2 => format!("{:08x}-ABCD-4bcd-8bcd-abcdefabcdef", n - 1),
            _ => format!("m-{n}"),
        };
        format!(
            "INSERT INTO message_ids SELECT generation, {}, {n} FROM conversations
             WHERE next_seq > 1 AND id <> 'long'",
            hash(&id)
        )
    });
    let first = first.collect::<Vec<_>>().join(";");
    let rest = "UPDATE conversations SET young = CAST(zeroblob(64) AS BLOB) WHERE id = 'long'";
    let third = [FIRST, FIRST_FILLED, SECOND, SECOND_FILLED, THIRD, THIRD_FILLED];
    let steps = [&third[..], &FOURTH_TO_EIGHTH, &[&whole, &first, rest]].concat();
    fills(&place, &steps, 8).await;

    let _server = place.serves(&[]).await;
    place.opens_database().await.indexes_all_messages().await;
}

#[tokio::test]
async fn a_database_is_not_migrated_while_a_server_has_it() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let mut database = place.opens_database().await;
    let older =
        "DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)";
    database.runs(older).await;
    database.closes().await;
    let said = place.fails(&["migrate"]);
    assert!(said.contains("chatserver.db is in use by"), "{said}");
    server.stops(&place).await;
}

#[tokio::test]
async fn a_missing_message_keeps_no_database_from_being_migrated() {
    let third = [FIRST, FIRST_FILLED, SECOND, SECOND_FILLED, THIRD, THIRD_FILLED];
    let eighth = [&third[..], &FOURTH_TO_EIGHTH].concat();
    for (steps, version) in [(&third[..], 3), (&eighth, 8)] {
        let place = Workplace::new();
        adds(&place).await;
        fills(&place, steps, version).await;
        let mut database = place.opens_database().await;
        database.runs("DELETE FROM messages WHERE place = (1000 << 32) + 8999").await;
        database.closes().await;

        place.tells(&["migrate"]);
        let mut database = place.opens_database().await;
        let listed = "SELECT max(seq) FROM message_ids WHERE generation = 1000";
        assert_eq!(database.number(listed).await, 9000);
        let listed = "SELECT count(*) FROM message_ids WHERE generation = 1000 AND seq = 8999";
        assert_eq!(database.number(listed).await, 0);
        database.closes().await;
    }
}

#[tokio::test]
async fn data_of_version_2_is_served_after_the_migration() {
    let place = Workplace::new();
    let people = adds(&place).await;
    fills(&place, &[FIRST, FIRST_FILLED, SECOND, SECOND_FILLED], 2).await;

    let server = place.serves(&[]).await;
    let People { alice, bob, alice_to_carol, carol } = people.at(server.address);
    // Bob has viewed the first three of Alice's forty messages, and Carol none.
    let unread = (alice.unread().await, bob.unread().await, carol.unread().await);
    assert_eq!(unread, (0, 37, 40));
    let told_before = bob.at("00000000000000000000000000000001").is_notified().await;
    assert!(told_before.conversations.is_empty(), "{told_before:?}");
    let behind = bob.at("00000000000000000000000000000000").is_notified().await;
    assert_eq!(behind.conversations, std::slice::from_ref(&bob.conversation));
    assert!(behind.lists.is_empty(), "told already: {behind:?}");
    assert_eq!(bob.sees().await["lastreportid"], "1111111111118111811100000000000d");

    let reports = alice.told().await;
    let of_type = |wanted| reports.iter().filter(|(kind, _)| kind == wanted).count();
    assert_eq!((reports.len(), of_type("delivered"), of_type("viewed")), (13, 10, 3));
    assert_eq!(reports[12], ("viewed".to_owned(), "m-3".to_owned()));
    assert_eq!(bob.downloads().await.message_ids().len(), 40);
    until("the other thirty are delivered", async || alice.told().await.len() == 43).await;
    assert_eq!(alice.told().await[42], ("delivered".to_owned(), "m-40".to_owned()));

    let message = crate::harness::person::message("hi", &alice.date());
    alice_to_carol.adds(&message).await.refused(403, "blocked");
    carol.adds(&message).await.refused(403, "not_friends");
    assert_eq!(carol.downloads().await.message_ids().len(), 40);

    let mut database = place.opens_database().await;
    let kept: Vec<(i64, String)> =
        sqlx::query_as("SELECT * FROM replays WHERE expires_at = 4102444800")
            .fetch_all(database.connection())
            .await
            .unwrap();
    assert_eq!(kept, [(4_102_444_800, "cafe".to_owned())]);
    database.closes().await;
}

#[tokio::test]
async fn read_positions_of_version_10_count_the_same_messages() {
    let place = Workplace::new();
    let people = adds(&place).await;
    let third = [FIRST, FIRST_FILLED, SECOND, SECOND_FILLED, THIRD, THIRD_FILLED];
    let steps = [&third[..], &FOURTH_TO_EIGHTH, &NINTH_AND_TENTH, &[TENTH_FILLED]].concat();
    fills(&place, &steps, 10).await;

    let server = place.serves(&[]).await;
    let People { alice, bob, .. } = people.at(server.address);
    // Alice sent thirteen of the messages 21 to 40. Bob sent thirteen of all.
    assert_eq!((alice.unread().await, bob.unread().await), (13, 13));
    let sent = alice.sends("one more").await;
    assert_eq!((alice.unread().await, bob.unread().await), (13, 14));
    bob.reports_as("viewed", &[&sent]).await.ok();
    bob.sends("and one back").await;
    assert_eq!((alice.unread().await, bob.unread().await), (14, 0));
}
