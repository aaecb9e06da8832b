//! Tests that need a program which the machine lacks.

use std::env;
use std::io::{self, Write as _};
use std::path::PathBuf;

/// Returns a program of the machine. Without it, the test that needs it is left out. Debian keeps some out of PATH.
pub fn program(name: &str, test: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|program| program.is_file());
    if found.is_none() {
        left_out(test, name);
    }
    found
}

/// Says that a test is left out, and which program it needs. In CI the test fails.
#[expect(
    clippy::explicit_write,
    reason = "the test harness hides what `eprintln!` prints in a test that passes"
)]
pub fn left_out(test: &str, needed: &str) {
    assert!(env::var_os("CI").is_none(), "{needed} is missing");
    writeln!(io::stderr(), "LEFT OUT: {test}, which needs {needed}").unwrap();
}
