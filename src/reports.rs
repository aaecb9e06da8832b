//! Reports: a reader tells the sender that a message was delivered or viewed, each at most once.

use crate::conversations;
use crate::domain::{ConversationId, Instance, MessageId, ReportType, Timestamp};
use crate::error::Error;
use crate::store::{OncePerSignature, Report, Store};
use crate::users::Caller;

/// Maximum messages in one request.
pub(crate) const MOST: usize = 1000;

/// Reports messages of others in one transaction. A read filters them first, so that those reported already take no
/// time of the writer; the write checks again. docs/protocol.md#viewed-and-delivered lists the refusals.
pub(crate) async fn report(
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
        kind: report_type,
        messages,
        now,
        user: caller.user,
        station: caller.station,
    };
    let reported = store.write(OncePerSignature { replay: caller.replay, change: report }).await;
    match reported {
        Ok(()) => Ok(()),
        Err(error) => Err(conversations::refused(store, caller, conversation, error).await),
    }
}
