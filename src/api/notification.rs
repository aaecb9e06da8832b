//! `chatnotification` (protocol, section 2.5).

use crate::app::App;
use crate::envelope::Reply;
use crate::error::Error;
use crate::fields::Fields;
use crate::id::{StationId, UserId};
use crate::notifications::{Inbox, Sequence};

/// What the station is to be told. Without `ack` it is told once, otherwise until that is acknowledged.
pub async fn download(
    app: &App,
    user: UserId,
    station: StationId,
    fields: &Fields<'_>,
) -> Result<Reply, Error> {
    let inbox = Inbox { store: &app.store, hints: &app.hints, user, station };
    let reply = if let Some(acknowledged) = fields.optional_number("ack")? {
        inbox.acknowledge(Sequence::said(acknowledged)).await?;
        inbox.peek(None).await?.map(|notification| {
            notification.on(Reply::ok()).with("sequence", &notification.sequence.get())
        })
    } else {
        inbox.take().await?.map(|notification| notification.on(Reply::ok()))
    };
    reply.ok_or_else(|| {
        // It was bound a moment ago; its next signed use binds it again.
        app.stations.forget(user, station);
        Error::InvalidSignature("the station is no longer bound to the user".to_owned())
    })
}
