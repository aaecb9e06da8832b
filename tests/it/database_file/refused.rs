//! Paths without a usable database: nothing is created by mistake, and the message says what to do.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::OPENING;
use crate::binary::Workplace;

/// User id of `nobody`.
const NOBODY: u32 = 65_534;

#[test]
fn a_mistyped_path_creates_nothing() {
    let place = Workplace::new();
    for command in OPENING.iter().filter(|command| command[..2] != ["user", "add"]) {
        let error =
            place.fails(&[command, &["--database-url", "sqlite://mistyped.db"][..]].concat());
        let path = place.path().join("mistyped.db");
        for part in
            ["there is no database at", path.to_str().unwrap(), "user add", "serve", "restore"]
        {
            assert!(error.contains(part), "{command:?}: {error}");
        }
    }
    fs::write(place.path().join("empty.db"), "").unwrap();
    let error = place.fails(&["user", "list", "--database-url", "sqlite://empty.db"]);
    assert!(error.contains("there is no database at"), "{error}");
    assert_eq!(fs::metadata(place.path().join("empty.db")).unwrap().len(), 0);
    fs::remove_file(place.path().join("empty.db")).unwrap();
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "nothing was created");
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let place = Workplace::new();
    assert!(Command::new("mkfifo").arg(place.path().join("fifo.db")).status().unwrap().success());
    let url = format!("sqlite://{}/fifo.db", place.path().display());
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    for command in [&["user", "list"][..], OPENING[3], &["migrate"], &serve] {
        for (url, what) in [(url.as_str(), "a FIFO"), ("sqlite:///dev/null", "a device")] {
            let error = place.fails(&[command, &["--database-url", url]].concat());
            assert!(error.contains(what) && error.contains("regular file"), "{command:?}: {error}");
        }
    }
}

#[test]
fn a_lock_file_that_is_no_regular_file_is_refused_at_once() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    place.tells(&["backup", "sound"]);
    let lock = place.path().join("chatserver.db-server");
    let refuses = |what: &str| {
        for command in [
            &["serve", "--listen", "127.0.0.1:0"][..],
            OPENING[0],
            &["restore", "sound", "--force"],
        ] {
            let error = place.fails(command);
            let told = format!("chatserver.db-server can't be used: it is {what}");
            assert!(error.contains(&told), "{command:?}: {error}");
        }
    };
    assert!(Command::new("mkfifo").arg(&lock).status().unwrap().success());
    refuses("a FIFO");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    refuses("a folder");
    fs::remove_dir(&lock).unwrap();
    assert_eq!(place.tells(&["user", "list"])["users"].as_array().unwrap().len(), 1);
}

#[test]
fn a_link_to_a_file_that_is_not_there_is_refused() {
    let place = Workplace::new();
    fs::create_dir(place.path().join("disk")).unwrap();
    symlink("disk/chat.db", place.path().join("chatserver.db")).unwrap();
    for command in [OPENING[0], OPENING[3], &["migrate"], &["serve", "--listen", "127.0.0.1:0"]] {
        let error = place.fails(command);
        assert!(error.contains("a link to a missing file"), "{command:?}: {error}");
    }
    assert_eq!(fs::read_dir(place.path().join("disk")).unwrap().count(), 0);
    let names: Vec<_> = fs::read_dir(place.path()).unwrap().collect();
    assert_eq!(names.len(), 2, "no lock was made beside the link: {names:?}");
    place.tells(&["migrate", "--database-url", "sqlite://disk/chat.db"]);
    place.tells(&["user", "list"]);
}

#[tokio::test]
async fn a_second_name_of_a_database_is_refused() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    alice.sends("before").await;
    place.tells(&["backup", "sound"]);
    let second = place.path().join("second.db");
    fs::hard_link(place.path().join("chatserver.db"), &second).unwrap();
    for command in [
        &["serve", "--listen", "127.0.0.1:0"][..],
        &["user", "list"],
        &["user", "add", "carol@example.com", "--nick", "Carol"],
        &["migrate"],
        &["compact"],
        &["backup", "other"],
        &["restore", "sound", "--force"],
    ] {
        let error = place.fails(&[command, &["--database-url", "sqlite://second.db"]].concat());
        assert!(error.contains("second.db is a file with several names"), "{command:?}: {error}");
    }
    let names = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let of_second = names.filter(|name| name.to_str().unwrap().starts_with("second.db"));
    assert_eq!(of_second.count(), 1, "no log and no lock was made beside it");
    alice.sends("after").await;
    assert_eq!(bob.reads().await, ["before", "after"]);
    fs::remove_file(second).unwrap();
    assert_eq!(place.tells(&["user", "list"])["users"].as_array().unwrap().len(), 2);
}

/// Runs the binary without root's rights: as `nobody`, who owns no file, if the test runs as root. Asserts exit code 1
/// and returns stderr.
pub fn as_nobody(place: &Workplace, arguments: &[&str]) -> String {
    let binary = place.path().join("chatserver");
    if !binary.exists() {
        let built = Path::new(env!("CARGO_BIN_EXE_chatserver"));
        fs::hard_link(built, &binary).or_else(|_| fs::copy(built, &binary).map(drop)).unwrap();
        fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(binary);
    command.args(arguments).current_dir(place.path()).env_clear().stdin(Stdio::null());
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if is_root {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn files_and_folders_that_the_user_may_not_use_are_told_so() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let database = place.path().join("chatserver.db");
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(&database, 0o000);
    let error = as_nobody(&place, &["user", "list"]);
    assert!(error.contains("chatserver.db can't be opened: Permission denied"), "{error}");
    assert!(error.contains("must be able to read and write"), "{error}");
    assert!(!error.contains("created"), "{error}");

    let shut = place.path().join("shut");
    fs::create_dir(&shut).unwrap();
    mode(&shut, 0o555);
    let add = ["user", "add", "bob@example.com", "--nick", "Bob"];
    let error =
        as_nobody(&place, &[&add[..], &["--database-url", "sqlite://shut/new.db"]].concat());
    assert!(error.contains("shut/new.db can't be created"), "{error}");
    assert!(error.contains("its folder"), "{error}");
    let serve = ["serve", "--listen", "127.0.0.1:0", "--database-url", "sqlite://shut/new.db"];
    let error = as_nobody(&place, &serve);
    assert!(error.contains("shut/new.db") && error.contains("its folder"), "{error}");

    // The file is writable but its folder is not, so SQLite cannot create its log.
    mode(&shut, 0o755);
    mode(&database, 0o600);
    fs::copy(&database, shut.join("old.db")).unwrap();
    mode(&shut.join("old.db"), 0o666);
    mode(&shut, 0o555);
    let error = as_nobody(&place, &["user", "list", "--database-url", "sqlite://shut/old.db"]);
    assert!(
        error.contains("shut/old.db can't be opened") && error.contains("its folder"),
        "{error}"
    );
    mode(&shut, 0o755);

    let error = place.fails(&[&add[..], &["--database-url", "sqlite://nowhere/new.db"]].concat());
    assert!(error.contains("nowhere/new.db can't be created"), "{error}");
    assert!(error.contains("create its folder first"), "{error}");
}

#[test]
fn a_start_on_a_full_disk_says_that_the_disk_is_full() {
    let (tools, place) = (Workplace::new(), Workplace::new());
    let (source, library) = (tools.path().join("full.c"), tools.path().join("full.so"));
    fs::write(&source, include_str!("../full_disk.c")).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &source]);
    assert!(compiler.status().unwrap().success());
    let full = [("LD_PRELOAD", library.to_str().unwrap())];
    let add = ["user", "add", "alice@example.com", "--nick", "Alice"];
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    let fails = |arguments: &[&str]| {
        let output = place.runs_with(arguments, "", &full);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.contains("the disk is full"), "{arguments:?}: {error}");
    };
    fails(&add);
    fails(&serve);
    fs::remove_file(place.path().join("chatserver.db")).unwrap();
    place.tells(&add);
    fails(&["user", "list"]);
    fails(&serve);
}
