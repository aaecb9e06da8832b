//! The unit for systemd, looked at by systemd itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::harness::left_out::program;

const UNIT: &str = "chatserver.service";

/// Copies the unit and its drop-in, with the tested binary in place of the installed one.
fn unit() -> (TempDir, PathBuf) {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(packaging.join(UNIT)).unwrap();
    assert!(text.contains("ExecStart=/usr/bin/chatserver "), "{text}");
    let text = text.replace("/usr/bin/chatserver", env!("CARGO_BIN_EXE_chatserver"));
    let unit = folder.path().join(UNIT);
    fs::write(&unit, text).unwrap();
    let drop_in = Path::new("chatserver.service.d").join("node.conf");
    fs::create_dir(folder.path().join("chatserver.service.d")).unwrap();
    fs::copy(packaging.join(&drop_in), folder.path().join(drop_in)).unwrap();
    (folder, unit)
}

#[test]
fn systemd_understands_every_line_of_the_unit() {
    let Some(program) = program("systemd-analyze", "the unit for systemd") else { return };
    let (_folder, unit) = unit();
    let verify = ["verify", "--man=no", "--recursive-errors=no"];
    let output = Command::new(program).args(verify).arg(unit).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn the_exposure_of_the_unit_is_below_2() {
    let Some(program) = program("systemd-analyze", "the exposure of the unit") else { return };
    let (_folder, unit) = unit();
    let security = ["security", "--offline=true", "--no-pager"];
    let output = Command::new(program).args(security).arg(unit).output().unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    let (_, overall) =
        report.split_once("Overall exposure level for chatserver.service: ").unwrap();
    let exposure: f64 = overall.split(' ').next().unwrap().parse().unwrap();
    assert!(exposure < 2.0, "{report}");
}
