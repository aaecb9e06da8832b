//! Properties of a conversation that belong to one participant alone. The other one neither sees them nor is notified
//! of them.

use super::parse::Parse;

/// One property and its new value. The comments name the actions that set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Property {
    /// `mute`, `unmute`.
    Muted(bool),
    /// `favorite`, `unfavorite`.
    Favorite(bool),
    /// `setlistitembackgroundcolor`: `#rrggbb`, lower-case.
    BackgroundColor(String),
    /// `hide` with a marker.
    HideId(String),
    /// `hide` without a marker: for good.
    Hidden,
    /// `unhide`: ends both kinds of hiding.
    Shown,
}

/// `#rrggbb`, kept in lower case (docs/protocol.md#setlistitembackgroundcolor).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Color(String);

impl Color {
    /// Converts the colour to a property.
    #[must_use]
    pub fn into_property(self) -> Property {
        Property::BackgroundColor(self.0)
    }
}

impl Parse for Color {
    const EXPECTED: &'static str = "a colour such as #bae1ff";

    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('#')?;
        let well_formed = digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        well_formed.then(|| Self(text.to_ascii_lowercase()))
    }
}

/// The marker of a hidden conversation, which the client makes: at most 256 bytes (docs/protocol.md#hide-and-unhide).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HideId(String);

impl HideId {
    /// Converts the marker to a property.
    #[must_use]
    pub fn into_property(self) -> Property {
        Property::HideId(self.0)
    }
}

impl Parse for HideId {
    const EXPECTED: &'static str = "at most 256 bytes without control characters";

    fn parse(text: &str) -> Option<Self> {
        let well_formed = text.len() <= 256 && !text.chars().any(char::is_control);
        well_formed.then(|| Self(text.to_owned()))
    }
}
