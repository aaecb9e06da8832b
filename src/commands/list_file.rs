//! Files that list users, one on each line: CSV, as spreadsheets write it.
//!
//! A command checks all lines before it changes anything, so that one run shows the operator every mistake.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};

use csv::{ReaderBuilder, StringRecord};

use super::Failed;
use super::failure::Refusal;
use crate::bounded;

/// Maximum bytes of a list: more than 100,000 users.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// A line of a list that is not blank. A quoted field may go on for several lines; this is the first one.
pub(crate) struct Line {
    pub(crate) number: usize,
    pub(crate) fields: StringRecord,
}

/// Reads the file; `-` is stdin.
pub(crate) fn read(file: &str) -> Result<Vec<Line>, Failed> {
    let text = if file == "-" {
        bounded::read_text(io::stdin().lock(), MOST_BYTES)
    } else {
        File::open(file).and_then(|file| bounded::read_text(file, MOST_BYTES))
    };
    let text = text.map_err(|error| Refusal::argument(format!("{file} can't be read: {error}")))?;
    let mut reader =
        ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let (mut number, mut counted) = (1, 0);
    let mut lines = Vec::new();
    for fields in reader.records() {
        let fields = fields?;
        let start = fields.position().map_or(0, csv::Position::byte);
        let start = line_start(text.as_bytes(), usize::try_from(start)?);
        number += text.get(counted..start).map_or(0, |passed| passed.matches('\n').count());
        counted = start;
        lines.push(Line { number, fields });
    }
    Ok(lines)
}

/// Skips line ends. The position of a record is before blank lines, and before the LF of a CR LF.
fn line_start(text: &[u8], position: usize) -> usize {
    let rest = text.get(position..).unwrap_or_default();
    position + rest.iter().take_while(|byte| b"\r\n".contains(byte)).count()
}

/// The mistakes of a list.
#[derive(Default)]
pub(crate) struct Mistakes(Vec<(usize, String)>);

impl Mistakes {
    pub(crate) fn add(&mut self, line: usize, sentence: String) {
        self.0.push((line, sentence));
    }

    /// Refuses the file if it has mistakes: one sentence for each, in the order of the lines.
    pub(crate) fn refuse(mut self, file: &str) -> Result<(), Failed> {
        if self.0.is_empty() {
            return Ok(());
        }
        self.0.sort_by_key(|(line, _)| *line);
        let count = self.0.len();
        let lines = self.0.iter().map(|(line, mistake)| format!("\nline {line}: {mistake}"));
        let sentence = format!(
            "{file} can't be used, and nothing was changed; mistakes: {count}{}",
            lines.collect::<String>()
        );
        Err(Refusal::argument(sentence))
    }
}

/// Shows progress on stderr if that is a terminal. A closed stderr must not fail the command.
pub(crate) fn show_progress(sentence: &str) {
    if io::stderr().is_terminal() {
        drop(writeln!(io::stderr(), "{sentence}"));
    }
}
