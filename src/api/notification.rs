//! `chatnotification` (protocol, section 2.5).

use super::caller::Asker;
use crate::app::App;
use crate::envelope::Reply;
use crate::error::Error;
use crate::fields::Fields;
use crate::notifications::{Inbox, Poll, Sequence};

/// What the station is to be told. Without `ack` it is told once, otherwise until that is acknowledged.
pub async fn download(app: &App, asker: &Asker, fields: Fields<'_>) -> Result<Reply, Error> {
    let Asker { user, station, is_signed, ref poll } = *asker;
    let acknowledged = fields.take(|fields| fields.optional_number("ack"))?.map(Sequence::said);
    app.station_used(user, station, is_signed).await?;
    let inbox = Inbox { store: &app.store, hints: &app.hints, user, station };
    if let Some(reply) = read(&inbox, poll, acknowledged).await? {
        return Ok(reply);
    }
    // Somebody has revoked the station a moment ago.
    app.stations.forget(user, station);
    app.station_used(user, station, is_signed).await?;
    let reply = read(&inbox, poll, acknowledged).await?;
    let unbound = || Error::InvalidSignature("the station is not bound to the user".to_owned());
    reply.ok_or_else(unbound)
}

async fn read(
    inbox: &Inbox<'_>,
    poll: &Poll,
    acknowledged: Option<Sequence>,
) -> Result<Option<Reply>, Error> {
    let Some(acknowledged) = acknowledged else {
        let notification = inbox.take(poll).await?;
        return Ok(notification.map(|notification| notification.on(Reply::ok())));
    };
    inbox.acknowledge(acknowledged).await?;
    let notification = inbox.peek(None).await?;
    Ok(notification.map(|notification| {
        let reply = notification.on(Reply::ok()).with("sequence", &notification.sequence.get());
        reply.with("epoch", &inbox.store.epoch().id)
    }))
}
