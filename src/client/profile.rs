//! The file that keeps a user's keys for the command-line client.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use url::Url;

use super::{Credentials, server_url};
use crate::bounded;
use crate::domain::{ApiKey, Parse, StationId, UserId};
use crate::keys::EncryptionPassword;

/// Maximum bytes of a file of the client. The positions of 10,000 conversations take 1.5 MiB.
const FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Why a profile can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// There is no such file.
    #[error("there is no profile at {}: run chatserver client login URL", .0.display())]
    Missing(PathBuf),
    /// Others may read or write the file.
    #[error("{} is private, but others may use it (mode {mode:o}): run chmod 600 on it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file has another form.
    #[error("{} can't be used: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The malformed field, or the line and column.
        problem: String,
    },
    /// The file can't be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The failure of the system.
        source: io::Error,
    },
}

/// A user on a server, with the keys that act and read for the user. The file has mode 0600.
#[derive(Clone, Serialize, Deserialize)]
pub struct Profile {
    /// The address of the server, without a query.
    pub url: String,
    /// The user.
    pub userid: String,
    /// The nick at the last login.
    pub nick: String,
    /// The station of this profile. It is a secret.
    pub stationid: String,
    /// The API key.
    pub apikey: String,
    /// The password that opens `rsakey`.
    pub encryptionpassword: String,
    /// The private key, encrypted as login returned it.
    pub rsakey: String,
}

impl Profile {
    /// Reads a profile. Refuses a file that others may read or write.
    ///
    /// # Errors
    ///
    /// [`ProfileError`].
    pub fn load(path: &Path) -> Result<Self, ProfileError> {
        let profile: Option<Self> = read(path)?;
        profile.ok_or_else(|| ProfileError::Missing(path.to_owned()))
    }

    /// Writes the profile with mode 0600, in one step. Creates its folder with mode 0700.
    ///
    /// # Errors
    ///
    /// [`ProfileError::File`].
    pub fn save(&self, path: &Path) -> Result<(), ProfileError> {
        write(path, self)
    }

    /// Returns the address of the server.
    ///
    /// # Errors
    ///
    /// [`ProfileError::Malformed`].
    pub fn url(&self, path: &Path) -> Result<Url, ProfileError> {
        let url = Url::parse(&self.url).ok().and_then(|url| server_url(url).ok());
        let problem = || "url must be that of a server".to_owned();
        url.ok_or_else(|| ProfileError::Malformed { path: path.to_owned(), problem: problem() })
    }

    /// Returns the credentials of the profile's station.
    ///
    /// # Errors
    ///
    /// [`ProfileError::Malformed`] if an id or the key is malformed.
    pub fn credentials(&self, path: &Path) -> Result<Credentials, ProfileError> {
        let user: UserId = parsed(path, "userid", &self.userid)?;
        let station: StationId = parsed(path, "stationid", &self.stationid)?;
        let api_key: ApiKey = parsed(path, "apikey", &self.apikey)?;
        Ok(Credentials::new(user, station, &api_key))
    }

    /// Returns the encryption password.
    ///
    /// # Errors
    ///
    /// [`ProfileError::Malformed`].
    pub fn password(&self, path: &Path) -> Result<EncryptionPassword, ProfileError> {
        parsed(path, "encryptionpassword", &self.encryptionpassword)
    }
}

fn parsed<T: Parse>(path: &Path, name: &str, text: &str) -> Result<T, ProfileError> {
    let problem = || format!("{name} must be {}", T::EXPECTED);
    T::parse(text)
        .ok_or_else(|| ProfileError::Malformed { path: path.to_owned(), problem: problem() })
}

/// Reads a private file of the client. Returns `None` if there is none.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ProfileError> {
    let failed = |source| ProfileError::File { path: path.to_owned(), source };
    // Opening a FIFO would otherwise wait for its writer.
    let without_waiting = OFlags::NONBLOCK.bits().cast_signed();
    let file = match File::options().read(true).custom_flags(without_waiting).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(not_regular(path));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(ProfileError::Open { path: path.to_owned(), mode });
    }
    let text = bounded::read(file, FILE_BYTES).map_err(failed)?;
    let value = serde_json::from_slice(&text);
    // The text of serde's error may show a value, which may be a secret; its place suffices.
    value.map(Some).map_err(|error| ProfileError::Malformed {
        path: path.to_owned(),
        problem: format!("line {}, column {}", error.line(), error.column()),
    })
}

/// Writes a private file of the client in one step: a reader sees the old one or the new one. A symbolic link stays, and
/// the file behind it is replaced.
pub(super) fn write(path: &Path, value: &impl Serialize) -> Result<(), ProfileError> {
    let failed = |source| ProfileError::File { path: path.to_owned(), source };
    let path = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        behind_links => behind_links.map_err(failed)?,
    };
    if path.exists() && !path.is_file() {
        return Err(not_regular(&path));
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    // A temporary file has mode 0600 from the start.
    let mut file = NamedTempFile::new_in(folder).map_err(failed)?;
    let text = serde_json::to_vec_pretty(value).expect("its keys are strings");
    file.write_all(&text).and_then(|()| file.write_all(b"\n")).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&path).map_err(|error| failed(error.error))?;
    let folder = File::open(folder).map_err(failed)?;
    folder.sync_all().map_err(failed)
}

fn not_regular(path: &Path) -> ProfileError {
    let problem = "it is no regular file".to_owned();
    ProfileError::Malformed { path: path.to_owned(), problem }
}
