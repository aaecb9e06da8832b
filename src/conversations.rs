//! Conversations whose picture a client has is old.

use crate::domain::{ConversationId, Refusal};
use crate::error::Error;
use crate::store::{Store, WriteError};
use crate::users::Caller;

/// Returns what the client is told of a refused change. Where its picture of the conversation is old, that has the conversation
/// as it now stands.
pub async fn refused(
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
