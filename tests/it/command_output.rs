//! Output of commands when things go wrong: failures as JSON, and output that cannot be written.

use std::fs::{self, File, OpenOptions};
use std::process::Stdio;

use serde_json::Value;

use crate::harness::person::Person;
use crate::harness::process::{Workplace, free_address};

/// Returns the `errorcode` values that docs/operating.md lists for failures with `--json`.
fn documented_codes() -> Vec<String> {
    let page = include_str!("../../docs/operating.md");
    let table = page.split_once("| `errorcode` | when |").unwrap().1;
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('`').nth(1).unwrap().to_owned()).collect()
}

/// Runs a command that must fail with one JSON object on stderr, with this code and a message that contains
/// `part`.
#[track_caller]
fn fails_with(place: &Workplace, arguments: &[&str], code: &str, part: &str) {
    let error = place.fails(&[arguments, &["--json"]].concat());
    assert_eq!(error.trim_end().lines().count(), 1, "{arguments:?}: {error}");
    let told: Value = serde_json::from_str(&error).unwrap_or_else(|_| panic!("{error}"));
    assert_eq!(told["errorcode"], code, "{arguments:?}: {error}");
    assert!(told["errormessage"].as_str().unwrap().contains(part), "{arguments:?}: {error}");
    assert!(documented_codes().iter().any(|listed| listed == code), "operating.md lists {code}");
}

#[tokio::test]
async fn failures_with_json_are_one_object_with_an_errorcode() {
    let place = Workplace::new();
    fails_with(&place, &["frobnicate"], "usage", "frobnicate");
    fails_with(&place, &["user", "add"], "usage", "<EMAIL>");
    fails_with(&place, &["user"], "usage", "--json");
    fails_with(&place, &["user", "list"], "no_database", "chatserver.db");
    fails_with(&place, &["user", "add", "x", "--nick", "X"], "invalid_argument", "EMAIL");
    fails_with(&place, &["sign", "--user", "x", "--api", "y"], "invalid_argument", "--user");
    fails_with(&place, &["migrate", "--config", "none"], "invalid_settings", "none");
    fails_with(&place, &["migrate", "--database-url", "x"], "invalid_settings", "database.url");
    let add = ["user", "add", "alice@example.com", "--nick", "Alice"];
    place.tells(&add);
    fails_with(&place, &add, "already_exists", "alice@example.com");
    fails_with(&place, &["user", "show", "bob@example.com"], "not_found", "bob@example.com");
    fails_with(&place, &["backup", "verify", "none"], "invalid_argument", "none");
    fails_with(&place, &["restore", "none", "--force"], "invalid_argument", "none");
    fails_with(&place, &["backup", "no/folder"], "invalid_argument", "create it first");
    let url = format!("sqlite://{}", place.path().display());
    fails_with(&place, &["user", "list", "--database-url", &url], "database_failed", "a folder");
    let taken = std::net::TcpListener::bind(free_address()).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = place.fails(&["serve", "--json", "--listen", &address]);
    let told: Value = serde_json::from_str(error.lines().last().unwrap()).unwrap();
    assert_eq!(told["errorcode"], "cannot_listen", "{error}");
    let server = place.serves(&[]).await;
    let other = free_address().to_string();
    let error = place.fails(&["serve", "--json", "--listen", &other]);
    let told: Value = serde_json::from_str(error.lines().last().unwrap()).unwrap();
    assert_eq!(told["errorcode"], "in_use", "{error}");
    drop(server);
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    for arguments in
        [&["user", "list"][..], &["user", "list", "--json"], &["--help"], &["--version"]]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = place.command(arguments);
        let output = command.stdin(Stdio::null()).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
}

#[tokio::test]
async fn a_command_that_can_not_print_adds_no_user_and_rotates_no_key() {
    let place = Workplace::new();
    let add = ["user", "add", "alice@example.com", "--nick", "Alice"];
    let rotate = ["user", "rotate-key", "bob@example.com"];
    let bob = place.tells(&["user", "add", "bob@example.com", "--nick", "Bob"]);
    for arguments in [&add[..], &rotate] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (reader, gone) = std::io::pipe().unwrap();
        drop(reader);
        for stdout in [Stdio::from(full), Stdio::from(gone)] {
            let mut command = place.command(arguments);
            let output = command.stdin(Stdio::null()).stdout(stdout).output().unwrap();
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
            assert!(error.contains("stdout can't be written"), "{arguments:?}: {error}");
        }
    }
    let users = place.tells(&["user", "list"]);
    assert_eq!(users["users"].as_array().unwrap().len(), 1, "Alice was not added");
    place.tells(&add);
    let server = place.serves(&[]).await;
    Person::added(&bob, server.address).logs_in().await.ok();
}

#[test]
fn a_failure_to_print_is_reported_with_the_result() {
    let place = Workplace::new();
    for (email, nick) in [("alice@example.com", "Alice"), ("bob@example.com", "Bob")] {
        place.tells(&["user", "add", email, "--nick", nick]);
    }
    let (alice, bob) = ("alice@example.com", "bob@example.com");
    // Each command with a part of its result. The error must repeat it, because stdout loses it.
    let commands: [(&[&str], &str); 10] = [
        (&["migrate"], "has the newest schema"),
        (&["friend", "add", alice, bob], "conversation "),
        (&["backup", "sound"], "sound holds the database"),
        (&["user", "set", alice, "--nick", "Ally"], "Ally"),
        (&["user", "disable", alice], "disabled  true"),
        (&["restore", "sound", "--force"], "alice@example.com was disabled since the backup"),
        (&["user", "enable", alice], "disabled  false"),
        (&["compact"], "is compacted"),
        (&["friend", "remove", alice, bob], "they are no longer friends"),
        (&["station", "revoke", alice, "0123456789abcdef0123456789abcdef"], "no such station"),
    ];
    let runs = |arguments: &[&str]| {
        let mut command = place.command(arguments);
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = command.stdin(Stdio::null()).stdout(full).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        error
    };
    for (arguments, result) in commands {
        let error = runs(arguments);
        for part in ["the command was carried out", "stdout can't be written", "No space", result] {
            assert!(error.contains(part), "{arguments:?}: {error}");
        }
    }
    place.tells(&["backup", "verify", "sound"]);
    assert_eq!(place.tells(&["friend", "list"])["friendships"].as_array().unwrap().len(), 0);
    let error = runs(&["user", "disable", alice, "--json"]);
    let told: Value = serde_json::from_str(&error).unwrap();
    assert_eq!(told["errorcode"], "output_failed", "{error}");
    let sentence = told["errormessage"].as_str().unwrap();
    let (_, result) = sentence.split_once("Its result: ").unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(result).unwrap(),
        place.tells(&["user", "show", alice])
    );
    // The command changes nothing, so the error does not say that something was carried out.
    let error = runs(&["user", "list"]);
    assert!(error.contains("stdout can't be written"), "{error}");
    assert!(!error.contains("carried out") && error.contains("No space"), "{error}");
}

#[test]
fn a_byte_order_mark_is_removed_from_a_password() {
    let place = Workplace::new();
    let password = "a password of more than sixteen characters";
    fs::write(place.path().join("password"), format!("\u{feff}{password}\r\n")).unwrap();
    let add = ["user", "add", "a@b.c", "--nick", "A", "--encryption-password-file", "password"];
    let told = place.tells(&add);
    assert_eq!(told["encryptionpassword"], password);
}

#[test]
fn endless_input_is_read_up_to_a_bound() {
    let place = Workplace::new();
    let add = ["user", "add", "a@b.c", "--nick", "A", "--encryption-password-file"];
    let sign = ["sign", "--user", "a@b.c", "--api", "workspace"];
    for (arguments, code, part) in [
        (&[&add[..], &["/dev/zero"]].concat()[..], "invalid_argument", "/dev/zero can't be read"),
        (&[&add[..], &["-"]].concat(), "invalid_argument", "- can't be read"),
        (&["migrate", "--config", "/dev/zero"], "invalid_settings", "/dev/zero can't be read"),
        (&sign, "invalid_argument", "stdin can't be read"),
    ] {
        let mut command = place.command(&[arguments, &["--json"]].concat());
        command.env("CHATSERVER_APIKEY", "0123456789abcdef".repeat(4));
        let output = command.stdin(File::open("/dev/zero").unwrap()).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        let told: Value = serde_json::from_str(&error).unwrap();
        assert_eq!(told["errorcode"], code, "{error}");
        let sentence = told["errormessage"].as_str().unwrap();
        assert!(sentence.contains(part) && sentence.contains("it has more than"), "{error}");
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "nothing was created");
}

#[test]
fn a_short_password_causes_a_warning() {
    let place = Workplace::new();
    let add = |email: &str, password: &str| {
        fs::write(place.path().join("password"), password).unwrap();
        let option = "--encryption-password-file";
        let added = place.runs(&["user", "add", email, "--nick", "A", option, "password"]);
        assert!(added.status.success(), "{added:?}");
        String::from_utf8(added.stderr).unwrap()
    };
    let warning = add("a@b.c", "fifteen letters");
    assert!(warning.contains("warning") && warning.contains("16 characters"), "{warning}");
    assert!(!warning.contains("fifteen letters"));
    assert_eq!(add("b@b.c", "sixteen letters!"), "");
}
