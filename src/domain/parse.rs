//! Values that are read from text.

use std::borrow::Cow;

/// A value that is read from text: a header, a field of a request, an argument or a column.
pub trait Parse: Sized {
    /// What well-formed text looks like, to complete the sentence "… must be".
    const EXPECTED: &'static str;

    /// The value, or `None` where the text is not well-formed.
    fn parse(text: &str) -> Option<Self>;

    /// What is wrong with malformed text, for mistakes that are common enough to be named.
    #[must_use]
    fn objection(_text: &str) -> Option<&'static str> {
        None
    }

    /// [`Self::EXPECTED`], followed by the objection to this text if there is one.
    #[must_use]
    fn expected_of(text: &str) -> Cow<'static, str> {
        match Self::objection(text) {
            Some(objection) => format!("{}; {objection}", Self::EXPECTED).into(),
            None => Self::EXPECTED.into(),
        }
    }
}
