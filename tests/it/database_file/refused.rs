//! Paths without a usable database: nothing is created by mistake, and the message says what to do.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use super::OPENING;
use crate::harness::disk::Disk;
use crate::harness::process::Workplace;

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
fn a_database_that_is_not_a_regular_file_is_refused() {
    let place = Workplace::new();
    place.makes_fifo("fifo.db");
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
fn a_lock_file_that_is_not_a_regular_file_is_refused() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    place.tells(&["backup", "sound"]);
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
    let lock = place.makes_fifo("chatserver.db-server");
    refuses("a FIFO");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    refuses("a folder");
    fs::remove_dir(&lock).unwrap();
    assert_eq!(place.tells(&["user", "list"])["users"].as_array().unwrap().len(), 1);
}

#[test]
fn a_dangling_link_is_refused() {
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
async fn a_hard_link_to_a_database_is_refused() {
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

#[test]
fn files_and_folders_without_permission_are_refused_as_such() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let database = place.path().join("chatserver.db");
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(&database, 0o000);
    let error = place.fails_as_nobody(&["user", "list"]);
    assert!(error.contains("chatserver.db can't be opened: Permission denied"), "{error}");
    assert!(error.contains("must be able to read and write"), "{error}");
    assert!(!error.contains("created"), "{error}");

    let shut = place.path().join("shut");
    fs::create_dir(&shut).unwrap();
    mode(&shut, 0o555);
    let add = ["user", "add", "bob@example.com", "--nick", "Bob"];
    let error =
        place.fails_as_nobody(&[&add[..], &["--database-url", "sqlite://shut/new.db"]].concat());
    assert!(error.contains("shut/new.db can't be created"), "{error}");
    assert!(error.contains("its folder"), "{error}");
    let serve = ["serve", "--listen", "127.0.0.1:0", "--database-url", "sqlite://shut/new.db"];
    let error = place.fails_as_nobody(&serve);
    assert!(error.contains("shut/new.db") && error.contains("its folder"), "{error}");

    // The file is writable but its folder is not, so SQLite cannot create its log.
    mode(&shut, 0o755);
    mode(&database, 0o600);
    fs::copy(&database, shut.join("old.db")).unwrap();
    mode(&shut.join("old.db"), 0o666);
    mode(&shut, 0o555);
    let error = place.fails_as_nobody(&["user", "list", "--database-url", "sqlite://shut/old.db"]);
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
    let (disk, place) = (Disk::failing(), Workplace::new());
    fs::write(place.path().join("no-room"), "").unwrap();
    let add = ["user", "add", "alice@example.com", "--nick", "Alice"];
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    let fails = |arguments: &[&str]| {
        let output = place.runs_with(arguments, "", &[disk.preload()]);
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
