//! The folder that keeps a certificate and the key of an ACME account over a restart.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use instant_acme::AccountCredentials;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use crate::bounded;
use crate::tls::Error;

/// The setting of the folder.
const SETTING: &str = "http.acme_cache";

/// Maximum bytes of a file.
const FILE_BYTES: u64 = 1024 * 1024;

pub(super) struct Cache {
    folder: PathBuf,
    account: PathBuf,
    certificate: PathBuf,
}

impl Cache {
    /// Opens the folder, or makes it with mode 700. Refuses one that other users have access to, or that this process
    /// can't write.
    pub(super) fn open(folder: &Path, directory: &str, domains: &[String]) -> Result<Self, Error> {
        let refused = |problem: String| Error::setting(SETTING, folder, problem);
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(refused(format!("the folder can't be made: {error}")));
            }
            _ => refuse_open(folder)?,
        }
        let unwritable = |error| refused(format!("the folder can't be written: {error}"));
        NamedTempFile::new_in(folder).map_err(unwritable)?;
        Ok(Self::at(folder, directory, domains))
    }

    /// Opens the folder without making it. Returns `None` if there is none.
    pub(super) fn look(
        folder: &Path,
        directory: &str,
        domains: &[String],
    ) -> Result<Option<Self>, Error> {
        if matches!(folder.try_exists(), Ok(false)) {
            return Ok(None);
        }
        refuse_open(folder)?;
        Ok(Some(Self::at(folder, directory, domains)))
    }

    /// Names the files. Another ACME server, or other names, have files of their own.
    fn at(folder: &Path, directory: &str, domains: &[String]) -> Self {
        let file = |name: &str, parts: &[&str]| {
            let digest = Sha256::digest(parts.join("\n"));
            folder.join(format!("{name}-{}", hex::encode(&digest[..8])))
        };
        let names: Vec<_> = domains.iter().map(String::as_str).collect();
        Self {
            folder: folder.to_owned(),
            account: file("account", &[directory]).with_extension("json"),
            certificate: file("certificate", &[&[directory], &names[..]].concat())
                .with_extension("pem"),
        }
    }

    /// Returns the certificate and its key, if they are kept.
    pub(super) fn certificate(&self) -> Option<Zeroizing<Vec<u8>>> {
        read(&self.certificate)
    }

    pub(super) fn keep_certificate(&self, pem: &[u8]) -> io::Result<()> {
        self.keep(&self.certificate, pem)
    }

    /// Returns the account, if it is kept.
    pub(super) fn account(&self) -> Option<AccountCredentials> {
        let credentials = serde_json::from_slice(&read(&self.account)?);
        credentials.inspect_err(|error| warn(&self.account, error)).ok()
    }

    pub(super) fn keep_account(&self, credentials: &AccountCredentials) -> io::Result<()> {
        self.keep(&self.account, &Zeroizing::new(serde_json::to_vec(credentials)?))
    }

    /// Replaces a file at once, flushed to the disk. A temporary file has mode 600.
    fn keep(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = NamedTempFile::new_in(&self.folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(&self.folder)?.sync_all()
    }
}

/// Refuses what is no folder, and a folder that other users have access to.
fn refuse_open(folder: &Path) -> Result<(), Error> {
    let refused = |problem: String| Error::setting(SETTING, folder, problem);
    let found = fs::metadata(folder).map_err(|error| refused(error.to_string()))?;
    if !found.is_dir() {
        return Err(refused("it is not a folder".to_owned()));
    }
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(refused(format!(
            "other users have access to the folder (mode {mode:o}); run `chmod 700 {}`",
            folder.display()
        )));
    }
    Ok(())
}

/// Reads a file that may be absent.
fn read(path: &Path) -> Option<Zeroizing<Vec<u8>>> {
    match File::open(path).and_then(|file| bounded::read(file, FILE_BYTES)) {
        Ok(bytes) => Some(Zeroizing::new(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => {
            warn(path, &error);
            None
        }
    }
}

fn warn(path: &Path, error: &(dyn std::error::Error + 'static)) {
    tracing::warn!(path = %path.display(), error, "a file of http.acme_cache can't be used");
}
