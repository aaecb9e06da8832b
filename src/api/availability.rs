//! `chatavailability` (protocol, section 2.2).

use crate::app::App;
use crate::availability;
use crate::envelope::Reply;
use crate::error::Error;
use crate::store::Availability;
use crate::users::Caller;

pub async fn choose(app: &App, caller: &Caller, chosen: Availability) -> Result<Reply, Error> {
    availability::choose(app, caller, chosen).await?;
    Ok(Reply::ok())
}
