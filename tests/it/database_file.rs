//! The database as a file that operators own: how it is created, and which files are refused.

mod refused;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use serde_json::json;

use crate::harness::database::Database;
use crate::harness::person::{Person, message_with_id};
use crate::harness::process::{NOBODY, Workplace};

/// Runs a statement on a file, as an operator's own tools would.
async fn tampers(file: &Path, statement: &str) {
    let mut database = Database::creates(file).await;
    database.runs(statement).await;
    database.closes().await;
}

fn mode(file: &Path) -> u32 {
    fs::metadata(file).unwrap().permissions().mode() & 0o777
}

/// Commands that open a database.
const OPENING: [&[&str]; 9] = [
    &["user", "list"],
    &["user", "show", "alice@example.com"],
    &["user", "set", "alice@example.com", "--nick", "A"],
    &["user", "add", "alice@example.com", "--nick", "A"],
    &["user", "disable", "alice@example.com"],
    &["user", "rotate-key", "alice@example.com"],
    &["friend", "list"],
    &["friend", "add", "alice@example.com", "bob@example.com"],
    &["friend", "remove", "alice@example.com", "bob@example.com"],
];

#[tokio::test]
async fn a_new_database_is_accessible_to_its_owner_only() {
    for command in [&["migrate"][..], OPENING[3]] {
        let place = Workplace::new();
        place.tells(&[command, &["--database-url", "sqlite://here.db"]].concat());
        assert_eq!(mode(&place.path().join("here.db")), 0o600, "{command:?}");
        assert!(!place.path().join("chatserver.db").exists());
    }
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    place.adds(&server, "Alice").asks("list", json!({})).await.ok();
    for file in ["chatserver.db", "chatserver.db-wal", "chatserver.db-shm"] {
        assert_eq!(mode(&place.path().join(file)), 0o600, "{file}");
    }
}

/// A file created by root must stay accessible to the server's user. Where another user runs this test, every file
/// belongs to that user.
#[test]
fn files_made_by_commands_belong_to_the_owner_of_the_folder() {
    let place = Workplace::new();
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        chown(place.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let owner = |name: &str| fs::metadata(place.path().join(name)).unwrap().uid();
    let folder = owner("");
    for command in
        [&["migrate"][..], &["compact"], &["backup", "sound"], &["restore", "sound", "--force"]]
    {
        place.tells(command);
        assert_eq!(owner("chatserver.db"), folder, "{command:?}");
    }
    assert_eq!(owner("chatserver.db-server"), folder);
    fs::remove_file(place.path().join("chatserver.db")).unwrap();
    place.tells(&["restore", "sound"]);
    assert_eq!(owner("chatserver.db"), folder);
    assert_eq!(mode(&place.path().join("chatserver.db")), 0o600);
}

#[tokio::test]
async fn the_log_names_the_opened_database_and_warns_of_other_users_rights() {
    let place = Workplace::new();
    let path = place.path().join("chatserver.db");
    let first = place.log_of_start("127.0.0.1:0", "").await;
    let opened = |log: &str| {
        let line = log.lines().find(|line| line.contains("database opened")).map(str::to_owned);
        let line = line.unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains(path.to_str().unwrap()), "{line}");
        line
    };
    assert!(opened(&first).contains("created=true"), "{first}");
    assert!(!first.contains("other users"), "{first}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let second = place.log_of_start("127.0.0.1:0", "").await;
    assert!(opened(&second).contains("created=false"), "{second}");
    assert!(second.contains("other users of this machine can use the database"), "{second}");
}

#[tokio::test]
async fn migrate_may_be_repeated_even_beside_a_server() {
    let place = Workplace::new();
    let url = json!({ "url": "sqlite://chatserver.db" });
    assert_eq!(place.tells(&["migrate"]), url);
    assert_eq!(place.tells(&["migrate"]), url);
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    alice.sends("before").await;
    assert_eq!(place.tells(&["migrate"]), url);
    alice.sends("after").await;
    assert_eq!(bob.reads().await, ["before", "after"]);
}

#[tokio::test]
async fn another_schema_is_refused_with_what_to_do() {
    let cases = [
        (
            "DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)",
            "chatserver migrate",
        ),
        (
            "INSERT INTO _sqlx_migrations SELECT version + 1, 'later', installed_on, success, checksum, \
          execution_time FROM _sqlx_migrations ORDER BY version DESC LIMIT 1",
            "newer",
        ),
        ("UPDATE _sqlx_migrations SET checksum = x'00'", "another program"),
    ];
    for (statement, told) in cases {
        let place = Workplace::new();
        place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
        let file = place.path().join("chatserver.db");
        tampers(&file, statement).await;
        for command in OPENING {
            let error = place.fails(command);
            assert!(
                error.contains(told) && error.contains("chatserver.db"),
                "{command:?}: {error}"
            );
            assert_eq!(error.trim_end().lines().count(), 1, "one sentence: {error}");
        }
        if told != "chatserver migrate" {
            for command in [&["migrate"][..], &["serve", "--listen", "127.0.0.1:0"]] {
                assert!(place.fails(command).contains(told), "{command:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_database_of_another_program_is_refused_and_left_unchanged() {
    let place = Workplace::new();
    let foreign = place.path().join("foreign.db");
    tampers(&foreign, "CREATE TABLE recipes (name TEXT); INSERT INTO recipes VALUES ('soup')")
        .await;
    let text = place.path().join("letter.txt");
    fs::write(&text, "Dear Alice, this is no database. ".repeat(100)).unwrap();
    fs::create_dir(place.path().join("folder")).unwrap();
    let commands = [OPENING[0], OPENING[3], &["migrate"], &["serve", "--listen", "127.0.0.1:0"]];
    for (file, told) in [(&foreign, "foreign"), (&text, "not a database")] {
        let before = fs::read(file).unwrap();
        let url = format!("sqlite://{}", file.display());
        for command in commands {
            let error = place.fails(&[command, &["--database-url", &url]].concat());
            assert!(error.contains(told) && error.contains(file.to_str().unwrap()), "{error}");
            assert!(
                fs::read(file).unwrap() == before,
                "{command:?} has changed {}",
                file.display()
            );
        }
    }
    for (url, told) in [
        ("sqlite://nowhere/chat.db", "nowhere/chat.db"),
        ("sqlite://folder", "folder"),
        ("sqlite://", "sqlite://"),
        ("sqlite://:memory:", ":memory:"),
        ("mysql://localhost/chat", "mysql://localhost/chat"),
    ] {
        for command in commands {
            let error = place.fails(&[command, &["--database-url", url]].concat());
            assert!(error.contains(told), "{command:?} {url}: {error}");
        }
    }
}

#[tokio::test]
async fn commands_and_a_server_share_a_database() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    for number in 0..5 {
        alice.sends(&number.to_string()).await;
        let nick = format!("Friend-{number}");
        place.adds(&server, &nick);
        let email = format!("friend-{number}@example.com");
        place.tells(&["friend", "add", &alice.email, &email]);
        assert_eq!(alice.lists().await.len(), number + 2);
    }
    assert_eq!(bob.reads().await, ["0", "1", "2", "3", "4"]);
}

#[tokio::test]
async fn commands_do_not_disturb_clients_of_a_loaded_server() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let instance = alice.instance().await;
    let enough = AtomicBool::new(false);
    let sends = async |sender: &Person, station: usize| {
        let mut sent = 0;
        while !enough.load(Ordering::SeqCst) {
            let id = format!("{}-{station}-{sent}", &sender.user.as_str()[..8]);
            let message = message_with_id(&id, "", "2026-01-01 00:00:00");
            sender.does("add", json!({ "instance": instance, "message": message })).await.ok();
            sent += 1;
        }
        sent
    };
    let sending =
        (0..8).map(|station| sends(if station % 2 == 0 { &alice } else { &bob }, station));
    let commands = async {
        for number in 0..4 {
            let (email, nick) = (format!("new-{number}@example.com"), format!("Ally-{number}"));
            place.tells_meanwhile(&["user", "add", &email, "--nick", "New"]).await;
            place.tells_meanwhile(&["friend", "add", &email, &alice.email]).await;
            place.tells_meanwhile(&["user", "set", &alice.email, "--nick", &nick]).await;
            place.tells_meanwhile(&["user", "rotate-key", &email]).await;
            place.tells_meanwhile(&["friend", "remove", &email, &alice.email]).await;
            place.tells_meanwhile(&["user", "disable", &email]).await;
        }
        enough.store(true, Ordering::SeqCst);
    };
    let (sent, ()) = tokio::join!(join_all(sending), commands);
    assert!(sent.iter().all(|sent| *sent > 10), "there was no load: {sent:?}");
    let stored = alice.downloads().await.message_ids();
    assert_eq!(stored.len(), sent.iter().sum::<usize>());
    assert_eq!(bob.sees().await["participants"].to_string().matches("Ally-3").count(), 1);
}

/// Runs these commands concurrently. Returns what each printed, or its error.
fn at_once(place: &Workplace, commands: &[Vec<String>]) -> Vec<Result<String, String>> {
    let start = |arguments: &Vec<String>| {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let mut command = place.command(&arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let children: Vec<_> = commands.iter().map(start).collect();
    let outcome = |child: std::process::Child| {
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    };
    children.into_iter().map(outcome).collect()
}

fn add(email: &str) -> Vec<String> {
    ["user", "add", email, "--nick", "Nick", "--json"].map(str::to_owned).to_vec()
}

#[test]
fn many_processes_can_create_the_same_database_at_once() {
    for _ in 0..3 {
        let place = Workplace::new();
        let commands: Vec<_> = (0..6).map(|number| add(&format!("user-{number}@b.c"))).collect();
        for outcome in at_once(&place, &commands) {
            assert!(outcome.is_ok(), "{outcome:?}");
        }
        let users = place.tells(&["user", "list"]);
        assert_eq!(users["users"].as_array().unwrap().len(), 6);
    }
}

#[test]
fn an_address_is_added_once_by_concurrent_commands() {
    let place = Workplace::new();
    let outcomes = at_once(&place, &vec![add("alice@example.com"); 4]);
    let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert_eq!(refused.len(), 3, "{outcomes:?}");
    assert!(refused.iter().all(|error| error.contains("alice@example.com")), "{refused:?}");
    assert_eq!(place.tells(&["user", "list"])["users"].as_array().unwrap().len(), 1);
}
