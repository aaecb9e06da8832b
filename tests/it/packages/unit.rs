//! The units for systemd, looked at by systemd itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::harness::left_out::program;

const SERVER: &str = "chatserver.service";
const UNITS: [&str; 3] = [SERVER, "chatserver-backup.service", "chatserver-backup.timer"];

/// Copies the units and the drop-in, with the programs of the checkout in place of the installed ones.
fn units() -> (TempDir, Vec<PathBuf>) {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        let text = fs::read_to_string(packaging.join(name)).unwrap();
        let text =
            text.replace("/usr/bin/chatserver ", concat!(env!("CARGO_BIN_EXE_chatserver"), " "));
        let text = text.replace("/usr/lib/chatserver", packaging.to_str().unwrap());
        assert!(!text.contains("=/usr/"), "{text}");
        let unit = folder.path().join(name);
        fs::write(&unit, text).unwrap();
        unit
    };
    let units = UNITS.map(copy).to_vec();
    let drop_in = Path::new("chatserver.service.d").join("node.conf");
    fs::create_dir(folder.path().join("chatserver.service.d")).unwrap();
    fs::copy(packaging.join(&drop_in), folder.path().join(drop_in)).unwrap();
    (folder, units)
}

#[test]
fn systemd_understands_every_line_of_the_units() {
    let Some(program) = program("systemd-analyze", "the units for systemd") else { return };
    let (_folder, units) = units();
    let verify = ["verify", "--man=no", "--recursive-errors=no"];
    let output = Command::new(program).args(verify).args(units).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn the_exposure_of_the_services_is_below_2() {
    let Some(program) = program("systemd-analyze", "the exposure of the units") else { return };
    let (_folder, units) = units();
    let security = ["security", "--offline=true", "--no-pager"];
    for unit in units.iter().filter(|unit| unit.extension().is_some_and(|kind| kind == "service")) {
        let output = Command::new(&program).args(security).arg(unit).output().unwrap();
        let report = String::from_utf8(output.stdout).unwrap();
        let (_, overall) = report.split_once("Overall exposure level for ").unwrap();
        let (_, exposure) = overall.split_once(": ").unwrap();
        let exposure: f64 = exposure.split(' ').next().unwrap().parse().unwrap();
        assert!(exposure < 2.0, "{report}");
    }
}
