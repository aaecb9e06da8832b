//! Handler of `chatreports` (docs/protocol.md#viewed-and-delivered): marks messages of others as delivered or viewed.

use super::request::Request;
use crate::domain::ReportType;
use crate::envelope::Reply;
use crate::error::Error;
use crate::reports;

pub(crate) async fn report(request: Request<'_>, report_type: ReportType) -> Result<Reply, Error> {
    let (conversation, instance, messages) = request.fields.take(|fields| {
        let conversation = fields.required("conversationid")?;
        let instance = fields.optional("instance")?;
        Ok((conversation, instance, fields.list("messageids", reports::MOST)?))
    })?;
    let (app, caller, now) = (request.app, &request.caller, request.app.clock.now());
    reports::report(&app.store, caller, report_type, conversation, instance, &messages, now)
        .await?;
    Ok(Reply::ok())
}
