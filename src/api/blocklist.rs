//! `chatblocklist` (protocol, section 2.6).

use super::envelope::Reply;
use super::fields::Fields;
use crate::app::App;
use crate::blocklist;
use crate::error::Error;
use crate::users::Caller;

pub async fn list(app: &App, caller: &Caller) -> Result<Reply, Error> {
    let blocklist = app.store.blocklist(caller.user).await?;
    let reply = Reply::ok().with_entries("blockedusers", &blocklist.users);
    Ok(reply.with_entries("blockedconversations", &blocklist.conversations))
}

pub async fn change(
    app: &App,
    caller: &Caller,
    fields: Fields<'_>,
    blocked: bool,
) -> Result<Reply, Error> {
    let other = fields.take(|fields| fields.required("userid"))?;
    blocklist::change(&app.store, caller, other, blocked).await?;
    Ok(Reply::ok())
}
