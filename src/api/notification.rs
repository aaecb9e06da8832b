//! Handler of `chatnotification` (docs/protocol.md#11-notifications): a station polls for what has changed.

use super::request::Request;
use crate::envelope::Reply;
use crate::error::Error;
use crate::notifications::{Inbox, Poll, Sequence};

/// Returns what is pending for the station. Without `ack` each change is returned once. With `ack` it is returned until
/// it is acknowledged.
pub(crate) async fn download(request: Request<'_>) -> Result<Reply, Error> {
    let acknowledged = request.fields.take(|fields| fields.optional_number("ack"))?;
    let acknowledged = acknowledged.map(Sequence::from_client);
    let (app, caller) = (request.app, request.caller);
    let no_station = || Error::InvalidSignature("Ozeki-Station is missing".to_owned());
    let (user, station) = (caller.user, caller.station.ok_or_else(no_station)?);
    let poll = Poll { replay: caller.replay, timestamp: caller.timestamp, now: app.clock.now() };
    app.station_used(user, station, caller.is_signed).await?;
    let inbox = app.inbox(user, station);
    if let Some(reply) = read(&inbox, &poll, acknowledged).await? {
        return Ok(reply);
    }
    // The station was revoked a moment ago, while its binding was still remembered. A signed request binds it again.
    app.stations.forget(user, station);
    app.station_used(user, station, caller.is_signed).await?;
    let reply = read(&inbox, &poll, acknowledged).await?;
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
    Ok(notification.map(|(_, notification)| {
        let reply = notification.on(Reply::ok()).with("sequence", &notification.sequence.get());
        reply.with("epoch", &inbox.store.epoch().id)
    }))
}
