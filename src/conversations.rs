//! Conversations: clearing them, and what each participant makes of one for itself.

use crate::domain::{ConversationId, Instance, Property};
use crate::error::Error;
use crate::store::{ChangeProperty, Clear, Cleared, PropertyChanged, Store, WireText};
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
