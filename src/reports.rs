//! Reports: what a reader tells the sender of a message.

use crate::domain::{ConversationId, Instance, MessageId, ReportType, Timestamp};
use crate::error::Error;
use crate::store::{Report, Reported, Store};
use crate::users::Caller;

/// The most messages that one request reports.
pub const MOST: usize = 1000;

/// Reports messages of others as delivered or viewed, each once (docs/protocol.md#viewed-and-delivered).
///
/// # Errors
///
/// The refusals of docs/protocol.md#viewed-and-delivered. Then nothing is reported.
pub async fn report(
    store: &Store,
    caller: &Caller,
    report_type: ReportType,
    conversation: ConversationId,
    instance: Option<Instance>,
    messages: &[MessageId],
    now: Timestamp,
) -> Result<(), Error> {
    let messages = store.unreported(conversation, caller.user, report_type, messages).await?;
    let report = Report {
        conversation,
        instance,
        report_type,
        messages,
        now,
        station: caller.station,
        replay: caller.replay,
    };
    match store.change(report).await? {
        Reported::Reported => Ok(()),
        Reported::Replayed(conversation) => Err(Error::Replayed { conversation }),
        Reported::NotFound => Err(Error::ConversationNotFound),
        Reported::InstanceChanged(conversation) => Err(Error::InstanceChanged { conversation }),
    }
}
