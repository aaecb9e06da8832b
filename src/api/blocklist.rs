//! `chatblocklist` (docs/protocol.md#8-the-block-list).

use super::actions::Request;
use super::envelope::Reply;
use crate::blocklist;
use crate::error::Error;

pub async fn list(request: Request<'_>) -> Result<Reply, Error> {
    drop(request.fields);
    let blocklist = request.app.store.blocklist(request.caller.user).await?;
    let reply = Reply::ok().with_entries("blockedusers", &blocklist.users);
    Ok(reply.with_entries("blockedconversations", &blocklist.conversations))
}

pub async fn change(request: Request<'_>, blocked: bool) -> Result<Reply, Error> {
    let other = request.fields.take(|fields| fields.required("userid"))?;
    blocklist::change(&request.app.store, &request.caller, other, blocked).await?;
    Ok(Reply::ok())
}
