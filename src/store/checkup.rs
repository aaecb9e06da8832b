//! The checks of `chatserver doctor` in a database. They change nothing, and a server may run meanwhile.

use super::{DatabaseFile, DatabaseUrl, OpenError, Registered};
use super::{postgres, sqlite};
use crate::domain::{Parse as _, Timestamp};

/// The findings in a database whose schema is that of this version.
pub(crate) struct Checkup {
    /// Number of migrations.
    pub(crate) migrations: usize,
    /// The newest date that a server has written.
    pub(crate) newest: Option<Timestamp>,
    /// The durability of commits, in words.
    pub(crate) journal: String,
    /// Whether an answered change survives a power cut.
    pub(crate) is_durable: bool,
    /// The first damage that was found.
    pub(crate) damage: Option<String>,
    pub(crate) archive: Archive,
    /// The keys of the key file that the database records.
    pub(crate) sealing_keys: Vec<Registered>,
}

/// The database's own record of its backups.
pub(crate) enum Archive {
    /// Nothing: a file of SQLite's.
    Unknown,
    /// The server archives no WAL.
    Off,
    /// The server archives its WAL. When it last did.
    Archived(Option<Timestamp>),
}

/// Looks at a database: at all of an SQLite file if `is_full`, and for about a second if not.
///
/// # Errors
///
/// [`OpenError`] where a command could not use the database.
pub(crate) async fn examine(url: &DatabaseUrl, is_full: bool) -> Result<Checkup, OpenError> {
    match url {
        DatabaseUrl::Sqlite(text) => {
            let file = DatabaseFile::parse(text).ok_or(OpenError::Url { url: text.clone() })?;
            sqlite::checkup::examine(&file, is_full).await
        }
        DatabaseUrl::Postgres(url) => postgres::checkup::examine(url).await,
    }
}
