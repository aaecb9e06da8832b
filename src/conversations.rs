//! Answers to clients with an outdated view of a conversation.

use crate::domain::{ConversationId, Refusal};
use crate::error::Error;
use crate::store::{Store, WriteError};
use crate::users::Caller;

/// Maps a failed change to the client's error. After [`Refusal::InstanceChanged`] and [`Refusal::Replayed`] the
/// client's view may be outdated, so the error carries the conversation's current state.
///
/// If the conversation no longer exists, [`Refusal::ConversationNotFound`] replaces [`Refusal::InstanceChanged`].
pub(crate) async fn refused(
    store: &Store,
    caller: &Caller,
    conversation: ConversationId,
    error: WriteError,
) -> Error {
    let WriteError::Refused(refusal @ (Refusal::InstanceChanged | Refusal::Replayed)) = error
    else {
        return error.into();
    };
    match store.conversation(conversation, caller.user).await {
        Ok(None) if refusal == Refusal::InstanceChanged => Refusal::ConversationNotFound.into(),
        Ok(conversation) => Error::Refused { refusal, conversation },
        Err(error) => error.into(),
    }
}
