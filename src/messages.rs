//! Downloads of messages: one page, the memory that it takes, and the delivery reports that it causes.

use crate::conversations;
use crate::domain::{Instance, PageQuery, Refusal, Timestamp, fence};
use crate::error::Error;
use crate::limits::MemoryPermit;
use crate::store::{Found, Page, Store};
use crate::users::Caller;

/// Returns a page of the caller's conversation in this instance, or in the current one (docs/protocol.md#download).
///
/// Messages that the caller gets for the first time are reported as delivered in the background. A large page is made
/// only after `admit` has reserved memory for its bytes.
///
/// # Errors
///
/// [`Refusal::ConversationNotFound`], [`Refusal::InstanceChanged`], and what `admit` refuses.
pub(crate) async fn download(
    store: &Store,
    caller: &Caller,
    query: &PageQuery,
    instance: Option<Instance>,
    now: Timestamp,
    admit: impl FnOnce(usize) -> Result<MemoryPermit, Error>,
) -> Result<(Page, Option<MemoryPermit>), Error> {
    let not_found = || Refusal::ConversationNotFound;
    let (page, permit) = match store.page(query).await?.ok_or_else(not_found)? {
        Found::Page(page) => (page, None),
        Found::Large(bytes) => {
            let made = store.large_page(query, admit(bytes)?).await?;
            let (page, permit) = made.ok_or_else(not_found)?;
            (page, Some(permit))
        }
    };
    if let Some(Err(refusal)) = instance.map(|instance| fence(instance, page.instance)) {
        let refusal = refusal.into();
        return Err(conversations::refused(store, caller, query.conversation, refusal).await);
    }
    if let Some(undelivered) = page.undelivered {
        store.mark_delivered(undelivered, now);
    }
    Ok((page, permit))
}
