//! Many users at once: `user import`, and `friend add --group`.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::openssl::SealedKey;
use crate::harness::person::Person;
use crate::harness::process::{Process, Workplace};

const TEAM: &str = "\
email,nick,fullname
alice@example.com,Alice,\"Alice, of Example\"
bob@example.com,Bob,

Carol@Example.com , Carol ,Carol Example
";

const IMPORT: [&str; 5] = ["user", "import", "team.csv", "--credentials", "secrets.csv"];

impl Workplace {
    fn writes(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    /// Imports these lines, and returns the printed object.
    #[track_caller]
    fn imports(&self, lines: &str) -> Value {
        self.writes("team.csv", lines);
        self.tells(&IMPORT)
    }
}

/// Returns the users of a file of credentials, as `user add` prints them.
fn credentials(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("email,userid,apikey,encryptionpassword"));
    let user = |line: &str| {
        let fields: Vec<_> = line.split(',').collect();
        let [email, id, key, password] = fields[..] else { panic!("{line}") };
        json!({ "email": email, "userid": id, "apikey": key, "encryptionpassword": password })
    };
    lines.map(user).collect()
}

/// Returns the imported people by nick, as clients of this process.
fn people(place: &Workplace, process: &Process) -> HashMap<String, Person> {
    let secrets = credentials(&place.path().join("secrets.csv"));
    let users = place.tells(&["user", "list"]);
    let nick = |told: &Value| {
        let mut users = users["users"].as_array().unwrap().iter();
        let user = users.find(|user| user["userid"] == told["userid"]).unwrap();
        user["nick"].as_str().unwrap().to_owned()
    };
    secrets.iter().map(|told| (nick(told), Person::added(told, process.address))).collect()
}

/// Returns the line, the address and the result of each user.
fn results<'a>(told: &'a Value) -> Vec<(u64, &'a str, &'a str)> {
    let result = |user: &'a Value| {
        let text = |name: &str| user[name].as_str().unwrap();
        (user["line"].as_u64().unwrap(), text("email"), text("result"))
    };
    told["users"].as_array().unwrap().iter().map(result).collect()
}

#[tokio::test]
async fn imported_users_log_in_with_the_written_credentials() {
    let place = Workplace::new();
    // As a spreadsheet writes it.
    let told = place.imports(&format!("\u{feff}{}", TEAM.replace('\n', "\r\n")));
    assert_eq!((&told["added"], &told["existing"]), (&json!(3), &json!(0)));
    let added = [
        (2, "alice@example.com", "added"),
        (3, "bob@example.com", "added"),
        (5, "carol@example.com", "added"),
    ];
    assert_eq!(results(&told), added);
    let file = place.path().join(told["credentials"].as_str().unwrap());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!told.to_string().contains(credentials(&file)[0]["apikey"].as_str().unwrap()));
    let server = place.serves(&[]).await;
    let people = people(&place, &server);
    assert_eq!(people.len(), 3);
    for person in people.values() {
        let login = person.logs_in().await.ok();
        SealedKey::of(&login, person.password.as_str()).is_consistent();
    }
    let alice = place.tells(&["user", "show", "alice@example.com"]);
    assert_eq!(alice["fullname"], "Alice, of Example");
}

#[test]
fn an_import_that_is_repeated_adds_only_who_is_missing() {
    let place = Workplace::new();
    place.imports(TEAM);
    let again = place.tells(&["user", "import", "team.csv", "--credentials", "other.csv"]);
    assert_eq!((&again["added"], &again["existing"]), (&json!(0), &json!(3)));
    assert_eq!(again["credentials"], Value::Null);
    assert!(!place.path().join("other.csv").exists(), "there is nothing to write");
    place.writes("team.csv", &format!("{TEAM}dave@example.com,Dave,\n"));
    let more = place.tells(&["user", "import", "team.csv", "--credentials", "other.csv"]);
    assert_eq!((&more["added"], &more["existing"]), (&json!(1), &json!(3)));
    assert_eq!(results(&more)[3], (6, "dave@example.com", "added"));
    let new = credentials(&place.path().join("other.csv"));
    assert_eq!(new.len(), 1, "the others keep their keys");
    assert_eq!(new[0]["email"], "dave@example.com");
}

#[test]
fn an_import_reports_all_wrong_lines_and_adds_nobody() {
    let place = Workplace::new();
    place.tells(&["user", "add", "bob@example.com", "--nick", "Bob"]);
    place.writes(
        "team.csv",
        "email,nick,fullname\nalice@example.com,Alice,\ncarol,Carol,\ndave@example.com,,\nerin@example.com,Erin\n\
         ALICE@example.com,Alice,\nbob@example.com,Robert,\nfrank@example.com,\u{202e}Frank,\n",
    );
    let error = place.fails(&IMPORT);
    let expected = [
        "mistakes: 6",
        "line 3: email must be an e-mail address",
        "line 4: nick must be 1 to 64 characters",
        "line 5: the line has 2 fields, not the 3 of the first line",
        "line 6: alice@example.com is in line 2 already",
        "line 7: bob@example.com exists with the nick \"Bob\"",
        "line 8: nick must be",
    ];
    let mut rest = error.as_str();
    for part in expected {
        let found = rest.find(part).unwrap_or_else(|| panic!("{part} in {error}"));
        rest = &rest[found..];
    }
    for (text, part) in [
        ("", "the first line must be email,nick,fullname, not "),
        ("email;nick;fullname\n", "not email;nick;fullname"),
        ("alice@example.com,Alice,\n", "line 1: the first line must be"),
    ] {
        place.writes("team.csv", text);
        let error = place.fails(&IMPORT);
        assert!(error.contains(part), "{text}: {error}");
    }
    fs::write(place.path().join("team.csv"), b"email,nick,fullname\n\xff@b,x,\n").unwrap();
    assert!(place.fails(&IMPORT).contains("team.csv can't be read: it is not UTF-8"));
    assert_eq!(place.tells(&["user", "list"])["users"].as_array().unwrap().len(), 1);
    assert!(!place.path().join("secrets.csv").exists());
}

#[test]
fn an_import_overwrites_no_file_and_loses_no_secret_if_stdout_fails() {
    let place = Workplace::new();
    place.writes("team.csv", TEAM);
    place.writes("secrets.csv", "of somebody else");
    let error = place.fails(&[&IMPORT[..], &["--json"]].concat());
    assert!(error.contains("already_exists") && error.contains("secrets.csv"), "{error}");
    assert_eq!(fs::read_to_string(place.path().join("secrets.csv")).unwrap(), "of somebody else");
    assert_eq!(place.tells(&["user", "list"])["users"], json!([]));
    fs::remove_file(place.path().join("secrets.csv")).unwrap();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = place.command(&IMPORT).stdin(Stdio::null()).stdout(full).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("the command was carried out"), "{error}");
    assert_eq!(credentials(&place.path().join("secrets.csv")).len(), 3);
    assert_eq!(place.tells(&["user", "list"])["users"].as_array().unwrap().len(), 3);
}

#[test]
fn an_import_and_a_group_are_read_from_stdin() {
    let place = Workplace::new();
    let import = ["user", "import", "-", "--credentials", "secrets.csv"];
    let output = place.runs_with(&import, TEAM, &[]);
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("3 users added, 0 existed already"), "{printed}");
    assert!(output.stderr.is_empty(), "progress is for terminals");
    let output = place.runs_with(&["friend", "add", "--group", "-"], TEAM, &[]);
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("3 friendships are new, 0 existed already"), "{printed}");
}

#[tokio::test]
async fn all_members_of_a_group_chat_with_each_other() {
    let place = Workplace::new();
    place.imports(TEAM);
    place.tells(&["friend", "add", "alice@example.com", "bob@example.com"]);
    let group = ["friend", "add", "--group", "team.csv"];
    let told = place.tells(&group);
    assert_eq!(told, json!({ "users": 3, "added": 2, "existing": 1 }));
    assert_eq!(place.tells(&group), json!({ "users": 3, "added": 0, "existing": 3 }));
    assert_eq!(place.tells(&["friend", "list"])["friendships"].as_array().unwrap().len(), 3);
    let server = place.serves(&[]).await;
    let mut people = people(&place, &server);
    let (mut bob, carol) = (people.remove("Bob").unwrap(), people.remove("Carol").unwrap());
    let key = |person: &Person, login: &Value| SealedKey::of(login, person.password.as_str());
    let shared: Vec<_> = bob.lists().await.iter().map(|one| one["id"].clone()).collect();
    let listed = carol.lists().await;
    let with_bob = listed.iter().find(|one| shared.contains(&one["id"])).unwrap();
    bob.conversation = with_bob["id"].as_str().unwrap().to_owned();
    let carols_key = key(&carol, &carol.logs_in().await.ok());
    let bobs_key = key(&bob, &bob.logs_in().await.ok());
    let seen = bob.sees().await;
    assert_eq!(carols_key.unwraps(&with_bob["secret"]), bobs_key.unwraps(&seen["secret"]));
    assert_eq!(bobs_key.unwraps(&seen["displayname"]), b"Carol");
    bob.sends("Hi Carol").await;
}

#[test]
fn a_group_reports_all_wrong_lines_and_befriends_nobody() {
    let place = Workplace::new();
    place.imports(TEAM);
    let group = ["friend", "add", "--group", "group.txt"];
    for (text, parts) in [
        (
            "alice@example.com\nnobody@example.com\nALICE@example.com\nx\n",
            &[
                "mistakes: 3",
                "line 2: there is no user nobody@example.com",
                "line 3: alice@example.com is in an earlier line",
                "line 4: there is no user x",
            ][..],
        ),
        ("nick,email\nAlice,alice@example.com\nBob\n", &["line 3: the field email is missing"]),
        ("alice@example.com,bob@example.com\n", &["line 1: a line must be one address"]),
        ("alice@example.com\n", &["at least two users, not 1"]),
        ("", &["at least two users, not 0"]),
    ] {
        place.writes("group.txt", text);
        let error = place.fails(&group);
        for part in parts {
            assert!(error.contains(part), "{text}: {error}");
        }
    }
    let error = place.fails(&["friend", "add", "alice@example.com", "--group", "group.txt"]);
    assert!(error.contains("--group"), "{error}");
    assert_eq!(place.tells(&["friend", "list"])["friendships"], json!([]));
    place.writes("group.txt", "alice@example.com\nbob@example.com\n");
    let told = place.tells(&group);
    assert_eq!(told, json!({ "users": 2, "added": 1, "existing": 0 }));
}
