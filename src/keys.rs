//! Key material: RSA pairs, the encrypted PEM of a private key, and wrapping for a user.
//!
//! The server keeps nothing that opens what it stores. Private keys are encrypted under a password that is never
//! stored; conversation secrets are wrapped for the participants and then forgotten.

use std::fmt;
use std::sync::Arc;

use aes::cipher::KeyIvInit;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PrivateDecryptingKey,
    PublicEncryptingKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest, Md5};
use pkcs8::PrivateKeyInfoRef;
use rand::Rng;
use zeroize::Zeroizing;

use crate::domain::Parse;
use crate::random::os_random;

/// Unusable key material, or content too long to wrap.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not an RSA-2048 key in the stored form.
    #[error("the stored key is not a well-formed RSA-2048 key")]
    Malformed,
    /// OAEP under RSA-2048 with SHA-256 holds at most 190 bytes.
    #[error("the text to wrap is {0} bytes; the limit is 190")]
    TooLong(usize),
}

/// Source of new RSA pairs. Tests inject a pool of ready-made ones.
#[derive(Clone)]
pub struct KeySource(Arc<dyn Fn() -> KeyPair + Send + Sync>);

impl KeySource {
    /// Generates each pair, in about 0.1 s.
    pub(crate) fn generated() -> Self {
        Self::from_fn(KeyPair::generate)
    }

    /// Creates a source that returns what the function returns.
    pub fn from_fn(next: impl Fn() -> KeyPair + Send + Sync + 'static) -> Self {
        Self(Arc::new(next))
    }

    /// Returns the next pair, made on a thread that may block.
    pub(crate) async fn key_pair(&self) -> KeyPair {
        let source = Arc::clone(&self.0);
        let made = tokio::task::spawn_blocking(move || source());
        made.await.expect("making a key pair does not panic")
    }
}

/// A user's RSA-2048 pair, e = 65537.
#[derive(Clone)]
pub struct KeyPair {
    /// The private key as PKCS#1 DER (RFC 8017, A.1.2).
    private: Zeroizing<Vec<u8>>,
    public: PublicKey,
}

impl KeyPair {
    pub(crate) fn generate() -> Self {
        let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).expect("RSA-2048 is supported");
        let der = AsDer::<Pkcs8V1Der<'static>>::as_der(&key).expect("a new key has a DER form");
        Self::from_pkcs8(der.as_ref()).expect("a new key is well-formed")
    }

    /// Reads a pair from its private key in PKCS#8 DER (RFC 5208).
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] where it is not an RSA private key of 2,048 bits.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, Error> {
        let key = PrivateDecryptingKey::from_pkcs8(der).map_err(|_| Error::Malformed)?;
        if key.key_size_bits() != 2048 {
            return Err(Error::Malformed);
        }
        let info = PrivateKeyInfoRef::try_from(der).map_err(|_| Error::Malformed)?;
        let public = AsDer::<PublicKeyX509Der<'static>>::as_der(&key.public_key());
        let public = public.map_err(|_| Error::Malformed)?;
        Ok(Self {
            private: Zeroizing::new(info.private_key.as_bytes().to_vec()),
            public: PublicKey(BASE64.encode(public.as_ref())),
        })
    }

    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Returns the private key in the traditional encrypted PEM form, with CR LF line ends
    /// (docs/protocol.md#the-private-key).
    pub(crate) fn encrypted_pem(&self, password: &EncryptionPassword) -> String {
        let mut iv = [0; 16];
        os_random().fill_bytes(&mut iv);
        let mut body = self.private.to_vec();
        let key = traditional_pem_key(password, &iv);
        cfb_mode::Encryptor::<aes::Aes256>::new(&(*key).into(), &iv.into()).encrypt(&mut body);
        pem(&iv, &body)
    }
}

const PEM_HEAD: &str =
    "-----BEGIN RSA PRIVATE KEY-----\r\nProc-Type: 4,ENCRYPTED\r\nDEK-Info: AES-256-CFB,";

const PEM_END: &str = "-----END RSA PRIVATE KEY-----\r\n";

/// Returns an encrypted private key in its traditional PEM form.
fn pem(iv: &[u8; 16], body: &[u8]) -> String {
    let mut pem = PEM_HEAD.to_owned() + &hex::encode_upper(iv) + "\r\n\r\n";
    let body = BASE64.encode(body);
    for start in (0..body.len()).step_by(64) {
        pem += &body[start..body.len().min(start + 64)];
        pem += "\r\n";
    }
    pem + PEM_END
}

/// An encrypted private key that a client has made (docs/protocol.md#the-private-key). Its form is checked; only the
/// password could tell whether a key is in it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EncryptedPem(String);

impl EncryptedPem {
    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

impl Parse for EncryptedPem {
    const EXPECTED: &'static str = "an RSA-2048 private key in PKCS#1, encrypted with AES-256-CFB in the traditional form of \
         PEM, with CR LF line ends";

    /// Accepts exactly the text that [`pem`] writes of the same parts.
    fn parse(text: &str) -> Option<Self> {
        let (iv, rest) = text.strip_prefix(PEM_HEAD)?.split_at_checked(32)?;
        let iv: [u8; 16] = hex::decode(iv).ok()?.try_into().ok()?;
        let body = rest.strip_suffix(PEM_END)?.replace("\r\n", "");
        let body = BASE64.decode(body).ok()?;
        // The DER of an RSA-2048 key is about 1,191 bytes: its numbers may have leading zeros, or lack some.
        let is_whole = (1150..=1200).contains(&body.len());
        (is_whole && pem(&iv, &body) == text).then(|| Self(text.to_owned()))
    }

    fn objection(text: &str) -> Option<&'static str> {
        (text.contains('\n') && !text.contains("\r\n")).then_some("its lines end with LF alone")
    }
}

/// Derives an AES-256 key as OpenSSL's `EVP_BytesToKey` does with MD5, one round, and the first 8 bytes of the IV as
/// salt. Two digests make the 32 bytes of the key.
pub(crate) fn traditional_pem_key(
    password: &EncryptionPassword,
    iv: &[u8; 16],
) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    let (first, second) = key.split_at_mut(16);
    let salted = || Md5::new_with_prefix(password.0.as_bytes()).chain_update(&iv[..8]);
    first.copy_from_slice(&salted().finalize());
    let chained = Md5::new_with_prefix(&*first).chain_update(password.0.as_bytes());
    second.copy_from_slice(&chained.chain_update(&iv[..8]).finalize());
    key
}

/// A user's RSA public key: base64 of the DER `SubjectPublicKeyInfo`, no armour (docs/protocol.md#chatfriends--list-d).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublicKey(String);

impl PublicKey {
    /// Takes stored text unchecked; [`Self::wrap`] refuses what is not a key.
    pub(crate) fn from_stored(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Encrypts for the owner of the key: base64 of RSA-OAEP with SHA-256 and MGF1 with SHA-256, no label
    /// (docs/protocol.md#opening-secret-and-displayname-c).
    ///
    /// [`Error::TooLong`] above 190 bytes, [`Error::Malformed`] where this is not an RSA key.
    pub(crate) fn wrap(&self, plain: &[u8]) -> Result<String, Error> {
        let der = BASE64.decode(&self.0).map_err(|_| Error::Malformed)?;
        let key = PublicEncryptingKey::from_der(&der).map_err(|_| Error::Malformed)?;
        let key = OaepPublicEncryptingKey::new(key).map_err(|_| Error::Malformed)?;
        let mut wrapped = vec![0; key.ciphertext_size()];
        let wrapped = key
            .encrypt(&OAEP_SHA256_MGF1SHA256, plain, &mut wrapped, None)
            .map_err(|_| Error::TooLong(plain.len()))?;
        Ok(BASE64.encode(wrapped))
    }
}

/// The DER of a `SubjectPublicKeyInfo` with an RSA key of 2,048 bits, up to the modulus (RFC 8017, A.1.1).
const SPKI_HEAD: &[u8] =
    b"\x30\x82\x01\x22\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00\
    \x03\x82\x01\x0f\x00\x30\x82\x01\x0a\x02\x82\x01\x01\x00";

/// The public exponent 65537, which follows the modulus.
const SPKI_END: &[u8] = b"\x02\x03\x01\x00\x01";

impl Parse for PublicKey {
    const EXPECTED: &'static str =
        "an RSA-2048 public key with the exponent 65537: base64 of its DER SubjectPublicKeyInfo";

    fn parse(text: &str) -> Option<Self> {
        let der = BASE64.decode(text).ok()?;
        let modulus = der.strip_prefix(SPKI_HEAD)?.strip_suffix(SPKI_END)?;
        let is_full = modulus.len() == 256 && modulus[0] >= 0x80;
        let key = PublicEncryptingKey::from_der(&der).ok()?;
        (is_full && key.key_size_bits() == 2048).then(|| Self(text.to_owned()))
    }
}

/// The 256-bit key of a conversation. The server generates it, wraps it for each participant and forgets it.
#[derive(Clone)]
pub struct ConversationSecret(Zeroizing<[u8; 32]>);

impl ConversationSecret {
    /// Generates a secret from the operating system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        os_random().fill_bytes(&mut *bytes);
        Self(bytes)
    }

    /// Takes the 32 bytes that a client has unwrapped.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Password that encrypts a user's private key. Never stored.
#[derive(Clone)]
pub struct EncryptionPassword(Zeroizing<String>);

impl EncryptionPassword {
    /// Generates a password of 256 random bits, as hexadecimal text. The key derivation of the PEM is weak, so the
    /// password has to carry the strength.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        os_random().fill_bytes(&mut *bytes);
        Self(Zeroizing::new(hex::encode(*bytes)))
    }

    /// Returns the password in plain text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the password is shorter than advised: its key is derived by one round of MD5.
    pub(crate) fn is_short(&self) -> bool {
        self.0.chars().count() < Self::FEWEST_ADVISED
    }

    /// Minimum characters without a warning.
    pub(crate) const FEWEST_ADVISED: usize = 16;
}

impl Parse for EncryptionPassword {
    /// OpenSSL reads at most 1,023 bytes of a pass phrase, and one line.
    const EXPECTED: &'static str = "4 to 1023 bytes on one line";

    fn parse(text: &str) -> Option<Self> {
        let well_formed = (4..=1023).contains(&text.len()) && !text.chars().any(char::is_control);
        well_formed.then(|| Self(Zeroizing::new(text.to_owned())))
    }
}

/// Never shows the password.
impl fmt::Debug for EncryptionPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncryptionPassword(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (KeyPair, String) {
        let pair = KeyPair::generate();
        let pem = pair.encrypted_pem(&EncryptionPassword::generate());
        (pair, pem)
    }

    #[test]
    fn a_made_key_has_the_form_that_clients_must_send() {
        let (pair, pem) = made();
        assert_eq!(PublicKey::parse(pair.public().as_str()).as_ref(), Some(pair.public()));
        assert_eq!(EncryptedPem::parse(&pem).map(EncryptedPem::into_string), Some(pem));
    }

    #[test]
    fn another_form_of_a_pem_is_refused() {
        let (_, pem) = made();
        let body = pem.find("\r\n\r\n").unwrap() + 4;
        for wrong in [
            String::new(),
            pem.replace("\r\n", "\n"),
            pem.replace("AES-256-CFB", "DES-EDE3-CBC"),
            pem.replace("Proc-Type: 4,ENCRYPTED\r\n", ""),
            pem.replace(" RSA ", " "),
            format!("{pem} "),
            format!("x{pem}"),
            pem.to_lowercase(),
            pem[..body].to_owned() + &pem[body + 66..],
            pem[..body].to_owned() + "!" + &pem[body + 1..],
            pem[..body].to_owned() + &pem[body..body + 66] + &pem[body..],
            pem[..body].to_owned() + "\r\n" + &pem[body..],
            pem[..body].to_owned() + PEM_END,
        ] {
            assert!(EncryptedPem::parse(&wrong).is_none(), "{wrong}");
        }
        assert!(EncryptedPem::objection(&pem.replace("\r\n", "\n")).is_some());
    }

    #[test]
    fn another_kind_of_public_key_is_refused() {
        let (pair, _) = made();
        let der = BASE64.decode(pair.public().as_str()).unwrap();
        let changed = |at: usize, byte: u8| {
            let mut der = der.clone();
            der[at] = byte;
            BASE64.encode(der)
        };
        let last = der.len() - 1;
        for wrong in [
            String::new(),
            "AAAA".to_owned(),
            pair.public().as_str().to_owned() + "\n",
            pair.public().as_str()[..388].to_owned(),
            // The exponents 3 and 65539, an even modulus, and one of 2,047 bits.
            changed(last, 3),
            changed(last - 5, der[last - 5] & 0xfe),
            changed(SPKI_HEAD.len(), 0x7f),
            changed(0, 0x31),
            BASE64.encode([&der[..], b"\0"].concat()),
        ] {
            assert!(PublicKey::parse(&wrong).is_none(), "{wrong}");
        }
    }
}
