//! Certificates of a server, made by the `openssl` command.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A certificate for `localhost`, the authority that signed it, and an authority that signed nothing.
pub struct Certificates {
    pub authority: PathBuf,
    pub other_authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Certificates {
    /// Makes them in this folder. The mode of keys is 600.
    pub fn make(folder: &Path) -> Self {
        let (authority, authority_key) = make(folder, "authority", |request| request);
        let (other_authority, _) = make(folder, "other-authority", |request| request);
        let (certificate, key) = make(folder, "localhost", |request| {
            request.args(["-addext", "subjectAltName=DNS:localhost"]);
            request.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
            request.arg("-CA").arg(&authority).arg("-CAkey").arg(&authority_key)
        });
        Self { authority, other_authority, certificate, key }
    }

    /// Returns the certificates that [`Self::make`] has made in this folder.
    pub fn made_in(folder: &Path) -> Self {
        let (authority, other_authority) =
            (file(folder, "authority"), file(folder, "other-authority"));
        Self {
            authority,
            other_authority,
            certificate: file(folder, "localhost"),
            key: folder.join("localhost"),
        }
    }
}

fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(name).with_extension("pem")
}

/// Makes a certificate and its key, and returns their files.
fn make(
    folder: &Path,
    name: &str,
    further: impl FnOnce(&mut Command) -> &mut Command,
) -> (PathBuf, PathBuf) {
    let (certificate, key) = (file(folder, name), folder.join(name));
    let mut request = Command::new("openssl");
    request.args(["req", "-x509", "-days", "30", "-nodes", "-subj", &format!("/CN={name}")]);
    request.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    request.arg("-out").arg(&certificate).arg("-keyout").arg(&key).stdin(Stdio::null());
    let output = further(&mut request).output().unwrap();
    assert!(output.status.success(), "{name}: {output:?}");
    (certificate, key)
}
