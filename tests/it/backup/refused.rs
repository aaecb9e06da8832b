//! Files that cannot be backups because of their type, and names that a backup must not have.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Stdio;

use serde_json::Value;

use crate::harness::process::Workplace;

#[test]
fn a_backup_must_be_a_regular_file() {
    let place = Workplace::new();
    place.tells(&["migrate"]);
    place.tells(&["backup", "sound"]);
    place.makes_fifo("fifo");
    fs::create_dir(place.path().join("folder")).unwrap();
    fs::write(place.path().join("empty"), "").unwrap();
    for (name, told) in [
        ("fifo", "it is a FIFO"),
        ("folder", "it is a folder"),
        ("/dev/zero", "it is a device"),
        ("empty", "it is empty"),
    ] {
        for command in [&["backup", "verify", name][..], &["restore", name, "--force"]] {
            let error = place.fails(command);
            assert!(error.contains(name) && error.contains(told), "{command:?}: {error}");
        }
    }
    place.tells(&["backup", "verify", "sound"]);
    fs::set_permissions(place.path().join("sound"), Permissions::from_mode(0o000)).unwrap();
    let error = place.fails_as_nobody(&["backup", "verify", "sound"]);
    assert!(error.contains("sound can't be read: Permission denied"), "{error}");
}

#[test]
fn a_backup_must_not_have_a_name_that_belongs_to_the_database() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    symlink("chatserver.db", place.path().join("link.db")).unwrap();
    symlink(".", place.path().join("here")).unwrap();
    for suffix in ["-wal", "-shm", "-journal", "-server"] {
        for (url, folder) in [
            ("sqlite://chatserver.db", ""),
            ("sqlite://chatserver.db", "here/"),
            ("sqlite://link.db", "./"),
        ] {
            let name = format!("{folder}chatserver.db{suffix}");
            let error = place.fails(&["backup", &name, "--database-url", url, "--json"]);
            let told: Value = serde_json::from_str(&error).unwrap();
            assert_eq!(told["errorcode"], "invalid_argument", "{error}");
            assert!(error.contains("belongs to the database"), "{error}");
            assert!(!place.path().join(name).exists());
        }
    }
    place.tells(&["backup", "chatserver.db-old"]);
    assert_eq!(place.tells(&["user", "list"])["users"].as_array().unwrap().len(), 1);
}

#[test]
fn a_backup_must_have_a_name_in_utf_8() {
    let place = Workplace::new();
    place.tells(&["migrate"]);
    let mut command = place.command(&["backup"]);
    command.arg(OsStr::from_bytes(b"caf\xe9.db")).stdin(Stdio::null());
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("its path is not UTF-8"), "{error}");
    let mut names = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.all(|name| name.to_str().is_some()), "nothing was created");
}
