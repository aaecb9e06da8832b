//! Fields of a JSON object, read one by one so that every refusal names its field.

use std::borrow::Cow;
use std::fmt;
use std::str::Utf8Error;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::domain::Parse;
use crate::error::Error;

/// Initial capacity: as many fields as requests have.
const FEW: usize = 12;

/// Maximum keys of an object. A megabyte of short keys would take many times its size in memory.
const MAX_KEYS: usize = 64;

const NUMBER: &str = "a whole number of at least 0";

const COUNT: &str = "a whole number of at least 1";

/// A JSON object without duplicate keys. Fields that are never read are ignored.
#[derive(Default)]
pub struct Fields<'a> {
    /// Prefix of field names in refusals: `message.` for the fields of a message.
    prefix: &'static str,
    /// Fields in the order of the body. A request has a handful, so a lookup scans them.
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Fields<'a> {
    /// Parses the body of a request.
    ///
    /// # Errors
    ///
    /// [`Error`] where it is not one JSON object, has more than 64 keys, or has a key twice.
    pub fn of_body(body: &'a [u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(body).map_err(|error| not_text(body, error))?;
        Self::read(text, "", |problem| {
            Error::NotJson(format!("the body must be one JSON object: {problem}"))
        })
    }

    fn read(
        text: &'a str,
        prefix: &'static str,
        no_object: impl FnOnce(String) -> Error,
    ) -> Result<Self, Error> {
        let object = serde_json::from_str(text);
        let Object(fields) = object.map_err(|error| no_object(problem(text, &error)))?;
        if fields.len() > MAX_KEYS {
            return Err(Error::BadRequest("the body and message may have at most 64 keys each"));
        }
        if has_key_twice(&fields) {
            return Err(Error::BadRequest("a key occurs twice in the body or in message"));
        }
        Ok(Self { prefix, fields })
    }

    /// Reads what a request needs and frees the rest, before the handler awaits anything.
    pub(crate) fn take<T>(self, read: impl FnOnce(&Self) -> Result<T, Error>) -> Result<T, Error> {
        read(&self)
    }

    /// Reads a field that must be present and not empty.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] where it is missing or malformed.
    pub fn required<T: Parse>(&self, name: &'static str) -> Result<T, Error> {
        let missing = || Error::missing(self.full(name), T::EXPECTED);
        self.optional(name)?.ok_or_else(missing)
    }

    /// Reads a field that may be absent, `null` or empty: all three mean `None`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] where it is malformed.
    pub fn optional<T: Parse>(&self, name: &'static str) -> Result<Option<T>, Error> {
        let text = self.text(name, T::EXPECTED)?.filter(|text| !text.is_empty());
        text.map(|text| self.parse(name, &text)).transpose()
    }

    /// Reads a field that must be present, but may be empty.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] where it is missing or malformed.
    pub fn present<T: Parse>(&self, name: &'static str) -> Result<T, Error> {
        let missing = || Error::missing(self.full(name), T::EXPECTED);
        let text = self.text(name, T::EXPECTED)?.ok_or_else(missing)?;
        self.parse(name, &text)
    }

    /// Reads a whole number of at least 1 that may be absent or `null`.
    pub(crate) fn count(&self, name: &'static str) -> Result<Option<u64>, Error> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let count = digits(value).filter(|count| *count > 0);
        count.map(Some).ok_or_else(|| self.no_number(name, COUNT, value))
    }

    /// Reads a whole number that must be present.
    pub(crate) fn number(&self, name: &'static str) -> Result<u64, Error> {
        let missing = || Error::missing(self.full(name), NUMBER);
        self.optional_number(name)?.ok_or_else(missing)
    }

    /// Reads a whole number that may be absent or `null`.
    pub(crate) fn optional_number(&self, name: &'static str) -> Result<Option<u64>, Error> {
        let Some(value) = self.value(name) else { return Ok(None) };
        digits(value).map(Some).ok_or_else(|| self.no_number(name, NUMBER, value))
    }

    /// Reads a boolean; absent and `null` mean `false`.
    ///
    /// # Errors
    ///
    /// [`Error`] where it is anything else.
    pub(crate) fn flag(&self, name: &'static str) -> Result<bool, Error> {
        match self.value(name).map(RawValue::get) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Error::malformed(self.full(name), "true or false")),
        }
    }

    fn no_number(&self, name: &str, expected: &str, value: &RawValue) -> Error {
        let json = value.get();
        let objection = match json.as_bytes().first() {
            Some(b'"') => "; it is a string",
            Some(b'0'..=b'9') if json.contains(['.', 'e', 'E']) => {
                "; it is written with a fraction or an exponent, and must be digits alone"
            }
            _ => "",
        };
        Error::malformed(self.full(name), &format!("{expected}{objection}"))
    }

    /// Reads an array of at most `most` strings, which must be present but may be empty.
    pub(crate) fn list<T: Parse>(&self, name: &'static str, most: usize) -> Result<Vec<T>, Error> {
        let expected = || format!("an array of at most {most} strings, each {}", T::EXPECTED);
        let value = self.value(name);
        let value = value.ok_or_else(|| Error::missing(self.full(name), &expected()))?;
        let texts: Option<Vec<Text<'a>>> = serde_json::from_str(value.get()).ok();
        let texts = texts.filter(|texts| texts.len() <= most);
        let entries = texts.and_then(|texts| texts.iter().map(|text| T::parse(&text.0)).collect());
        entries.ok_or_else(|| Error::malformed(self.full(name), &expected()))
    }

    /// Reads an object, either plain or as a string that contains its JSON.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] where it is missing or not an object, [`Error::BadRequest`] above 64 keys or for a key
    /// twice, and any error of `read`.
    pub fn object<T>(
        &self,
        name: &'static str,
        prefix: &'static str,
        read: impl FnOnce(Fields<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        const EXPECTED: &str = "a JSON object or a string that contains one";
        let value = self.value(name);
        let value = value.ok_or_else(|| Error::missing(self.full(name), EXPECTED))?;
        let malformed =
            |problem: String| Error::malformed(self.full(name), &format!("{EXPECTED}: {problem}"));
        match value.get().as_bytes().first() {
            Some(b'{') => read(Fields::read(value.get(), prefix, malformed)?),
            Some(b'"') => {
                let text: Cow<'_, str> = self.string(name, value, EXPECTED)?;
                read(Fields::read(&text, prefix, malformed)?)
            }
            _ => Err(Error::malformed(self.full(name), EXPECTED)),
        }
    }

    fn text(&self, name: &'static str, expected: &str) -> Result<Option<Cow<'a, str>>, Error> {
        let value = self.value(name);
        value.map(|value| self.string(name, value, expected)).transpose()
    }

    fn string(
        &self,
        name: &'static str,
        value: &'a RawValue,
        expected: &str,
    ) -> Result<Cow<'a, str>, Error> {
        // A string without escapes needs no decoding: it was validated when the object was parsed.
        if let Some(plain) = value.get().strip_prefix('"').and_then(|text| text.strip_suffix('"'))
            && !plain.contains('\\')
        {
            return Ok(Cow::Borrowed(plain));
        }
        let text: Result<Text<'a>, _> = serde_json::from_str(value.get());
        let malformed = |_| Error::malformed(self.full(name), &format!("a string: {expected}"));
        text.map(|text| text.0).map_err(malformed)
    }

    /// Returns the value of a field that is neither absent nor `null`.
    fn value(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = self.fields.iter().find(|(known, _)| known == name)?;
        Some(*value).filter(|value| value.get() != "null")
    }

    fn parse<T: Parse>(&self, name: &'static str, text: &str) -> Result<T, Error> {
        T::parse(text).ok_or_else(|| Error::malformed(self.full(name), &T::expected_of(text)))
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// Explains why a body is not UTF-8. Names gzip and UTF-16, which clients send by mistake.
fn not_text(body: &[u8], error: Utf8Error) -> Error {
    const GZIP: &[u8] = b"\x1f\x8b";
    const UTF_16: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];
    if body.starts_with(GZIP) {
        Error::BadRequest("the body is compressed with gzip: send the JSON itself")
    } else if UTF_16.iter().any(|mark| body.starts_with(mark)) {
        Error::BadRequest("the body is UTF-16: it must be UTF-8")
    } else {
        let offset = error.valid_up_to();
        Error::NotJson(format!("the body is not valid UTF-8 from byte {offset} on"))
    }
}

/// Explains why a text is not a JSON object, with line and column. Quotes none of the text: it may hold secrets.
fn problem(text: &str, error: &serde_json::Error) -> String {
    const BYTE_ORDER_MARK: char = '\u{feff}';
    if text.starts_with(BYTE_ORDER_MARK) {
        return "it begins with a byte order mark (U+FEFF) at line 1 column 1".to_owned();
    }
    match error.classify() {
        // It is JSON of another type, which the first character tells.
        Category::Data => {
            let other = match text.trim_start().as_bytes().first() {
                Some(b'[') => "an array",
                Some(b'"') => "a string",
                Some(b'-' | b'0'..=b'9') => "a number",
                _ => "true, false or null",
            };
            format!("it is {other} at line {} column {}", error.line(), error.column())
        }
        _ => error.to_string(),
    }
}

/// Returns the number that a value consists of. Saturates at `u64::MAX`: a number too large is still a large number.
fn digits(value: &RawValue) -> Option<u64> {
    let digits = value.get();
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// A JSON string, borrowed unless it holds an escape.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

fn has_key_twice(fields: &[(Cow<'_, str>, &RawValue)]) -> bool {
    let mut names: Vec<_> = fields.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.windows(2).any(|pair| pair[0] == pair[1])
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut fields = Vec::with_capacity(FEW);
        while let Some((name, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
            fields.push((name.0, value));
            if fields.len() > MAX_KEYS {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                break;
            }
        }
        Ok(Object(fields))
    }
}
