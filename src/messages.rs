//! Messages: adding them and downloading them. The server never reads their payload.

use crate::conversations;
use crate::domain::{ConversationId, Instance, Message, PageQuery, Timestamp};
use crate::error::Error;
use crate::limits::MemoryPermit;
use crate::store::{AddMessage, Added, Found, Page, Store};
use crate::users::Caller;

/// Adds a message to a conversation of the caller. When this returns it is on disk.
///
/// # Errors
///
/// The refusals of docs/protocol.md#add. Then the message is not stored.
pub async fn add(
    store: &Store,
    caller: &Caller,
    conversation: ConversationId,
    instance: Instance,
    message: Message,
    now: Timestamp,
) -> Result<(), Error> {
    let add = AddMessage {
        conversation,
        sender: caller.user,
        station: caller.station,
        instance,
        message,
        now,
    };
    match store.add_message(add).await? {
        Added::Stored => Ok(()),
        Added::NotFound => Err(Error::ConversationNotFound),
        Added::InstanceChanged => {
            let conversation = conversations::show(store, caller, conversation).await?;
            Err(Error::InstanceChanged { conversation })
        }
        Added::Conflict => Err(Error::MessageConflict),
        Added::NotFriends => Err(Error::NotFriends),
        Added::Blocked => Err(Error::Blocked),
        Added::QuotaExceeded { bytes, limit } => Err(Error::QuotaExceeded { bytes, limit }),
    }
}

/// A page of the caller's conversation in this instance, or in the current one (docs/protocol.md#download). What the
/// caller has for the first time is reported as delivered, which this does not wait for. A large page is made once
/// `admit` has taken memory for so many bytes.
///
/// # Errors
///
/// [`Error::ConversationNotFound`], [`Error::InstanceChanged`], and what `admit` refuses.
pub async fn download(
    store: &Store,
    caller: &Caller,
    query: &PageQuery,
    instance: Option<Instance>,
    now: Timestamp,
    admit: impl FnOnce(usize) -> Result<MemoryPermit, Error>,
) -> Result<(Page, Option<MemoryPermit>), Error> {
    let not_found = || Error::ConversationNotFound;
    let (page, permit) = match store.page(query).await?.ok_or_else(not_found)? {
        Found::Page(page) => (page, None),
        Found::Large(bytes) => {
            let made = store.large_page(query, admit(bytes)?).await?;
            let (page, permit) = made.ok_or_else(not_found)?;
            (page, Some(permit))
        }
    };
    if instance.is_some_and(|instance| instance != page.instance) {
        let conversation = conversations::show(store, caller, query.conversation).await?;
        return Err(Error::InstanceChanged { conversation });
    }
    if let Some(undelivered) = page.undelivered {
        store.mark_delivered(undelivered, now);
    }
    Ok((page, permit))
}
