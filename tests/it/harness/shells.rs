//! Pastes text into shells, as users do with commands from the documentation.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// The tested shells. Interactive ones treat `#` and `!` differently from the others.
pub const SHELLS: [&[&str]; 6] = [
    &["bash"],
    &["dash"],
    &["zsh"],
    &["bash", "--norc", "-i"],
    &["dash", "-i"],
    &["zsh", "-f", "-i"],
];

/// Pastes a text into a shell in this folder and returns its output lines. Asserts that the shell reports no error.
pub fn pasted(shell: &[&str], folder: &Path, text: &str) -> Vec<String> {
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]).current_dir(folder);
    let built = Path::new(env!("CARGO_BIN_EXE_chatserver")).parent().unwrap();
    let path = format!("{}:{}", built.display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).env_remove("TERM");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{shell:?}: {error}"));
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    // An interactive shell writes its prompts and its complaints about lines to stderr.
    for objection in ["not found", "parse error", "no matches", "yntax error", "unexpected"] {
        assert!(!error.contains(objection), "{shell:?}: {error}");
    }
    let is_interactive = shell.contains(&"-i");
    assert!(is_interactive || error.is_empty(), "{shell:?}: {error}");
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(str::to_owned).collect()
}
