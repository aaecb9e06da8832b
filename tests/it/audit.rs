//! `chatserver audit`: what was done to accounts, keys, friendships and retention, and by whom.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use chatserver::domain::{Parse as _, Timestamp};
use serde_json::{Value, json};

use crate::harness::person::Person;
use crate::harness::postgres::PostgresDatabase;
use crate::harness::process::{Process, Workplace};
use crate::harness::world::{World, until};

const DAY: i64 = 24 * 60 * 60;

impl Workplace {
    /// Returns the entries of the log, without numbers and dates, which must ascend.
    #[track_caller]
    fn audits(&self, arguments: &[&str]) -> Vec<Value> {
        let told = self.tells(&[&["audit"], arguments].concat());
        let mut entries = told["entries"].as_array().unwrap().clone();
        let mut numbers = Vec::new();
        for entry in &mut entries {
            let entry = entry.as_object_mut().unwrap();
            numbers.push(entry.remove("number").unwrap().as_i64().unwrap());
            assert!(entry.remove("date").unwrap().as_str().unwrap().starts_with("20"));
        }
        assert!(numbers.is_sorted(), "{numbers:?}");
        entries
    }

    /// Returns the actions of these entries.
    #[track_caller]
    fn actions(&self, arguments: &[&str]) -> Vec<String> {
        let action = |entry: &Value| entry["action"].as_str().unwrap().to_owned();
        self.audits(arguments).iter().map(action).collect()
    }

    fn runs_as(&self, operator: (&str, &str), arguments: &[&str]) {
        let output = self.runs_with(arguments, "", &[operator]);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
}

/// Returns the operator of a command without an environment.
fn operator() -> String {
    format!("uid {}", fs::metadata("/proc/self").unwrap().uid())
}

fn named(person: &Person) -> Value {
    json!({ "userid": person.user.as_str(), "email": person.email })
}

async fn befriend(one: &Person, other: &Person) {
    one.wants(&other.email).await.ok();
    other.accepts(one).await.ok();
}

/// Asserts that changes by commands and by the API have entries in this workplace.
async fn each_change_has_an_entry(place: &Workplace, server: &Process) {
    let (alice, bob) = (place.adds(server, "Alice"), place.adds(server, "Bob"));
    befriend(&alice, &bob).await;
    bob.removes(alice.user.as_str()).await.ok();
    let sudo = ("SUDO_USER", "dora");
    place.runs_as(sudo, &["user", "set", "alice@example.com", "--nick", "Ally"]);
    place.runs_as(sudo, &["user", "disable", "alice@example.com"]);
    place.runs_as(sudo, &["user", "disable", "alice@example.com"]);
    place.runs_as(sudo, &["user", "enable", "alice@example.com"]);
    place.runs_as(("USER", "erin"), &["user", "rotate-key", "alice@example.com"]);
    place.tells(&["friend", "add", "alice@example.com", "bob@example.com"]);
    place.tells(&["friend", "remove", "alice@example.com", "bob@example.com"]);
    let conversation = place.tells(&["usage"])["conversations"][0]["conversationid"].clone();
    let id = conversation.as_str().unwrap();
    place.tells(&["conversation", "retention", id, "--days", "30"]);
    place.tells(&["keys", "rotate", "--add-only"]);
    place.tells(&["keys", "rotate"]);

    let (a, b) = (named(&alice), named(&bob));
    let by_uid =
        |action: &str, by: &str| json!({ "action": action, "by": by, "operator": operator() });
    let with = |mut entry: Value, more: Value| {
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        entry
    };
    let by_dora = |action: &str, by: &str| json!({ "action": action, "by": by, "operator": "dora", "user": a });
    let by_api = |action: &str, actor: &Value, other: &Value| {
        json!({
            "action": action, "by": "api", "actor": actor, "address": "127.0.0.1", "user": actor,
            "friend": other,
        })
    };
    let expected = [
        with(by_uid("user_added", "command user add"), json!({ "user": a })),
        with(by_uid("user_added", "command user add"), json!({ "user": b })),
        by_api("friendship_made", &b, &a),
        by_api("friendship_ended", &b, &a),
        with(by_dora("user_renamed", "command user set"), json!({ "details": "nick" })),
        by_dora("user_disabled", "command user disable"),
        by_dora("user_enabled", "command user enable"),
        json!({
            "action": "api_key_replaced", "by": "command user rotate-key", "operator": "erin", "user": a,
        }),
        with(by_uid("friendship_made", "command friend add"), json!({ "user": a, "friend": b })),
        with(
            by_uid("friendship_ended", "command friend remove"),
            json!({ "user": a, "friend": b }),
        ),
        with(
            by_uid("retention_set", "command conversation retention"),
            json!({ "conversationid": conversation, "details": "30 days" }),
        ),
        with(by_uid("sealing_key_activated", "command keys rotate"), json!({ "details": "key 2" })),
    ];
    let entries = place.audits(&[]);
    for (entry, expected) in entries.iter().zip(&expected) {
        assert_eq!(entry, expected);
    }
    assert_eq!(entries.len(), expected.len());
    let of_bob = place.actions(&["--user", &bob.email]);
    let friendship = ["friendship_made", "friendship_ended"];
    assert_eq!(of_bob, [&["user_added"][..], &friendship, &friendship].concat());
    assert_eq!(place.actions(&["--user", bob.user.as_str()]), of_bob);
}

#[tokio::test]
async fn changes_of_accounts_keys_friendships_and_retention_have_entries() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    each_change_has_an_entry(&place, &server).await;
}

#[tokio::test]
async fn changes_have_entries_on_postgres() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let place = Workplace::on(database.into());
    let server = place.serves(&[]).await;
    each_change_has_an_entry(&place, &server).await;
}

#[tokio::test]
async fn an_invitation_is_followed_to_its_user() {
    let place = Workplace::new();
    place.tells(&["migrate"]);
    place.tells(&["user", "invite", "carol@example.com"]);
    place.tells(&["user", "uninvite", "carol@example.com"]);
    place.tells(&["user", "uninvite", "carol@example.com"]);
    let invited = place.audits(&["--user", "carol@example.com"]);
    assert_eq!(invited[0]["invited"], "carol@example.com");
    assert_eq!(invited[1]["action"], "invitation_revoked");
    let added = place.tells(&["user", "add", "carol@example.com", "--nick", "Carol"]);
    let entries = place.audits(&["--user", added["userid"].as_str().unwrap()]);
    assert_eq!(entries.len(), 3);
    for entry in &entries {
        assert_eq!(entry["user"]["email"], "carol@example.com");
        assert!(entry.get("invited").is_none(), "{entry}");
    }
    let printed = String::from_utf8(place.runs(&["audit"]).stdout).unwrap();
    let last = printed.lines().last().unwrap();
    let by = format!(" user_added carol@example.com by command user add, {}", operator());
    assert!(last.ends_with(&by), "{last}");
}

#[tokio::test]
async fn of_a_deleted_user_the_log_keeps_the_tombstones_id_alone() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    place.tells(&["user", "invite", "alice@example.com"]);
    let (alice, bob) = (place.adds(&server, "Alice"), place.adds(&server, "Bob"));
    befriend(&bob, &alice).await;
    place.tells(&["user", "set", &alice.email, "--fullname", "Alice Example"]);
    let before = place.audits(&["--user", &alice.email]);
    assert_eq!(before[2]["address"], "127.0.0.1");
    let deleted = place.tells(&["user", "delete", &alice.email, "--yes"]);
    let entries = place.audits(&["--user", deleted["deletedid"].as_str().unwrap()]);
    let actions: Vec<_> = entries.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(
        actions,
        [
            "user_invited",
            "user_added",
            "friendship_made",
            "user_renamed",
            "user_disabled",
            "user_deleted"
        ]
    );
    let tombstone = json!({ "userid": deleted["deletedid"], "email": "" });
    assert_eq!(entries[2]["actor"], tombstone);
    assert_eq!(entries[2]["friend"], named(&bob));
    for entry in &entries {
        assert_eq!(entry["user"], tombstone);
        assert!(entry.get("address").is_none() && entry.get("details").is_none(), "{entry}");
    }
    let all = place.tells(&["audit"]).to_string();
    assert!(!all.contains("alice") && !all.contains(alice.user.as_str()), "{all}");
    let error = place.fails(&["audit", "--user", &alice.email]);
    assert!(error.contains("there is no user alice@example.com"), "{error}");
}

#[tokio::test]
async fn of_what_a_client_does_the_newest_thousand_entries_and_the_registration_stay() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut database = world.opens_database().await;
    let many = format!(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000)
         INSERT INTO audit SELECT n + 10, 1, 'old', 'api', '', '127.0.0.1',
                (SELECT number FROM users WHERE id = '{}'), NULL, NULL, NULL, '', '' FROM n",
        alice.user,
    );
    database.runs(&many).await;
    database.runs("UPDATE audit SET action = 'user_registered' WHERE number = 11").await;
    database.runs("INSERT INTO audit SELECT 1011, at, 'old', via, operator, address, actor_number, NULL, NULL, NULL, '', '' FROM audit WHERE number = 12").await;
    let old = "SELECT count(*) FROM audit WHERE action = 'old'";
    assert_eq!(world.number(old).await, 1000);
    alice.removes(bob.user.as_str()).await.ok();
    assert_eq!(world.number(old).await, 999);
    assert_eq!(
        world.number("SELECT count(*) FROM audit WHERE action = 'user_registered'").await,
        1
    );
    assert_eq!(world.number("SELECT count(*) FROM audit WHERE actor_number IS NULL").await, 3);
}

#[tokio::test]
async fn entries_end_with_their_days_and_since_leaves_older_ones_out() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    place.tells(&["user", "add", "bob@example.com", "--nick", "Bob"]);
    let mut database = place.opens_database().await;
    database.runs("UPDATE audit SET at = at - 3 * 86400 WHERE number = 1").await;
    database.closes().await;
    assert_eq!(place.audits(&[]).len(), 2);
    assert_eq!(place.audits(&["--since", "2d"]).len(), 1);
    assert_eq!(place.audits(&["--since", "2024-03-08"]).len(), 2);
    assert_eq!(place.audits(&["--since", "2024-03-08 14:12:48"]).len(), 2);
    assert_eq!(place.audits(&["--since", "9999-01-01"]).len(), 0);
    let error = place.fails(&["audit", "--since", "yesterday"]);
    assert!(error.contains("--since must be a date such as 2024-03-08"), "{error}");
}

#[tokio::test]
async fn a_server_removes_entries_past_their_days() {
    let world = World::with(&[("audit.days", "2")]).await;
    world.alice_and_bob().await;
    let now = Timestamp::parse(&world.clock.date()).unwrap().unix();
    let mut database = world.opens_database().await;
    let statements = format!(
        "UPDATE audit SET at = {now}; UPDATE audit SET at = {now} + 86400 WHERE number = 3"
    );
    database.runs(&statements).await;
    world.clock.advances(2 * DAY - 60);
    world.has_done_its_jobs().await;
    world.clock.advances(120);
    world.has_done_its_jobs().await;
    assert_eq!(world.number("SELECT count(*) FROM audit").await, 3);
    until("the entries of the first day are removed", async || {
        world.clock.advances(60);
        world.number("SELECT count(*) FROM audit").await < 3
    })
    .await;
    assert_eq!(world.number("SELECT min(number) FROM audit").await, 3);
}

#[test]
fn a_user_who_could_not_be_printed_leaves_no_entry() {
    let place = Workplace::new();
    place.tells(&["migrate"]);
    place.tells(&["user", "invite", "alice@example.com"]);
    let mut command = place.command(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert!(!command.stdout(full).output().unwrap().status.success());
    let invited = place.audits(&[]);
    assert_eq!(invited.len(), 1, "{invited:?}");
    assert_eq!(invited[0]["invited"], "alice@example.com");
    place.tells(&["user", "add", "bob@example.com", "--nick", "Bob"]);
    let of_bob = place.audits(&["--user", "bob@example.com"]);
    assert_eq!(of_bob.len(), 1, "{of_bob:?}");
    assert_eq!(place.audits(&["--user", "Alice@Example.com"]), invited);
    let error = place.fails(&["audit", "--user", "alice"]);
    assert!(error.contains("--user must be an e-mail address or a user id"), "{error}");
}
