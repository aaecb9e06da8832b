//! Schemas of the protocol's types. A description is the type's `EXPECTED`, and a pattern permits only what the type takes.

use std::borrow::Cow;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::domain::{
    Color, ConversationId, Data, HideId, Instance, InvitationToken, Kind, MessageId, Parse,
    Timestamp, UserId, WorkspaceName,
};

/// 32 lower-case hexadecimal characters: an MD5, or a station.
pub(super) const HEX_32: &str = "^[0-9a-f]{32}$";

/// 64 lower-case hexadecimal characters: an API key, or an HMAC-SHA256.
pub(super) const HEX_64: &str = "^[0-9a-f]{64}$";

/// A date in the years 0 to 9999. It also permits days that a month lacks, such as 30 February.
const DATE: &str =
    "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01]) ([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]$";

/// Base64 whose unused last bits are zero.
const BASE64: &str =
    "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";

const DNS_NAME: &str = r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)+$";

/// At most 64 characters, so that the longest of UTF-8 stay within the 256 bytes of a marker.
const SHORT_TEXT: &str = r"^[^\u0000-\u001F\u007F-\u009F]{0,64}$";

/// Gives types that are read from text a schema with a pattern.
macro_rules! texts {
    ($($type:ty, $name:literal, $pattern:expr;)*) => {
        $(
            impl JsonSchema for $type {
                fn schema_name() -> Cow<'static, str> {
                    $name.into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!({
                        "type": "string", "pattern": $pattern, "description": <$type as Parse>::EXPECTED,
                    })
                }
            }
        )*

        #[cfg(test)]
        mod tests {
            use proptest::string::string_regex;
            use proptest::test_runner::TestRunner;
            use proptest::strategy::{Strategy, ValueTree};

            use super::*;

            #[test]
            fn a_type_takes_what_its_pattern_permits() {
                let mut runner = TestRunner::deterministic();
                $(
                    // 30 February is well-formed.
                    let pattern = $pattern.replace("|[12][0-9]|3[01]", "|1[0-9]|2[0-8]");
                    let texts = string_regex(pattern.trim_matches(['^', '$'])).unwrap();
                    for _ in 0..200 {
                        let text = texts.new_tree(&mut runner).unwrap().current();
                        // `maxLength` bounds a workspace's name.
                        let is_long = $name == "WorkspaceName" && text.len() > 253;
                        assert!(<$type>::parse(&text).is_some() || is_long, "{} {text:?}", $name);
                    }
                )*
            }
        }
    };
}

texts! {
    UserId, "UserID", HEX_32;
    ConversationId, "ConversationID", HEX_32;
    MessageId, "MessageID", "^[A-Za-z0-9-]{1,64}$";
    Instance, "Instance", "^[A-Za-z0-9]{10}$";
    InvitationToken, "InvitationToken", "^[0-9a-f]{40}$";
    Timestamp, "Date", DATE;
    Color, "Colour", "^#[0-9A-Fa-f]{6}$";
    HideId, "HideID", SHORT_TEXT;
    Kind, "MessageType", r"^[^\u0000-\u001F\u007F-\u009F]{1,32}$";
    Data, "Base64", BASE64;
    WorkspaceName, "WorkspaceName", DNS_NAME;
}

/// Text or the empty string.
pub(super) struct OrEmpty<T>(PhantomData<T>);

impl<T: JsonSchema> JsonSchema for OrEmpty<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}OrEmpty", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let text = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [text, { "const": "" }] })
    }
}
