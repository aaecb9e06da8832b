//! Conversations: clearing them, and what each participant makes of one for itself.

use crate::error::Error;
use crate::id::{ConversationId, Instance, Parse};
use crate::store::{ChangeProperty, Clear, Cleared, Property, PropertyChanged, Store, WireText};
use crate::users::Caller;

/// The conversation as the caller sees it.
///
/// # Errors
///
/// [`Error::ConversationNotFound`] where the caller does not take part in it.
pub async fn show(
    store: &Store,
    caller: &Caller,
    conversation: ConversationId,
) -> Result<WireText, Error> {
    let shown = store.conversation(conversation, caller.user).await?;
    shown.ok_or(Error::ConversationNotFound)
}

/// Removes everything said in this instance of the conversation, for everyone.
///
/// # Errors
///
/// The refusals of docs/protocol.md#clear. Then nothing is removed.
pub async fn clear(
    store: &Store,
    caller: &Caller,
    conversation: ConversationId,
    instance: Instance,
) -> Result<WireText, Error> {
    let clear = Clear {
        conversation,
        user: caller.user,
        station: caller.station,
        instance,
        next: Instance::generate(),
    };
    match store.change(clear).await? {
        Cleared::Cleared(conversation) => Ok(conversation),
        Cleared::NotFound => Err(Error::ConversationNotFound),
        Cleared::InstanceChanged(conversation) => Err(Error::InstanceChanged { conversation }),
        Cleared::NotFriends => Err(Error::NotFriends),
        Cleared::Blocked => Err(Error::Blocked),
    }
}

/// Changes what the caller alone sees of the conversation (docs/protocol.md#7-actions).
///
/// # Errors
///
/// [`Error::ConversationNotFound`], [`Error::Replayed`]; then nothing was changed.
pub async fn change(
    store: &Store,
    caller: &Caller,
    conversation: ConversationId,
    property: Property,
) -> Result<WireText, Error> {
    let change =
        ChangeProperty { conversation, property, station: caller.station, replay: caller.replay };
    match store.change_property(change).await? {
        PropertyChanged::Changed(conversation) => Ok(conversation),
        PropertyChanged::Replayed(conversation) => Err(Error::Replayed { conversation }),
        PropertyChanged::NotFound => Err(Error::ConversationNotFound),
    }
}

/// `#rrggbb`, kept in lower case (docs/protocol.md#setlistitembackgroundcolor).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Color(String);

impl Color {
    /// The colour as a property.
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
    /// The marker as a property.
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
