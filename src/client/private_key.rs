//! A user's private key: opens the encrypted PEM of a login, and unwraps what was encrypted for the user.

use std::fmt;

use aes::cipher::KeyIvInit as _;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use pkcs8::der::Encode as _;
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::spki::AlgorithmIdentifierRef;
use pkcs8::{ObjectIdentifier, PrivateKeyInfoRef};
use zeroize::Zeroizing;

use crate::keys::{ConversationSecret, EncryptionPassword, traditional_pem_key};

/// `rsaEncryption` (RFC 8017, appendix C).
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Why a private key, or something wrapped for it, can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text has another form than docs/protocol.md#the-private-key.
    #[error("the private key has an unknown form: {0}")]
    Malformed(&'static str),
    /// The decrypted bytes are no key.
    #[error("the encryption password does not open the private key")]
    WrongPassword,
    /// The value is not base64, was wrapped for another key, or has another length than expected.
    #[error("{0} was not wrapped for this private key")]
    NotWrapped(&'static str),
}

/// An RSA private key that decrypts.
pub struct PrivateKey(OaepPrivateDecryptingKey);

impl PrivateKey {
    /// Opens a PEM in the traditional encrypted form, with CR LF or LF line ends (docs/protocol.md#the-private-key).
    ///
    /// # Errors
    ///
    /// [`KeyError::Malformed`] for another form, [`KeyError::WrongPassword`] if the password does not open it.
    pub fn open(pem: &str, password: &EncryptionPassword) -> Result<Self, KeyError> {
        let malformed = |what: &'static str| move || KeyError::Malformed(what);
        let body = pem.trim().strip_prefix("-----BEGIN RSA PRIVATE KEY-----");
        let body = body.and_then(|rest| rest.strip_suffix("-----END RSA PRIVATE KEY-----"));
        let lines = body.ok_or_else(malformed("it is no RSA PRIVATE KEY in PEM"))?.lines();
        let lines: Vec<_> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
        let (headers, body): (Vec<&str>, Vec<&str>) =
            lines.into_iter().partition(|line| line.contains(':'));
        let iv = headers.iter().find_map(|line| line.strip_prefix("DEK-Info: AES-256-CFB,"));
        let iv = iv.ok_or_else(malformed("it is not encrypted with AES-256-CFB"))?;
        let mut iv_bytes = [0; 16];
        hex::decode_to_slice(iv, &mut iv_bytes)
            .map_err(|_| malformed("its IV is not 32 hexadecimal digits")())?;
        let der = BASE64.decode(body.concat());
        let mut der = Zeroizing::new(der.map_err(|_| malformed("its body is not base64")())?);

        let key = traditional_pem_key(password, &iv_bytes);
        cfb_mode::Decryptor::<aes::Aes256>::new(&(*key).into(), &iv_bytes.into()).decrypt(&mut der);
        Self::from_pkcs1(&der).ok_or(KeyError::WrongPassword)
    }

    /// Reads PKCS#1 DER. aws-lc-rs takes only PKCS#8, so this puts the envelope of PKCS#8 around it.
    fn from_pkcs1(der: &[u8]) -> Option<Self> {
        let algorithm =
            AlgorithmIdentifierRef { oid: RSA, parameters: Some(pkcs8::der::AnyRef::NULL) };
        let info = PrivateKeyInfoRef::new(algorithm, OctetStringRef::new(der).ok()?);
        let mut envelope = Zeroizing::new(vec![0; der.len() + 64]);
        let envelope = info.encode_to_slice(&mut envelope).ok()?;
        let key = PrivateDecryptingKey::from_pkcs8(envelope).ok()?;
        OaepPrivateDecryptingKey::new(key).ok().map(Self)
    }

    /// Unwraps the base64 of RSA-OAEP with SHA-256 and MGF1 with SHA-256 (docs/protocol.md#opening-secret-and-displayname-c).
    ///
    /// # Errors
    ///
    /// [`KeyError::NotWrapped`] with the name `what`.
    pub fn unwrap(
        &self,
        what: &'static str,
        wrapped: &str,
    ) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let wrapped = BASE64.decode(wrapped).map_err(|_| KeyError::NotWrapped(what))?;
        let mut plain = Zeroizing::new(vec![0; self.0.min_output_size()]);
        let length = self.0.decrypt(&OAEP_SHA256_MGF1SHA256, &wrapped, &mut plain, None);
        let length = length.map_err(|_| KeyError::NotWrapped(what))?.len();
        plain.truncate(length);
        Ok(plain)
    }

    /// Unwraps the `secret` of a conversation object.
    ///
    /// # Errors
    ///
    /// [`KeyError::NotWrapped`] if it was wrapped for another key, or is not 32 bytes.
    pub fn conversation_secret(&self, wrapped: &str) -> Result<ConversationSecret, KeyError> {
        let plain = self.unwrap("the conversation's secret", wrapped)?;
        let bytes = plain.as_slice().try_into();
        bytes
            .map(ConversationSecret::from_bytes)
            .map_err(|_| KeyError::NotWrapped("the conversation's secret"))
    }
}

/// Never shows the key.
impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}
