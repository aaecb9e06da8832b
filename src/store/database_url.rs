//! The URL of a database: of a file of SQLite's, or of a PostgreSQL server.

use std::fmt;

use super::{DatabaseFile, OpenError, PgUrl};
use crate::domain::Parse;
use crate::key_file::KeyFile;

/// Location of the data. Shown without a password.
#[derive(Clone, Debug)]
pub enum DatabaseUrl {
    /// A file of SQLite's.
    Sqlite(String),
    /// A database of a PostgreSQL server.
    Postgres(Box<PgUrl>),
}

impl DatabaseUrl {
    /// Returns the URL of a file, for a command that works on files. `instead` is what does its work on PostgreSQL, as a
    /// sentence.
    pub(crate) fn of_file(&self, instead: &'static str) -> Result<&str, OpenError> {
        match self {
            Self::Sqlite(url) => Ok(url),
            Self::Postgres(url) => Err(OpenError::NoFile { url: url.to_string(), instead }),
        }
    }

    /// Returns the key file beside the file of a database; `None` for PostgreSQL.
    #[must_use]
    pub fn key_file(&self) -> Option<KeyFile> {
        let Self::Sqlite(url) = self else { return None };
        let path = DatabaseFile::parse(url)?.sibling(".key");
        Some(KeyFile::at(std::path::absolute(&path).unwrap_or(path)))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(url) => formatter.write_str(url),
            Self::Postgres(url) => url.fmt(formatter),
        }
    }
}

impl Parse for DatabaseUrl {
    const EXPECTED: &'static str = "sqlite:// and the path of a file, such as sqlite://chatserver.db, or the URL of a PostgreSQL database, such as postgres://chat@db.example.com/chat";

    fn parse(text: &str) -> Option<Self> {
        if PgUrl::is_meant(text) {
            PgUrl::parse(text).map(|url| Self::Postgres(Box::new(url)))
        } else {
            DatabaseFile::parse(text).map(|_| Self::Sqlite(text.to_owned()))
        }
    }

    fn objection(text: &str) -> Option<&'static str> {
        if PgUrl::is_meant(text) { PgUrl::objection(text) } else { DatabaseFile::objection(text) }
    }
}
