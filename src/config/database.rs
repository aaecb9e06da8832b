//! The section `[database]`: where the data is, and the password of a PostgreSQL database.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::Error;
use super::layers::NOT_SHOWN;
use super::values::{OptionalPath, parsed};
use crate::bounded;
use crate::domain::Parse;
use crate::store::DatabaseUrl;

/// Maximum bytes of the password's file.
const PASSWORD_BYTES: u64 = 4096;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Database {
    #[serde(deserialize_with = "parsed")]
    pub(crate) url: DatabaseUrl,
    #[serde(deserialize_with = "parsed")]
    password: Password,
    #[serde(deserialize_with = "parsed")]
    password_file: OptionalPath,
}

/// A password, which is not shown.
#[derive(Clone)]
struct Password(Option<Zeroizing<String>>);

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_some() { NOT_SHOWN } else { "none" })
    }
}

impl Parse for Password {
    const EXPECTED: &'static str = "empty or a text without control characters";

    fn parse(text: &str) -> Option<Self> {
        let password = (!text.is_empty()).then(|| Zeroizing::new(text.to_owned()));
        (!text.contains(char::is_control)).then_some(Self(password))
    }
}

impl Database {
    /// Whether the settings themselves hold a password.
    pub(crate) fn has_password(&self) -> bool {
        let in_url = matches!(&self.url, DatabaseUrl::Postgres(url) if url.has_password());
        self.password.0.is_some() || in_url
    }

    pub(crate) fn password_file(&self) -> Option<&Path> {
        self.password_file.0.as_deref()
    }

    /// Refuses two passwords: the wrong one could be used.
    pub(super) fn agree(&self) -> Result<(), Error> {
        let in_url = matches!(&self.url, DatabaseUrl::Postgres(url) if url.has_password());
        let wrong = |name: &str, problem: &str| {
            let (name, value) = (name.to_owned(), NOT_SHOWN.to_owned());
            Err(Error::Wrong { name, value, problem: problem.to_owned() })
        };
        match (&self.password.0, &self.password_file.0) {
            (Some(_), Some(_)) => {
                wrong("database.password", "must be empty where database.password_file is set")
            }
            (Some(_), None) if in_url => {
                wrong("database.url", "must have no password where database.password is set")
            }
            (None, Some(_)) if in_url => {
                wrong("database.url", "must have no password where database.password_file is set")
            }
            _ => Ok(()),
        }
    }

    /// Returns the URL with the password of the settings, where PostgreSQL needs one.
    pub(crate) fn with_password(&self) -> Result<DatabaseUrl, Error> {
        self.add_password(&self.url)
    }

    /// Returns a URL with the password of the settings, where PostgreSQL needs one and the URL has none.
    pub(crate) fn add_password(&self, to: &DatabaseUrl) -> Result<DatabaseUrl, Error> {
        let url = match to {
            DatabaseUrl::Postgres(url) if !url.has_password() => url,
            _ => return Ok(to.clone()),
        };
        let url = match (&self.password.0, &self.password_file.0) {
            (Some(password), _) => url.with_password(password),
            (None, Some(path)) => url.with_password(&read(path)?),
            (None, None) => return Ok(to.clone()),
        };
        Ok(DatabaseUrl::Postgres(Box::new(url)))
    }
}

/// Reads the password of a file: all of it, without the end of its line.
///
/// A file that others may read gets a warning only, as the database file does. A secret that Docker mounts is always
/// readable by everyone in its container.
fn read(path: &Path) -> Result<Zeroizing<String>, Error> {
    let unusable = |problem| Error::Password { path: path.to_owned(), problem };
    let file = File::open(path).map_err(|error| unusable(error.to_string()))?;
    let mode = file.metadata().map_or(0, |found| found.permissions().mode() & 0o777);
    if mode & 0o004 != 0 {
        let mode = format!("{mode:o}");
        tracing::warn!(path = %path.display(), mode, "other users of this machine can read the file of database.password_file: chmod o-r it");
    }
    let text = bounded::read_text(file, PASSWORD_BYTES);
    let mut text = Zeroizing::new(text.map_err(|error| unusable(error.to_string()))?);
    let length = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(length);
    match Password::parse(&text) {
        Some(Password(Some(password))) => Ok(password),
        Some(Password(None)) => Err(unusable("it is empty".to_owned())),
        None => Err(unusable("it holds control characters, or more than one line".to_owned())),
    }
}
