//! Messages: adding them and downloading them. The server never reads their payload.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::clock::Timestamp;
use crate::conversations;
use crate::error::Error;
use crate::id::{ConversationId, Instance, Parse};
use crate::limits::MemoryPermit;
use crate::store::{AddMessage, Added, Found, Message, Page, PageQuery, Store};
use crate::users::Caller;

/// The type of a message: 1 to 32 characters (docs/protocol.md#messages-d).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind(String);

impl Kind {
    /// The type as it came.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

impl Parse for Kind {
    const EXPECTED: &'static str = "1 to 32 characters, none a control character";

    fn parse(text: &str) -> Option<Self> {
        let length = text.chars().count();
        let well_formed = (1..=32).contains(&length) && !text.chars().any(char::is_control);
        well_formed.then(|| Self(text.to_owned()))
    }
}

/// The encrypted payload: padded standard base64 (RFC 4648, section 4), kept as the very text that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data(String);

impl Data {
    /// The text as it came.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

impl Parse for Data {
    const EXPECTED: &'static str = "padded standard base64 (RFC 4648, section 4)";

    fn parse(text: &str) -> Option<Self> {
        BASE64.decode(text).is_ok().then(|| Self(text.to_owned()))
    }

    fn objection(text: &str) -> Option<&'static str> {
        if text.contains(|c: char| c.is_ascii_whitespace()) {
            Some("it holds line breaks or blanks: send it as one line")
        } else if text.contains(['-', '_']) {
            Some("it is base64url (RFC 4648, section 5)")
        } else if !text.len().is_multiple_of(4) {
            Some("its length is not a multiple of 4: the padding is missing")
        } else {
            None
        }
    }
}

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
