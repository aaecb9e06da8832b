//! What commands print: text for people, or one JSON object.

use std::error::Error;
use std::io::{self, Write as _};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::Failed;

/// How long to wait until a failure is written to stderr.
const PATIENCE: Duration = Duration::from_secs(1);

/// The result of a command.
pub struct Output {
    text: String,
    json: Value,
}

impl Output {
    /// The same result, for people and for programs.
    pub fn new(text: impl Into<String>, json: Value) -> Self {
        Self { text: text.into(), json }
    }

    /// Prints the form that was asked for on stdout.
    pub fn print(self, as_json: bool) -> Result<(), Failed> {
        let text = if as_json { self.json.to_string() } else { self.text };
        let mut stdout = io::stdout().lock();
        if !text.is_empty() {
            writeln!(stdout, "{text}")?;
        }
        Ok(stdout.flush()?)
    }
}

/// Tells on stderr why a command was not carried out, down to the first cause.
pub fn failure(error: &(dyn Error + 'static)) {
    let mut text = format!("chatserver: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let error_text = error.to_string();
        if !text.ends_with(&error_text) {
            text.push_str(": ");
            text.push_str(&error_text);
        }
        cause = error.source();
    }
    // With stderr gone there is nobody left to tell. A pipe that nobody reads must not keep the process from ending.
    let (told, done) = mpsc::channel();
    thread::spawn(move || {
        drop(writeln!(io::stderr(), "{text}"));
        told.send(()).ok();
    });
    done.recv_timeout(PATIENCE).ok();
}
