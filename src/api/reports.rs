//! `chatreports` (protocol, section 2.4).

use super::envelope::Reply;
use super::fields::Fields;
use crate::app::App;
use crate::error::Error;
use crate::reports;
use crate::store::ReportType;
use crate::users::Caller;

pub async fn report(
    app: &App,
    caller: &Caller,
    fields: Fields<'_>,
    report_type: ReportType,
) -> Result<Reply, Error> {
    let (conversation, instance, messages) = fields.take(|fields| {
        let conversation = fields.required("conversationid")?;
        let instance = fields.optional("instance")?;
        Ok((conversation, instance, fields.list("messageids", reports::MOST)?))
    })?;
    let now = app.clock.now();
    reports::report(&app.store, caller, report_type, conversation, instance, &messages, now)
        .await?;
    Ok(Reply::ok())
}
