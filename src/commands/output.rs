//! Prints the results of commands: text for people, or one JSON object.

use std::io::{self, Write as _};

use serde_json::Value;

use super::failure::{self, Failed, Refusal};

pub(crate) struct Output {
    text: String,
    json: Value,
}

impl Output {
    /// Takes the same result as text for people and as JSON for programs.
    pub(crate) fn new(text: impl Into<String>, json: Value) -> Self {
        Self { text: text.into(), json }
    }

    pub(crate) fn print(self, as_json: bool) -> Result<(), Failed> {
        write(&self.in_form(as_json)).map_err(unwritable)
    }

    /// Prints the result of a command that has changed something. If stdout fails, the failure says that the change is
    /// made. It carries the result, which may never be shown again.
    pub(crate) fn print_after_change(self, as_json: bool) -> Result<(), Failed> {
        let text = self.in_form(as_json);
        match write(&text) {
            Err(error) if !failure::is_closed_pipe(&error) => {
                let sentence = format!(
                    "the command was carried out, but stdout can't be written: {error}. Its result: {text}"
                );
                Err(Refusal::with_code("output_failed", sentence))
            }
            written => Ok(written?),
        }
    }

    fn in_form(self, as_json: bool) -> String {
        if as_json { self.json.to_string() } else { self.text }
    }
}

/// Makes the failure of a stdout that can't be written.
pub(super) fn unwritable(error: io::Error) -> Failed {
    if failure::is_closed_pipe(&error) {
        return error.into();
    }
    Refusal::with_code("failed", format!("stdout can't be written: {error}"))
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    if !text.is_empty() {
        writeln!(stdout, "{text}")?;
    }
    stdout.flush()
}
