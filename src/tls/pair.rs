//! A certificate with its private key, checked to belong together.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error as TlsError, InconsistentKeys};
use x509_parser::parse_x509_certificate;
use zeroize::Zeroizing;

use super::Error;
use crate::bounded;
use crate::domain::Timestamp;

/// The setting of the certificate's file.
pub(super) const CERTIFICATE: &str = "http.tls_certificate";

/// The setting of the key's file.
pub(super) const KEY: &str = "http.tls_key";

/// Maximum bytes of a file. A chain takes about 5 KB.
const FILE_BYTES: u64 = 1024 * 1024;

/// A certificate expires soon when less than this is left, or a quarter of its lifetime if that is shorter. Tools renew
/// one when a third is left.
const SOON: i64 = 14 * 24 * 60 * 60;

/// A certificate, those between it and its authority, and its private key.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) validity: Validity,
}

/// The time in which clients accept a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) from: Timestamp,
    pub(crate) until: Timestamp,
}

impl Validity {
    fn lifetime(self) -> i64 {
        (self.until.unix() - self.from.unix()).max(0)
    }

    pub(crate) fn is_over(self, now: Timestamp) -> bool {
        now > self.until
    }

    pub(crate) fn ends_soon(self, now: Timestamp) -> bool {
        self.until.unix() - now.unix() < SOON.min(self.lifetime() / 4)
    }

    /// Whether a third of the lifetime or less is left: the time to renew it by ACME.
    pub(super) fn is_due(self, now: Timestamp) -> bool {
        self.until.unix() - now.unix() <= self.lifetime() / 3
    }

    /// Logs that the certificate expires soon, or has expired. Returns whether it has logged anything.
    pub(super) fn warn(self, now: Timestamp) -> bool {
        let expires = self.until;
        if self.is_over(now) {
            tracing::error!(%expires, "the TLS certificate has expired: clients refuse it");
        } else if self.ends_soon(now) {
            tracing::warn!(%expires, "the TLS certificate expires soon: renew it");
        }
        self.ends_soon(now)
    }
}

impl Pair {
    /// Reads a certificate and its key from the files of the settings. Refuses a key that other users have access to.
    pub(crate) fn read(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let of_certificate = |problem: String| Error::setting(CERTIFICATE, certificate, problem);
        let of_key = |problem: String| Error::setting(KEY, key, problem);
        let chain = read(certificate).map_err(of_certificate)?;
        let secret = read(key).map_err(of_key)?;
        refuse_open(key).map_err(of_key)?;
        Self::parse(&chain, &secret).map_err(|problem| match problem {
            Problem::Certificate(problem) => of_certificate(problem),
            Problem::Key(problem) => of_key(problem),
        })
    }

    pub(crate) fn validity(&self) -> Validity {
        self.validity
    }

    /// Whether the certificate is for this name or address.
    pub(crate) fn is_for(&self, host: &str) -> bool {
        let certificate = self.key.end_entity_cert().and_then(ParsedCertificate::try_from);
        let host = ServerName::try_from(host.trim_matches(['[', ']']));
        match (certificate, host) {
            (Ok(certificate), Ok(host)) => verify_server_name(&certificate, &host).is_ok(),
            _ => false,
        }
    }

    /// Parses a certificate and its key, both as PEM.
    pub(super) fn parse(chain: &[u8], secret: &[u8]) -> Result<Self, Problem> {
        let chain = certificates(chain).map_err(Problem::Certificate)?;
        let secret = private_key(secret).map_err(Problem::Key)?;
        let validity = validity(&chain[0]).map_err(Problem::Certificate)?;
        let key = CertifiedKey::from_der(chain, secret, &aws_lc_rs::default_provider());
        match key {
            Ok(key) => Ok(Self { key: Arc::new(key), validity }),
            Err(TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                let sentence = format!(
                    "it is not the key of the first certificate in the file of {CERTIFICATE}"
                );
                Err(Problem::Key(sentence))
            }
            Err(error) => Err(Problem::Key(format!("it can't be used: {error}"))),
        }
    }
}

/// Why a pair is refused, by the file that is to blame.
#[derive(Debug)]
pub(super) enum Problem {
    Certificate(String),
    Key(String),
}

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match all {
        Ok(all) if all.is_empty() => {
            Err("it holds no certificate, which begins with -----BEGIN CERTIFICATE-----".to_owned())
        }
        Ok(all) => Ok(all),
        Err(error) => Err(format!("it is no PEM: {error}")),
    }
}

fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let is_encrypted = text.windows(9).any(|part| part == b"ENCRYPTED");
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(key),
        Err(_) if is_encrypted => {
            Err("the key has a password; `openssl pkey -in FILE -out NEW` removes it".to_owned())
        }
        Err(pem::Error::NoItemsFound) => {
            Err("it holds no private key, which begins with -----BEGIN PRIVATE KEY-----".to_owned())
        }
        Err(error) => Err(format!("it is no PEM: {error}")),
    }
}

fn validity(certificate: &CertificateDer<'_>) -> Result<Validity, String> {
    let (_, parsed) = parse_x509_certificate(certificate)
        .map_err(|error| format!("its first certificate can't be read: {error}"))?;
    let date = |seconds: i64| {
        Timestamp::from_unix(seconds).ok_or_else(|| "its first certificate has no date".to_owned())
    };
    let validity = parsed.validity();
    let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Ok(Validity { from: date(from)?, until: date(until)? })
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    // Before opening it: opening a FIFO waits for its other end.
    let found = fs::metadata(path).map_err(|error| error.to_string())?;
    if !found.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let bytes = File::open(path).and_then(|file| bounded::read(file, FILE_BYTES));
    bytes.map(Zeroizing::new).map_err(|error| error.to_string())
}

/// Refuses a key that users outside its group have access to.
fn refuse_open(path: &Path) -> Result<(), String> {
    let found = fs::metadata(path).map_err(|error| error.to_string())?;
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(format!(
            "other users of this machine have access to it (mode {mode:o}); run `chmod o= {}`",
            path.display()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 60 * 60;

    /// Returns what a certificate with this lifetime is at this age, in days: due for renewal, and soon to end.
    fn at(lifetime: i64, age: i64) -> (bool, bool) {
        let date = |days: i64| Timestamp::from_unix(days * DAY).unwrap();
        let validity = Validity { from: date(1000), until: date(1000 + lifetime) };
        let now = date(1000 + age);
        (validity.is_due(now), validity.ends_soon(now))
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_lifetime_and_warned_of_later() {
        assert_eq!(at(90, 59), (false, false));
        assert_eq!(at(90, 60), (true, false));
        assert_eq!(at(90, 75), (true, false));
        assert_eq!(at(90, 77), (true, true));
        assert_eq!(at(90, 91), (true, true));
        // Two weeks would be all of a short lifetime.
        assert_eq!(at(8, 5), (false, false));
        assert_eq!(at(8, 6), (true, false));
        assert_eq!(at(8, 7), (true, true));
    }
}
