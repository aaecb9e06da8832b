//! What commands print: text for people, or one JSON object.

use std::io::{self, Write as _};

use serde_json::Value;

use super::Failed;

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
