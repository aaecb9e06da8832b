//! Tests that need a program which the machine lacks.

use std::env;
use std::io::{self, Write as _};

/// Says that a test is left out, and which program it needs. In CI the test fails.
#[expect(
    clippy::explicit_write,
    reason = "the test harness hides what `eprintln!` prints in a test that passes"
)]
pub fn left_out(test: &str, needed: &str) {
    assert!(env::var_os("CI").is_none(), "{needed} is missing");
    writeln!(io::stderr(), "LEFT OUT: {test}, which needs {needed}").unwrap();
}
