//! Profile 1: what clients put into `Data` (docs/protocol.md#profile-1-c).
//!
//! The server never reads `Data`. The additional data bind a payload to its conversation, instance and message ID, so that
//! a payload that is copied to another message does not open.

use std::collections::HashMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rand::Rng as _;
use serde_json::json;
use serde_json::value::RawValue;

use crate::domain::{ConversationId, Instance, MessageId, Parse as _, UserId};
use crate::keys::ConversationSecret;
use crate::random::os_random;

/// The first byte of a payload, and `v` of its content.
const VERSION: u8 = 1;

/// The message that a payload belongs to. The payload opens for no other.
#[derive(Clone, Copy, Debug)]
pub struct MessageAddress<'a> {
    /// The conversation.
    pub conversation: ConversationId,
    /// The instance that the message was added to.
    pub instance: Instance,
    /// The message ID, in the spelling of the server's answer.
    pub id: &'a MessageId,
}

impl MessageAddress<'_> {
    fn additional_data(&self) -> String {
        let Self { conversation, instance, id } = self;
        format!("{conversation}\n{instance}\n{id}")
    }
}

/// The content of an opened payload. Its sender is a claim until it is compared with the sender that the server names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The user id of the sender.
    pub from: String,
    /// The text of the message.
    pub text: String,
}

/// Why a message can't be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// `Data` is not base64, too short, or of another profile.
    #[error("its Data has another form than profile 1")]
    Form,
    /// The tag is wrong: another key, another message, or changed bytes.
    #[error("it was sealed with another key or for another message, or was changed")]
    Sealed,
    /// The plaintext is not the JSON object of profile 1.
    #[error("its content is not that of profile 1")]
    Content,
    /// The payload names another sender than the server.
    #[error("its content names another sender than the server does")]
    Sender,
}

/// Encrypts a text: returns `Data`.
#[must_use]
pub fn seal(
    secret: &ConversationSecret,
    address: &MessageAddress<'_>,
    from: UserId,
    text: &str,
) -> String {
    let mut nonce = [0; NONCE_LEN];
    os_random().fill_bytes(&mut nonce);
    let content = json!({ "v": VERSION, "from": from.as_str(), "text": text }).to_string();
    seal_with(secret, address, nonce, content)
}

fn seal_with(
    secret: &ConversationSecret,
    address: &MessageAddress<'_>,
    nonce: [u8; NONCE_LEN],
    content: String,
) -> String {
    let mut sealed = content.into_bytes();
    let additional_data = Aad::from(address.additional_data());
    let nonce_of_seal = Nonce::assume_unique_for_key(nonce);
    key(secret)
        .seal_in_place_append_tag(nonce_of_seal, additional_data, &mut sealed)
        .expect("a message is shorter than 64 GiB");
    BASE64.encode([&[VERSION][..], &nonce, &sealed].concat())
}

/// Decrypts `Data`. The result names the sender that the payload claims.
///
/// # Errors
///
/// [`OpenError`], but never [`OpenError::Sender`].
pub fn open(
    secret: &ConversationSecret,
    address: &MessageAddress<'_>,
    data: &str,
) -> Result<Content, OpenError> {
    let bytes = BASE64.decode(data).map_err(|_| OpenError::Form)?;
    let Some((&VERSION, rest)) = bytes.split_first() else { return Err(OpenError::Form) };
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(OpenError::Form)?;
    let mut sealed = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let opened =
        key(secret).open_in_place(nonce, Aad::from(address.additional_data()), &mut sealed);
    parse(opened.map_err(|_| OpenError::Sealed)?).ok_or(OpenError::Content)
}

/// Reads the JSON as `JSON.parse` does: the last of equal keys counts, and 1.0 is 1. Unknown fields may hold anything.
fn parse(plain: &[u8]) -> Option<Content> {
    let fields: HashMap<String, &RawValue> = serde_json::from_slice(plain).ok()?;
    let version: f64 = serde_json::from_str(fields.get("v")?.get()).ok()?;
    let text = |name| serde_json::from_str(fields.get(name)?.get()).ok();
    (version.to_bits() == f64::from(VERSION).to_bits())
        .then_some(Content { from: text("from")?, text: text("text")? })
}

/// Decrypts `Data`. Returns the text if the payload names the sender that the server names. A sender who was deleted has
/// another ID by now: the former one and the reader's make the conversation's ID.
///
/// # Errors
///
/// [`OpenError`].
pub fn open_from(
    secret: &ConversationSecret,
    address: &MessageAddress<'_>,
    data: &str,
    [sender, reader]: [UserId; 2],
) -> Result<String, OpenError> {
    let content = open(secret, address, data)?;
    let is_partner = || {
        let from = UserId::parse(&content.from);
        from.map(|from| ConversationId::one_to_one(from, reader)) == Some(address.conversation)
    };
    if content.from == sender.as_str() || sender != reader && is_partner() {
        Ok(content.text)
    } else {
        Err(OpenError::Sender)
    }
}

fn key(secret: &ConversationSecret) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, secret.as_bytes());
    LessSafeKey::new(key.expect("32 bytes are a key of AES-256"))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Seals with the nonces of the vectors, which random nonces would not reproduce.
    #[test]
    fn a_payload_is_reproduced_byte_for_byte() {
        let vectors: Value = serde_json::from_str(include_str!("../../docs/vectors.json"))
            .expect("the vectors are JSON");
        let payloads = vectors["payloads"].as_array().expect("an array");
        assert!(payloads.len() > 3);
        for vector in payloads {
            let text = |name: &str| vector[name].as_str().expect("a string");
            let mut secret = [0; 32];
            hex::decode_to_slice(text("key_hex"), &mut secret).expect("a key");
            let mut nonce = [0; NONCE_LEN];
            hex::decode_to_slice(text("nonce_hex"), &mut nonce).expect("a nonce");
            let id = MessageId::parse(text("messageid")).expect("an ID");
            let address = MessageAddress {
                conversation: ConversationId::parse(text("conversationid")).expect("an id"),
                instance: Instance::parse(text("instance")).expect("an instance"),
                id: &id,
            };
            let secret = ConversationSecret::from_bytes(secret);
            let sealed = seal_with(&secret, &address, nonce, text("content_utf8").to_owned());
            assert_eq!(sealed, text("data_base64"));
        }
    }
}
