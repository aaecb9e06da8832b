//! The note that `backup` leaves beside a database, so that `doctor` can tell how old the last backup is.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::file::open_or_create;
use crate::bounded;
use crate::domain::{Parse as _, Timestamp};
use crate::store::DatabaseFile;

/// Maximum bytes of the note.
const NOTE_BYTES: u64 = 64 * 1024;

/// Suffix of the note's name.
pub(crate) const SUFFIX: &str = "-backup";

/// The last backup of a database.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LastBackup {
    pub(crate) date: String,
    pub(crate) file: String,
}

/// Notes that the database at this URL was backed up into a file.
pub(crate) fn record_backup(url: &str, to: &Path, now: Timestamp) -> io::Result<()> {
    let Some(database) = DatabaseFile::parse(url) else { return Ok(()) };
    let file = std::path::absolute(to)?.display().to_string();
    let note = serde_json::to_string(&LastBackup { date: now.to_string(), file })?;
    let mut options = OpenOptions::new();
    options.write(true);
    let path = database.sibling(SUFFIX);
    // Before opening it: opening a FIFO waits for its other end.
    if path.symlink_metadata().is_ok_and(|found| !found.is_file()) {
        return Err(io::Error::other(format!("{} is not a regular file", path.display())));
    }
    let mut written = open_or_create(&path, &mut options, database.owner().as_ref())?;
    written.write_all(format!("{note}\n").as_bytes())?;
    written.set_len(note.len() as u64 + 1)
}

/// Returns the last backup that is noted. `None` where there is no note that can be read.
pub(crate) fn last_backup(url: &str) -> Option<LastBackup> {
    let path = DatabaseFile::parse(url)?.sibling(SUFFIX);
    // A FIFO would keep this waiting.
    let file = path.is_file().then(|| std::fs::File::open(path))?.ok()?;
    serde_json::from_str(&bounded::read_text(file, NOTE_BYTES).ok()?).ok()
}
