//! The identifiers of the protocol, as types that hold only well-formed values. The secrets among them hide their value
//! in `Debug`.

use std::fmt;

use md5::{Digest, Md5};
use rand::Rng;
use rand::distr::{Alphanumeric, SampleString};
use zeroize::Zeroizing;

use super::parse::Parse;
use crate::random::os_random;

/// `N` lower-case hexadecimal characters, kept as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Hex<const N: usize>([u8; N]);

impl<const N: usize> Hex<N> {
    fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; N] = text.as_bytes().try_into().ok()?;
        let well_formed = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        bytes.iter().all(well_formed).then_some(Self(bytes))
    }

    fn of(bytes: &[u8]) -> Self {
        let mut text = [0; N];
        hex::encode_to_slice(bytes, &mut text).expect("two characters for each byte");
        Self(text)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal characters are ASCII")
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $length:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Hex<$length>);

        impl $name {
            /// Returns the text as it stands on the wire.
            #[must_use]
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl Parse for $name {
            const EXPECTED: &'static str = $expected;

            fn parse(text: &str) -> Option<Self> {
                Hex::parse(text).map(Self)
            }
        }
    };
}

macro_rules! shown {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}

macro_rules! secret {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    )*};
}

hex_id! {
    /// A user: `md5(e-mail)` (docs/protocol.md#headers-d).
    UserId, 32, "32 lower-case hexadecimal characters"
}
hex_id! {
    /// A one-to-one conversation: the MD5 of both user IDs (docs/protocol.md#the-conversation-object-d).
    ConversationId, 32, "32 lower-case hexadecimal characters"
}
hex_id! {
    /// A device of a user. It is a secret: it is neither logged nor shown to others (docs/protocol.md#stations-c).
    StationId, 32, "32 lower-case hexadecimal characters"
}
hex_id! {
    /// An HMAC-SHA256 as the header `Ozeki-Signature` carries it.
    Signature, 64, "64 lower-case hexadecimal characters"
}
/// The key that a user logs in and signs with: 256 random bits. It is wiped from memory when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(Zeroizing<[u8; 64]>);

hex_id! {
    /// The secret of an invitation, which only its link holds: 160 random bits.
    InvitationToken, 40, "40 lower-case hexadecimal characters"
}

hex_id! {
    /// The secret of a link to the admin page: 160 random bits.
    AdminToken, 40, "40 lower-case hexadecimal characters"
}

shown!(UserId, ConversationId, Email, MessageId, Instance);
secret!(StationId, Signature, ApiKey, InvitationToken, AdminToken);

impl UserId {
    /// Generates a random ID, which no address has.
    pub(crate) fn generate() -> Self {
        let mut bytes = [0; 16];
        os_random().fill_bytes(&mut bytes);
        Self(Hex::of(&bytes))
    }

    /// Returns the ID of the user with this address.
    #[must_use]
    pub fn of(email: &Email) -> Self {
        Self(Hex::of(&Md5::digest(email.as_str())))
    }

    /// Reads a user ID, or computes the ID of a user's address. There need not be such a user.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::parse(name).or_else(|| Email::parse(name).as_ref().map(Self::of))
    }
}

impl ConversationId {
    /// Returns the one conversation of these two users, in either order.
    #[must_use]
    pub fn one_to_one(one: UserId, other: UserId) -> Self {
        let (smaller, larger) = (one.min(other), one.max(other));
        Self(Hex::of(&Md5::digest(format!("{smaller};{larger}"))))
    }
}

impl ApiKey {
    /// Generates a key from the operating system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        os_random().fill_bytes(&mut *bytes);
        let mut text = Zeroizing::new([0; 64]);
        hex::encode_to_slice(*bytes, &mut *text).expect("two characters for each byte");
        Self(text)
    }

    /// Returns the text as it stands on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&*self.0).expect("hexadecimal characters are ASCII")
    }
}

impl Parse for ApiKey {
    const EXPECTED: &'static str = "64 lower-case hexadecimal characters";

    fn parse(text: &str) -> Option<Self> {
        Hex::parse(text).map(|Hex(text)| Self(Zeroizing::new(text)))
    }
}

/// Makes a token of 160 bits from the operating system's randomness.
macro_rules! token {
    ($($name:ident),*) => {$(
        impl $name {
            /// Generates a token from the operating system's randomness.
            #[must_use]
            pub fn generate() -> Self {
                let mut bytes = [0; 20];
                os_random().fill_bytes(&mut bytes);
                Self(Hex::of(&bytes))
            }
        }
    )*};
}

token!(InvitationToken, AdminToken);

/// A user's e-mail address, trimmed and ASCII-lower-cased. It is ASCII, has at most 254 bytes and one `@` with
/// something on both sides. It has none of the characters that only a quoted local part may hold (RFC 5321).
#[derive(Clone, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    /// Returns the address, which is in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Wraps a stored address without checking it: earlier versions accepted addresses that [`Parse::parse`] refuses.
    pub(crate) fn from_stored(text: String) -> Self {
        Self(text)
    }
}

/// Characters that surround addresses in mail headers and URLs, and that no unquoted address holds.
const NOT_IN_AN_ADDRESS: &[char] = &['<', '>', '(', ')', ',', ';', ':', '\\', '"'];

impl Parse for Email {
    const EXPECTED: &'static str = "an e-mail address such as alice@example.com: ASCII, at most 254 bytes, one @ with text on both sides, \
         none of < > ( ) , ; : \\ and \"";

    fn parse(text: &str) -> Option<Self> {
        let email = text.trim().to_ascii_lowercase();
        let (local, domain) = email.split_once('@')?;
        let well_formed = email.len() <= 254
            && email.bytes().all(|byte| byte.is_ascii_graphic())
            && !local.is_empty()
            && !domain.is_empty()
            && !domain.contains('@')
            && !email.contains(NOT_IN_AN_ADDRESS);
        well_formed.then_some(Self(email))
    }

    fn objection(text: &str) -> Option<&'static str> {
        if !text.is_ascii() {
            Some(
                "it has characters beyond ASCII: write an internationalised domain in its xn-- form",
            )
        } else if text.contains("mailto:") || text.contains(['<', '>']) {
            Some("give the bare address, without mailto:, < and >")
        } else {
            None
        }
    }
}

/// The ID that a client gives its message: 1 to 64 of `[A-Za-z0-9-]` (docs/protocol.md#messages-d).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MessageId(String);

impl MessageId {
    /// Returns the ID as the client wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Parse for MessageId {
    const EXPECTED: &'static str = "1 to 64 characters of A-Z, a-z, 0-9 and -";

    fn parse(text: &str) -> Option<Self> {
        let well_formed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        ((1..=64).contains(&text.len()) && text.bytes().all(well_formed))
            .then(|| Self(text.to_owned()))
    }
}

/// The random name of an instance of a conversation, new at every `clear`: 10 of `[A-Za-z0-9]`
/// (docs/protocol.md#the-instance-fence).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instance([u8; Self::LENGTH]);

impl Instance {
    const LENGTH: usize = 10;

    /// Generates a random instance name.
    #[must_use]
    pub fn generate() -> Self {
        let text = Alphanumeric.sample_string(&mut os_random(), Self::LENGTH);
        Self::parse(&text).expect("ten alphanumeric characters")
    }

    /// Returns the text as it stands on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("alphanumeric characters are ASCII")
    }
}

impl Parse for Instance {
    const EXPECTED: &'static str = "10 characters of A-Z, a-z and 0-9";

    fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; Self::LENGTH] = text.as_bytes().try_into().ok()?;
        bytes.iter().all(u8::is_ascii_alphanumeric).then_some(Self(bytes))
    }
}
