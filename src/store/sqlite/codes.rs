//! Result codes of SQLite (<https://sqlite.org/rescode.html>), and what an operator can do about them.

use sqlx::error::DatabaseError as _;
use sqlx::sqlite::SqliteError;

use crate::store::error::{FULL, PERMISSIONS};

const BUSY: i32 = 5;
const READONLY: i32 = 8;
const IOERR: i32 = 10;
const CORRUPT: i32 = 11;
const FULL_DISK: i32 = 13;
const CANTOPEN: i32 = 14;
const NOTADB: i32 = 26;
/// Reported when the file system's own checksums don't match.
const IOERR_CORRUPTFS: i32 = 8458;

/// Returns SQLite's extended result code, or `None` if the error is not from SQLite. Its low byte is the primary result
/// code.
pub(crate) fn code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.try_downcast_ref::<SqliteError>()?.code()?.parse().ok()
}

fn primary(error: &sqlx::Error) -> Option<i32> {
    code(error).map(|code| code & 0xff)
}

/// Returns the cause of a failure as one of a few words.
pub(crate) fn cause(error: &sqlx::Error) -> Option<&'static str> {
    const CAUSES: [(i32, &str); 9] = [
        (BUSY, "busy"),
        (6, "busy"),
        (READONLY, "readonly"),
        (IOERR, "io"),
        (CORRUPT, "corrupt"),
        (FULL_DISK, "full"),
        (CANTOPEN, "cantopen"),
        (19, "constraint"),
        (NOTADB, "corrupt"),
    ];
    let primary = primary(error)?;
    CAUSES.iter().find(|(code, _)| *code == primary).map(|(_, word)| *word)
}

pub(crate) fn is_busy(error: &sqlx::Error) -> bool {
    primary(error) == Some(BUSY)
}

/// Whether SQLite found a malformed page, a file that is no database, or a checksum error of the file system.
pub(crate) fn is_of_damage(error: &sqlx::Error) -> bool {
    matches!(primary(error), Some(CORRUPT | NOTADB)) || code(error) == Some(IOERR_CORRUPTFS)
}

/// Returns what an operator can do about an error at opening, as a part of a sentence.
pub(crate) fn advice(error: &sqlx::Error) -> &'static str {
    match primary(error) {
        Some(READONLY | CANTOPEN) => PERMISSIONS,
        Some(FULL_DISK) => FULL,
        Some(CORRUPT) => {
            ". Stop the server, keep a copy of the database with its -wal and -shm, check the disk, and put a backup in its \
             place with `chatserver restore`"
        }
        Some(IOERR) => {
            "; the disk is full or fails: see df and the log of the kernel, then start again"
        }
        _ => "",
    }
}
