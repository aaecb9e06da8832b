//! Request signatures: the canonical string, its HMAC, and verification.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};

use crate::domain::{ApiKey, Parse as _, Signature, StationId, UserId};
use crate::store::{self, Store};

/// How long a cached key is used without a new read. A key that another process took away may pass for this long.
const KEY_TTL: Duration = Duration::from_secs(5);

/// Maximum cached keys. An evicted one costs a read.
const KEYS: usize = 16_384;

/// The content that a signature covers (docs/protocol.md#signature-c).
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// The service, from the query.
    pub srv: &'a str,
    /// The API, from the query.
    pub api: &'a str,
    /// The user who signs.
    pub user: UserId,
    /// The station. An absent one is signed as the empty string.
    pub station: Option<StationId>,
    /// Every byte of the body.
    pub body: &'a [u8],
}

/// An API key, ready to sign. It is wiped from memory when it is dropped.
#[derive(Clone)]
pub struct SigningKey(hmac::Key);

impl SigningKey {
    /// Prepares a key. Its ASCII text is the key of the HMAC.
    #[must_use]
    pub fn new(api_key: &ApiKey) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, api_key.as_str().as_bytes()))
    }

    /// Returns `hex(HMAC-SHA256(key, srv LF api LF userid LF stationid LF body))`.
    #[must_use]
    pub fn sign(&self, signed: &Signed<'_>) -> Signature {
        Signature::parse(&hex::encode(self.mac(signed)))
            .expect("32 bytes are 64 hexadecimal characters")
    }

    /// Whether the signature is right. The time taken does not depend on where it is wrong.
    #[must_use]
    pub fn verifies(&self, signed: &Signed<'_>, signature: &Signature) -> bool {
        let mut bytes = [0; 32];
        let decoded = hex::decode_to_slice(signature.as_str(), &mut bytes).is_ok();
        verify_slices_are_equal(self.mac(signed).as_ref(), &bytes).is_ok() && decoded
    }

    fn mac(&self, signed: &Signed<'_>) -> hmac::Tag {
        let station = signed.station.as_ref().map_or("", StationId::as_str);
        let mut mac = hmac::Context::with_key(&self.0);
        for line in [signed.srv, signed.api, signed.user.as_str(), station] {
            mac.update(line.as_bytes());
            mac.update(b"\n");
        }
        mac.update(signed.body);
        mac.sign()
    }
}

/// Returns the SHA-256 of the station and the body, which identifies an unsigned request as a signature would.
pub(crate) fn of_unsigned(station: Option<StationId>, body: &[u8]) -> Signature {
    let station = station.as_ref().map_or("", StationId::as_str);
    let digest = Sha256::new().chain_update(station).chain_update(body).finalize();
    Signature::parse(&hex::encode(digest)).expect("32 bytes are 64 hexadecimal characters")
}

pub(crate) struct Verifier {
    keys: Cache<UserId, Known>,
    /// Stands in for the key of an unknown or disabled user, so that verification takes the same time.
    nobodys: ApiKey,
    dummy: SigningKey,
}

#[derive(Clone)]
struct Known {
    key: Arc<SigningKey>,
    /// Monotonic time at which the key was read.
    read_at: Duration,
}

impl Default for Verifier {
    fn default() -> Self {
        let nobodys = ApiKey::generate();
        let dummy = SigningKey::new(&nobodys);
        Self { keys: Cache::new(KEYS), nobodys, dummy }
    }
}

impl Verifier {
    /// Whether the user is known and enabled and the signature is right. A signature that fails against a cached key is
    /// verified again with the stored key, so that a rotated key works at once. `now` is the monotonic time.
    pub(crate) async fn verify(
        &self,
        store: &Store,
        signed: &Signed<'_>,
        signature: &Signature,
        now: Duration,
    ) -> Result<bool, store::Error> {
        let known = self.keys.get(&signed.user);
        let known = known.filter(|known| now.saturating_sub(known.read_at) < KEY_TTL);
        let is_known = known.is_some();
        let key = known.as_ref().map_or(&self.dummy, |known| &*known.key);
        if key.verifies(signed, signature) && is_known {
            return Ok(true);
        }
        let stored = self.verify_stored(store, signed, signature).await?;
        if let Some(api_key) = &stored {
            let key = Arc::new(SigningKey::new(api_key));
            self.keys.insert(signed.user, Known { key, read_at: now });
        }
        Ok(stored.is_some())
    }

    /// Forgets all cached keys.
    pub(crate) fn forget_all(&self) {
        self.keys.clear();
    }

    /// Verifies like [`Self::verify`], but never with a cached key. Returns the stored key if the signature is right.
    ///
    /// # Errors
    ///
    /// [`store::Error`] where the key could not be read.
    pub(crate) async fn verify_stored(
        &self,
        store: &Store,
        signed: &Signed<'_>,
        signature: &Signature,
    ) -> Result<Option<ApiKey>, store::Error> {
        let stored = store.signing_key(signed.user).await?;
        let key = SigningKey::new(stored.as_ref().unwrap_or(&self.nobodys));
        let verifies = key.verifies(signed, signature);
        Ok(stored.filter(|_| verifies))
    }
}
