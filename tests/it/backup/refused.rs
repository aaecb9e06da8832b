//! Files that are no backup by what they are.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::binary::Workplace;
use crate::database_file::refused::as_nobody;

#[test]
fn what_is_no_regular_file_is_no_backup() {
    let place = Workplace::new();
    place.tells(&["migrate"]);
    place.tells(&["backup", "sound"]);
    assert!(Command::new("mkfifo").arg(place.path().join("fifo")).status().unwrap().success());
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
    let error = as_nobody(&place, &["backup", "verify", "sound"]);
    assert!(error.contains("sound can't be read: Permission denied"), "{error}");
}
