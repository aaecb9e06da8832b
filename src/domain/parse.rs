//! Reading values from text, with the rule in words for the error message.

use std::borrow::Cow;

/// A value that is read from text: a header, a field of a request, a setting, an argument or a column.
pub trait Parse: Sized {
    /// Describes well-formed text, to complete the sentence "… must be".
    const EXPECTED: &'static str;

    /// Returns the value, or `None` where the text is malformed.
    fn parse(text: &str) -> Option<Self>;

    /// Explains what is wrong with malformed text, for common mistakes. Returns `None` for others.
    #[must_use]
    fn objection(_text: &str) -> Option<&'static str> {
        None
    }

    /// Returns [`Self::EXPECTED`], followed by the objection to this text if there is one.
    #[must_use]
    fn expected_of(text: &str) -> Cow<'static, str> {
        match Self::objection(text) {
            Some(objection) => format!("{}; {objection}", Self::EXPECTED).into(),
            None => Self::EXPECTED.into(),
        }
    }
}
