//! Retention by commands of the operator.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::database::Database;
use crate::harness::person::message;
use crate::harness::process::Workplace;
use crate::harness::reports::settled;
use crate::harness::world::until;

const DAYS: &str = "CHATSERVER_RETENTION__DAYS";
const VALID_UNTIL: &str = "CHATSERVER_RETENTION__VALID_UNTIL";

/// Runs `chatserver retention` with these settings, and returns what it prints.
#[track_caller]
fn retains(place: &Workplace, arguments: &[&str], settings: &[(&str, &str)]) -> Value {
    let output = place.runs_with(&[&["retention", "--json"], arguments].concat(), "", settings);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Makes the messages so far two days old.
async fn ages(place: &Workplace) {
    place
        .opens_database()
        .await
        .runs("UPDATE messages SET accepted_at = accepted_at - 172800")
        .await;
}

#[tokio::test]
async fn a_dry_run_tells_what_the_command_then_removes() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (mut alice, bob) = place.alice_and_bob(&server);
    let with_bob = alice.clone();
    let mut carol = place.adds(&server, "Carol");
    place.befriends(&mut alice, &mut carol);
    with_bob.sends("old").await;
    alice.sends("old, and longer").await;
    settled(&with_bob, &bob).await;
    ages(&place).await;
    bob.sends("new").await;
    let mut expired = message("gone", &bob.date());
    expired["ValidUntil"] = json!("2024-01-01 00:00:00");
    bob.adds(&expired).await.ok();

    let nothing = json!({ "messages": 0, "emptied": 0, "bytes": 0 });
    assert_eq!(retains(&place, &["--dry-run"], &[])["total"], nothing, "0 keeps everything");
    assert_eq!(retains(&place, &["--dry-run"], &[(DAYS, "3")])["total"], nothing);
    let settings = [(DAYS, "1"), (VALID_UNTIL, "true")];
    let mut told = retains(&place, &["--dry-run"], &settings);
    let of_carol = json!({
        "conversationid": carol.conversation, "messages": 1, "emptied": 0, "bytes": 20,
        "emails": ["alice@example.com", "carol@example.com"],
    });
    let of_bob = json!({
        "conversationid": bob.conversation, "messages": 1, "emptied": 1, "bytes": 4 + 8,
        "emails": ["alice@example.com", "bob@example.com"],
    });
    assert_eq!(told["conversations"], json!([of_carol, of_bob]));
    assert_eq!(told["total"], json!({ "messages": 2, "emptied": 1, "bytes": 32 }));
    assert_eq!(told["dryrun"], json!(true));
    assert_eq!(with_bob.reads().await, ["old", "new", "gone"], "nothing was removed");

    let removed = retains(&place, &[], &settings);
    told["dryrun"] = json!(false);
    assert_eq!(removed, told);
    assert_eq!(with_bob.reads().await, ["new", ""]);
    assert_eq!(alice.reads().await, [""; 0]);
    assert_eq!(retains(&place, &[], &settings)["total"], nothing);
    let usage = place.tells(&["usage"]);
    assert_eq!(usage["total"]["messages"], json!(2));
    assert_eq!(usage["total"]["bytes"], json!(4));
    let printed = String::from_utf8(place.runs(&["retention", "--dry-run"]).stdout).unwrap();
    assert_eq!(printed, "to be removed in all: messages: 0, emptied: 0, bytes of data: 0\n");
}

#[tokio::test]
async fn a_command_sets_the_days_of_a_conversation() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, _bob) = place.alice_and_bob(&server);
    alice.sends("old").await;
    ages(&place).await;
    let id = alice.conversation.as_str();
    let dry_run =
        |days| retains(&place, &["--dry-run"], &[(DAYS, days)])["total"]["messages"].clone();
    let set = |flags: &[&str]| place.tells(&[&["conversation", "retention", id], flags].concat());

    assert_eq!(set(&["--days", "1"]), json!({ "conversationid": id, "days": 1 }));
    assert_eq!((dry_run("0"), dry_run("9")), (json!(1), json!(1)));
    assert_eq!(set(&["--forever"]), json!({ "conversationid": id, "days": 0 }));
    assert_eq!((dry_run("0"), dry_run("1")), (json!(0), json!(0)));
    assert_eq!(set(&["--default"]), json!({ "conversationid": id, "days": null }));
    assert_eq!((dry_run("0"), dry_run("1")), (json!(0), json!(1)));
    let text = place.runs(&["conversation", "retention", id, "--days", "7"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert_eq!(text, format!("conversation {id} keeps its messages for 7 days\n"));

    let unknown = "0123456789abcdef0123456789abcdef";
    for (arguments, told) in [
        (&["x", "--forever"][..], "CONVERSATION must be"),
        (&[unknown, "--forever"], "there is no conversation 0123"),
        (&[id], "--days"),
        (&[id, "--days", "0"], "--days"),
        (&[id, "--days", "36501"], "--days"),
        (&[id, "--days", "1", "--default"], "--default"),
    ] {
        let error = place.fails(&[&["conversation", "retention"], arguments].concat());
        assert!(error.contains(told), "{arguments:?}: {error}");
    }
}

/// Fills Alice's and Bob's conversation with messages of 1970.
async fn has_old_messages(shell: &mut Database, messages: i64) {
    let numbers = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {messages})"
    );
    for statement in [
        format!(
            "{numbers} INSERT INTO messages (place, id, sender_number, created, valid_until, accepted_at, data, nth)
             SELECT generation * 4294967296 + n, 'm-' || n, 1, 0, '', 0, 'aGk=', n FROM numbers, conversations"
        ),
        format!(
            "UPDATE conversations SET next_seq = {messages} + 1, sent_by_first = {messages}, data_bytes = 4 * {messages},
                                      last_message_id = 'm-{messages}', longest_data = 4, last_access = 1"
        ),
    ] {
        shell.runs(&statement).await;
    }
}

#[tokio::test]
async fn a_killed_removal_leaves_the_rest_whole_and_is_gone_on_with() {
    const MESSAGES: i64 = 40_000;
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let mut shell = place.opens_database().await;
    has_old_messages(&mut shell, MESSAGES).await;
    alice.sends("new").await;
    let mut command = place.command(&["retention"]);
    let mut removal =
        command.env(DAYS, "1").stdout(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
    until("some are removed", async || shell.counts("messages").await < MESSAGES).await;
    removal.kill().unwrap();
    removal.wait().unwrap();
    shell.closes().await;
    server.dies().await;

    // An unclean stop has the next start check the invariants.
    let _server = place.starts_at(bob.address(), &["serve"], &[]).await;
    let mut shell = place.opens_database().await;
    let left = shell.counts("messages").await;
    assert!(left > 1, "it was killed too late");
    let kept = "SELECT next_seq - (first_message - generation * 4294967296) FROM conversations";
    assert_eq!(shell.number(kept).await, left, "each step was made wholly");
    assert_eq!(shell.number("SELECT data_bytes FROM conversations").await, 4 * left);
    let told = retains(&place, &[], &[(DAYS, "1")]);
    assert_eq!(told["total"]["messages"], json!(left - 1));
    assert_eq!(bob.unread().await, 1);
    assert_eq!(bob.reads().await, ["new"]);
}

#[tokio::test]
async fn what_is_left_is_backed_up_restored_and_checked() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    alice.sends("old").await;
    settled(&alice, &bob).await;
    ages(&place).await;
    alice.sends("new").await;
    settled(&alice, &bob).await;
    retains(&place, &[], &[(DAYS, "1")]);
    place.tells(&["backup", "sound"]);
    let counted = place.tells(&["backup", "verify", "sound"]);
    assert_eq!(counted["messages"], json!(1), "{counted}");
    server.stops(&place).await;
    place.tells(&["restore", "sound", "--force"]);
    let _server = place.starts_at(bob.address(), &["serve"], &[]).await;
    until("a request is later than the restore", async || bob.downloads().await.status == 200)
        .await;
    assert_eq!(bob.reads().await, ["new"]);
}

#[tokio::test]
async fn a_removal_gives_its_space_back() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    place.alice_and_bob(&server);
    server.stops(&place).await;
    let mut shell = place.opens_database().await;
    has_old_messages(&mut shell, 40_000).await;
    shell.closes().await;
    let size = || std::fs::metadata(place.database()).unwrap().len();
    place.tells(&["migrate"]);
    let before = size();
    retains(&place, &[], &[(DAYS, "1")]);
    assert!(size() < before / 4, "{before} before, {} now", size());
}
