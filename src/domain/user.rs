//! Names of users: how they are normalized, and which are refused because they show nothing or deceive a reader.

use unicode_normalization::UnicodeNormalization as _;

use super::parse::Parse;

/// The name by which others see a user: 1 to 64 characters, at most 190 bytes (docs/protocol.md#chatfriends--list-d).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nick(String);

impl Nick {
    /// Returns the nick, trimmed and in Unicode normalization form C.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Parse for Nick {
    const EXPECTED: &'static str = "1 to 64 characters, at most 190 bytes, at least one visible, none a control character, \
         line separator or direction override";

    fn parse(text: &str) -> Option<Self> {
        let nick = normalized_name(text)?;
        let well_formed = (1..=64).contains(&nick.chars().count()) && nick.len() <= 190;
        well_formed.then_some(Self(nick))
    }
}

/// A full name: at most 256 bytes, possibly empty (docs/protocol.md#chatlogin--login-d).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FullName(String);

impl FullName {
    /// Returns the name, trimmed and in Unicode normalization form C.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Parse for FullName {
    const EXPECTED: &'static str = "empty or at most 256 bytes, at least one character visible, none a control character, line \
         separator or direction override";

    fn parse(text: &str) -> Option<Self> {
        let name = normalized_name(text)?;
        (name.len() <= 256).then_some(Self(name))
    }
}

/// Returns the name in the form that is stored. Returns `None` for a name that shows nothing, unless it is empty, and
/// for one that would deceive a reader.
fn normalized_name(text: &str) -> Option<String> {
    let breaks_lines = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let is_override = |c: char| matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    let name: String = text.trim().nfc().collect();
    let deceives = name.chars().any(|c| breaks_lines(c) || is_override(c));
    let shows = name.is_empty() || !name.chars().all(is_invisible);
    (!deceives && shows).then_some(name)
}

/// Returns whether a character shows nothing by itself: white space, two blank symbols, and every
/// `Default_Ignorable_Code_Point` of Unicode 17 (DerivedCoreProperties.txt).
fn is_invisible(c: char) -> bool {
    c.is_whitespace()
        || matches!(c,
            '\u{00AD}' | '\u{034F}' | '\u{061C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}'
            | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}' | '\u{2800}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}'
            | '\u{FFA0}' | '\u{FFF0}'..='\u{FFF8}' | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D159}'
            | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}
