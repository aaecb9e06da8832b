//! Sealing API keys: what the database holds of them, under the keys of the key file.
//!
//! The server needs an API key itself, to verify signatures, so it can't keep only a hash. It keeps the key encrypted with
//! AES-256-GCM and bound to its user. A login looks the key up by an HMAC, because each encryption differs. Both use
//! secrets that HKDF-SHA256 (RFC 5869) derives from one key of the file, each with a label of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::domain::{ApiKey, Parse as _, UserId};
use crate::key_file::{KeyFile, KeyFileError, Secret, Secrets};
use crate::random::os_random;

/// The number that stands for no key: the API key is stored in clear.
pub(crate) const IN_CLEAR: i64 = 0;

/// Bytes of a fingerprint. 64 bits tell the keys of an operator apart.
const FINGERPRINT: usize = 8;

/// Why a stored API key can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// The key file lacks the key, also after it was read again.
    #[error(
        "the key file {} has no key {number}, with which an API key is sealed: give this server the key file of the \
         process that has sealed it", path.display()
    )]
    NoKey {
        /// The number of the key.
        number: i64,
        /// The key file.
        path: PathBuf,
    },
    /// The row is damaged, or was sealed for another user or with another key.
    #[error("key {number} of the key file {} does not open an API key of the database", path.display())]
    NotOpened {
        /// The number of the key.
        number: i64,
        /// The key file.
        path: PathBuf,
    },
}

/// A key of the file, ready to seal.
struct SealingKey {
    aead: LessSafeKey,
    lookup: hmac::Key,
    fingerprint: String,
}

impl SealingKey {
    fn of(secret: &Secret) -> Self {
        let pseudorandom =
            hkdf::Salt::new(hkdf::HKDF_SHA256, b"chatserver").extract(secret.as_bytes());
        let derive = |label: &str| {
            let mut derived = Zeroizing::new([0; 32]);
            let label = [label.as_bytes()];
            let output = pseudorandom.expand(&label, hkdf::HKDF_SHA256);
            let filled = output.and_then(|output| output.fill(&mut *derived));
            filled.expect("HKDF yields 32 bytes");
            derived
        };
        let aead = UnboundKey::new(&AES_256_GCM, &*derive("API key: AES-256-GCM"));
        Self {
            aead: LessSafeKey::new(aead.expect("a key of 32 bytes")),
            lookup: hmac::Key::new(hmac::HMAC_SHA256, &*derive("API key: lookup")),
            fingerprint: hex::encode(&derive("fingerprint")[..FINGERPRINT]),
        }
    }

    /// Returns base64 of nonce, ciphertext and tag. The nonce is random: one key seals far fewer than 2^32 API keys.
    fn seal(&self, user: UserId, api_key: &ApiKey) -> String {
        let mut nonce = [0; NONCE_LEN];
        os_random().fill_bytes(&mut nonce);
        let mut sealed = api_key.as_str().as_bytes().to_vec();
        let done = self.aead.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            bound_to(user),
            &mut sealed,
        );
        done.expect("AES-GCM seals 64 bytes");
        BASE64.encode([&nonce[..], &sealed].concat())
    }

    fn unseal(&self, user: UserId, sealed: &str) -> Option<ApiKey> {
        let mut sealed = Zeroizing::new(BASE64.decode(sealed).ok()?);
        let (nonce, sealed) = sealed.split_first_chunk_mut::<NONCE_LEN>()?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let api_key = self.aead.open_in_place(nonce, bound_to(user), sealed).ok()?;
        ApiKey::parse(std::str::from_utf8(api_key).ok()?)
    }

    fn digest(&self, api_key: &ApiKey) -> String {
        hex::encode(hmac::sign(&self.lookup, api_key.as_str().as_bytes()))
    }
}

/// The associated data: a sealed key that is moved to another user's row does not open.
fn bound_to(user: UserId) -> Aad<Vec<u8>> {
    Aad::from(format!("API key of {}", user.as_str()).into_bytes())
}

/// An API key as the columns of its user's row hold it.
pub(crate) struct StoredKey {
    /// The key, or an empty text where it is sealed.
    pub(crate) in_clear: Zeroizing<String>,
    pub(crate) digest: String,
    /// The number of the sealing key, or [`IN_CLEAR`].
    pub(crate) number: i64,
    pub(crate) sealed: Option<String>,
}

/// The keys of a key file. It reads the file again when it meets a number that it does not know.
pub(crate) struct KeyRing {
    file: KeyFile,
    keys: RwLock<Arc<BTreeMap<i64, SealingKey>>>,
    /// The number of the key that new API keys are sealed with, as it was last seen in the database.
    current: AtomicI64,
}

impl KeyRing {
    pub(crate) fn new(file: KeyFile, secrets: &Secrets) -> Self {
        let keys = RwLock::new(Arc::new(derived(secrets)));
        Self { file, keys, current: AtomicI64::new(IN_CLEAR) }
    }

    pub(crate) fn file(&self) -> &KeyFile {
        &self.file
    }

    /// Returns the number and the fingerprint of each key, in the order of the numbers.
    pub(crate) fn fingerprints(&self) -> Vec<(i64, String)> {
        let keys = self.keys();
        keys.iter().map(|(number, key)| (*number, key.fingerprint.clone())).collect()
    }

    /// Returns the number and the fingerprint of the key with the greatest number.
    pub(crate) fn newest(&self) -> (i64, String) {
        self.fingerprints().pop().expect("a key file has a key")
    }

    /// Refuses a database that was sealed with a key which the file lacks, or has another one for.
    pub(crate) fn check(&self, number: i64, fingerprint: &str) -> Result<(), KeyFileError> {
        let found = self.fingerprints();
        let path = self.file.path().to_owned();
        match found.iter().find(|(found, _)| *found == number) {
            Some((_, of_file)) if of_file == fingerprint => Ok(()),
            Some((_, of_file)) => Err(KeyFileError::Differs {
                path,
                number,
                of_file: of_file.clone(),
                of_database: fingerprint.to_owned(),
            }),
            None => {
                let found = found.iter().map(|(number, found)| format!("key {number} ({found})"));
                let found = found.collect::<Vec<_>>().join(", ");
                let fingerprint = fingerprint.to_owned();
                Err(KeyFileError::Lacks { path, number, fingerprint, found })
            }
        }
    }

    /// Returns an API key as it is stored under this key, or in clear.
    pub(crate) fn store(
        &self,
        number: i64,
        user: UserId,
        api_key: &ApiKey,
    ) -> Result<StoredKey, UnsealError> {
        if number == IN_CLEAR {
            let in_clear = Zeroizing::new(api_key.as_str().to_owned());
            let digest = plain_digest(api_key);
            return Ok(StoredKey { in_clear, digest, number, sealed: None });
        }
        self.with(number, |key| StoredKey {
            in_clear: Zeroizing::default(),
            digest: key.digest(api_key),
            number,
            sealed: Some(key.seal(user, api_key)),
        })
    }

    /// Reads an API key from its stored form: the key itself, or the number of its sealing key, a colon, and the sealed
    /// key.
    pub(crate) fn read(&self, user: UserId, stored: &str) -> Result<ApiKey, UnsealError> {
        let not_opened =
            |number| UnsealError::NotOpened { number, path: self.file.path().to_owned() };
        let Some((number, sealed)) = stored.split_once(':') else {
            return ApiKey::parse(stored).ok_or_else(|| not_opened(IN_CLEAR));
        };
        let number = number.parse().map_err(|_| not_opened(IN_CLEAR))?;
        self.with(number, |key| key.unseal(user, sealed))?.ok_or_else(|| not_opened(number))
    }

    /// Returns every digest by which a login may find this API key: under each key of the file, and in clear.
    pub(crate) fn digests(&self, api_key: &ApiKey) -> Vec<String> {
        let keys = self.keys();
        let sealed = keys.values().map(|key| key.digest(api_key));
        sealed.chain([plain_digest(api_key)]).collect()
    }

    /// Notes the number of the key that the database is sealed with now. Reads the file again if it is a new one. Returns
    /// whether the keys have changed.
    pub(crate) fn enter(&self, current: i64) -> bool {
        self.current.store(current, Ordering::Relaxed);
        current != IN_CLEAR && !self.keys().contains_key(&current) && self.reload()
    }

    /// Whether new API keys are sealed, as far as this process has seen.
    pub(crate) fn is_sealing(&self) -> bool {
        self.current.load(Ordering::Relaxed) != IN_CLEAR
    }

    fn with<T>(&self, number: i64, work: impl Fn(&SealingKey) -> T) -> Result<T, UnsealError> {
        if let Some(key) = self.keys().get(&number) {
            return Ok(work(key));
        }
        self.reload();
        let keys = self.keys();
        let no_key = || UnsealError::NoKey { number, path: self.file.path().to_owned() };
        keys.get(&number).map(work).ok_or_else(no_key)
    }

    /// Reads the file again, and keeps the keys where it can't be read. Returns whether it has other keys now.
    pub(crate) fn reload(&self) -> bool {
        let secrets = match self.file.read() {
            Ok(Some(secrets)) => secrets,
            Ok(None) => {
                tracing::warn!(path = %self.file, "the key file is missing: restore it");
                return false;
            }
            Err(error) => {
                tracing::warn!(%error, "the key file can't be read again");
                return false;
            }
        };
        let before = self.fingerprints();
        let derived = Arc::new(derived(&secrets));
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = derived;
        let is_changed = self.fingerprints() != before;
        if is_changed {
            tracing::info!(path = %self.file, keys = secrets.len(), "key file read again");
        }
        is_changed
    }

    fn keys(&self) -> Arc<BTreeMap<i64, SealingKey>> {
        // A panic leaves no half-made change behind this lock.
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Never shows a key.
impl fmt::Debug for KeyRing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "KeyRing({}, {:?})", self.file, self.fingerprints())
    }
}

fn derived(secrets: &Secrets) -> BTreeMap<i64, SealingKey> {
    secrets.iter().map(|(number, secret)| (*number, SealingKey::of(secret))).collect()
}

/// Returns the digest of a key that is stored in clear.
fn plain_digest(api_key: &ApiKey) -> String {
    hex::encode(Sha256::digest(api_key.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> UserId {
        UserId::named("alice@example.com").unwrap()
    }

    fn ring(folder: &tempfile::TempDir, numbers: &[i64]) -> (KeyRing, Secrets) {
        let file = KeyFile::at(folder.path().join("key"));
        let secrets: Secrets = numbers.iter().map(|number| (*number, Secret::generate())).collect();
        file.replace(&secrets).unwrap();
        (KeyRing::new(file, &secrets), secrets)
    }

    fn as_read(stored: &StoredKey) -> String {
        format!("{}:{}", stored.number, stored.sealed.as_ref().unwrap())
    }

    #[test]
    fn a_sealed_key_opens_for_its_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (ring, _) = ring(&folder, &[1]);
        let api_key = ApiKey::generate();
        let stored = ring.store(1, alice(), &api_key).unwrap();
        assert_eq!(*stored.in_clear, "");
        let text = as_read(&stored);
        assert_eq!(ring.read(alice(), &text).unwrap(), api_key);
        let bob = UserId::named("bob@example.com").unwrap();
        assert!(matches!(ring.read(bob, &text), Err(UnsealError::NotOpened { number: 1, .. })));
        for place in [2, text.len() / 2, text.len() - 3] {
            let other = if &text[place..=place] == "A" { "B" } else { "A" };
            let changed = [&text[..place], other, &text[place + 1..]].concat();
            assert!(ring.read(alice(), &changed).is_err(), "{changed}");
        }
        for text in ["", ":", "1:", "1:AAAA", "x:AAAA", "0123"] {
            assert!(ring.read(alice(), text).is_err(), "{text}");
        }
    }

    #[test]
    fn two_seals_of_a_key_differ_and_have_one_digest() {
        let folder = tempfile::tempdir().unwrap();
        let (ring, _) = ring(&folder, &[1, 2]);
        let api_key = ApiKey::generate();
        let [one, two] = [(); 2].map(|()| ring.store(1, alice(), &api_key).unwrap());
        assert_ne!(one.sealed, two.sealed);
        assert_eq!(one.digest, two.digest);
        let of_other_key = ring.store(2, alice(), &api_key).unwrap();
        assert_ne!(one.digest, of_other_key.digest);
        let in_clear = ring.store(IN_CLEAR, alice(), &api_key).unwrap();
        assert_eq!(*in_clear.in_clear, api_key.as_str());
        let digests = ring.digests(&api_key);
        assert_eq!(digests, [one.digest, of_other_key.digest, in_clear.digest]);
        assert_eq!(ring.read(alice(), &in_clear.in_clear).unwrap(), api_key);
    }

    #[test]
    fn a_key_added_to_the_file_is_found_without_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (reading, mut secrets) = ring(&folder, &[1]);
        secrets.insert(2, Secret::generate());
        reading.file().replace(&secrets).unwrap();
        let writing = KeyRing::new(reading.file().clone(), &secrets);
        let api_key = ApiKey::generate();
        let text = as_read(&writing.store(2, alice(), &api_key).unwrap());
        assert_eq!(reading.digests(&api_key).len(), 2);
        assert!(reading.enter(2) && !reading.enter(2));
        assert_eq!(reading.digests(&api_key).len(), 3);
        assert_eq!(reading.read(alice(), &text).unwrap(), api_key);
        let said = reading.read(alice(), &text.replacen('2', "3", 1)).unwrap_err().to_string();
        assert!(said.contains("has no key 3"), "{said}");
    }

    #[test]
    fn a_file_of_another_database_is_told_with_both_fingerprints() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, _) = ring(&folder, &[1]);
        let (theirs, _) = ring(&folder, &[1, 7]);
        let (of_ours, of_theirs) = (ours.fingerprints(), theirs.fingerprints());
        ours.check(1, &of_ours[0].1).unwrap();
        let said = ours.check(1, &of_theirs[0].1).unwrap_err().to_string();
        for fingerprint in [&of_ours[0].1, &of_theirs[0].1] {
            assert!(said.contains(fingerprint), "{said}");
        }
        let said = ours.check(7, &of_theirs[1].1).unwrap_err().to_string();
        for part in ["lacks key 7", of_theirs[1].1.as_str(), &format!("key 1 ({})", of_ours[0].1)] {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let (ring, secrets) = ring(&folder, &[1]);
        let shown = format!("{ring:?} {:?}", ApiKey::generate());
        assert!(
            shown.contains(&ring.fingerprints()[0].1) && shown.ends_with("ApiKey(…)"),
            "{shown}"
        );
        assert!(!shown.contains(&hex::encode(secrets[&1].as_bytes())), "{shown}");
    }

    /// Fixed, because databases hold what is derived.
    #[test]
    fn the_derived_secrets_never_change() {
        let key = SealingKey::of(&Secret::of([7; 32]));
        let api_key = ApiKey::parse(&"0123456789abcdef".repeat(4)).unwrap();
        let sealed = "snb5M2x/m9DM9UqwgPT7EnSjX789HsWUkyy2qEuVrTW2eh4moCeXooy1B1oleAyEQdc+oAeBQTpwTqsJ5i7ld/3eljxRjSSalj//\
                      ZEMDaM6iMu8ej8TPDJpJXmw=";
        assert_eq!(key.fingerprint, "4edb980708e24201");
        let digest = "09725037a870356c3216eb1d520f4c1cc2b379e7834a710bbdabcd90aa8fa230";
        assert_eq!(key.digest(&api_key), digest);
        assert!(key.unseal(alice(), sealed).is_some_and(|opened| opened == api_key));
    }
}
