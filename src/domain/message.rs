//! Messages. Their payload is encrypted; the server checks only its encoding and its size.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{MessageId, Parse, Timestamp};

/// A message as its sender made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The ID that the sender gave it. It is unique within an instance of a conversation.
    pub id: MessageId,
    /// Its type, 1 to 32 characters.
    pub kind: String,
    /// When the sender says it was made. It orders nothing.
    pub created: Timestamp,
    /// A date or the empty string.
    pub valid_until: String,
    /// The encrypted payload, exactly as it arrived.
    pub data: String,
}

/// The type of a message: 1 to 32 characters (docs/protocol.md#messages-d).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind(String);

impl Kind {
    /// Returns the type as it arrived.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

impl Parse for Kind {
    const EXPECTED: &'static str = "1 to 32 characters, none a control character";

    fn parse(text: &str) -> Option<Self> {
        let length = text.chars().count();
        let well_formed = (1..=32).contains(&length) && !text.chars().any(char::is_control);
        well_formed.then(|| Self(text.to_owned()))
    }
}

/// The encrypted payload: padded standard base64 (RFC 4648, section 4), kept exactly as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data(String);

impl Data {
    /// Returns the text as it arrived.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

impl Parse for Data {
    const EXPECTED: &'static str = "padded standard base64 (RFC 4648, section 4)";

    fn parse(text: &str) -> Option<Self> {
        BASE64.decode(text).is_ok().then(|| Self(text.to_owned()))
    }

    fn objection(text: &str) -> Option<&'static str> {
        if text.contains(|c: char| c.is_ascii_whitespace()) {
            Some("it holds line breaks or blanks: send it as one line")
        } else if text.contains(['-', '_']) {
            Some("it is base64url (RFC 4648, section 5)")
        } else if !text.len().is_multiple_of(4) {
            Some("its length is not a multiple of 4: the padding is missing")
        } else {
            None
        }
    }
}
