//! Handlers of `chatavailability` (docs/protocol.md#10-availability): a user chooses what friends see.

use super::request::Request;
use crate::availability;
use crate::domain::Availability;
use crate::envelope::Reply;
use crate::error::Error;

pub(crate) async fn choose(request: Request<'_>, chosen: Availability) -> Result<Reply, Error> {
    drop(request.fields);
    let (app, caller) = (request.app, &request.caller);
    availability::choose(&app.store, &app.presence, caller, chosen).await?;
    Ok(Reply::ok())
}
