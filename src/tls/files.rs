//! A certificate and its key in two files, which are read again when they change.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tokio::time::sleep;

use super::{Certificates, Error, LOOK_EVERY, Pair};

/// The files of the settings.
pub(super) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    /// The state of the files before they were read.
    opened: [Option<Stamp>; 2],
}

/// The state of a file that a change of it alters: device, inode, size, and time of the last change in nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

impl Files {
    /// Reads both files.
    pub(super) fn open(certificate: &Path, key: &Path) -> Result<(Self, Pair), Error> {
        let opened = [stamp(certificate), stamp(key)];
        let pair = Pair::read(certificate, key)?;
        Ok((Self { certificate: certificate.to_owned(), key: key.to_owned(), opened }, pair))
    }

    /// Reads the files again when they have changed, and then stayed the same for one look: a tool may write one after
    /// the other. A new pair that can't be used leaves the old one in place. Never returns.
    pub(super) async fn keep(&self, certificates: &Certificates) {
        let (mut read, mut last) = (self.opened, self.opened);
        loop {
            sleep(LOOK_EVERY).await;
            let found = [stamp(&self.certificate), stamp(&self.key)];
            if found == last && found != read {
                read = found;
                match Pair::read(&self.certificate, &self.key) {
                    Ok(pair) => {
                        tracing::info!(expires = %pair.validity.until, "TLS certificate reloaded");
                        certificates.replace(pair);
                    }
                    Err(error) => tracing::error!(
                        %error,
                        "the new TLS certificate can't be used: the old one stays in use"
                    ),
                }
            }
            last = found;
        }
    }
}

/// Looks at the file that a path leads to: tools replace links, too.
fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
}
