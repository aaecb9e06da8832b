//! Messages: adding them and downloading them. The server never reads their payload.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::clock::Timestamp;
use crate::conversations;
use crate::error::Error;
use crate::id::{ConversationId, Instance, Parse};
use crate::store::{AddMessage, Added, Download, DownloadPartial, Message, Page, Store, WireText};
use crate::users::Caller;

/// The type of a message: 1 to 32 characters (section 3).
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
/// The refusals of section 4.3; then it was not stored.
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

/// Messages and reports from old to new, and whether the page was cut.
pub struct Downloaded {
    /// Message objects, separated by commas.
    pub messages: WireText,
    /// Report objects, separated by commas.
    pub reports: WireText,
    /// Whether the page was cut before it had all that was asked for.
    pub more: bool,
}

/// Everything from two cursors on in this instance, or in the current one (section 4.2). What the caller has for the first time is reported as delivered,
/// which this does not wait for.
///
/// # Errors
///
/// [`Error::ConversationNotFound`], [`Error::InstanceChanged`].
pub async fn download(
    store: &Store,
    caller: &Caller,
    asked: &Download,
    instance: Option<Instance>,
    now: Timestamp,
) -> Result<Downloaded, Error> {
    let page = store.download(asked).await?;
    downloaded(store, caller, asked.conversation, instance, page, now).await
}

/// What stands just before two cursors in this instance, or in the current one (section 4.2). What the caller has for the first time is reported as
/// delivered, which this does not wait for.
///
/// # Errors
///
/// [`Error::ConversationNotFound`], [`Error::InstanceChanged`].
pub async fn download_partial(
    store: &Store,
    caller: &Caller,
    asked: &DownloadPartial,
    instance: Option<Instance>,
    now: Timestamp,
) -> Result<Downloaded, Error> {
    let page = store.download_partial(asked).await?;
    downloaded(store, caller, asked.conversation, instance, page, now).await
}

async fn downloaded(
    store: &Store,
    caller: &Caller,
    conversation: ConversationId,
    instance: Option<Instance>,
    page: Option<Page>,
    now: Timestamp,
) -> Result<Downloaded, Error> {
    let page = page.ok_or(Error::ConversationNotFound)?;
    if instance.is_some_and(|instance| instance != page.instance) {
        let conversation = conversations::show(store, caller, conversation).await?;
        return Err(Error::InstanceChanged { conversation });
    }
    if let Some(undelivered) = page.undelivered {
        store.mark_delivered(undelivered, now);
    }
    Ok(Downloaded { messages: page.messages, reports: page.reports, more: page.more })
}
