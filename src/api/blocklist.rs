//! Handlers of `chatblocklist` (docs/protocol.md#8-the-block-list): list, block and unblock other users.

use super::request::Request;
use crate::envelope::Reply;
use crate::error::Error;
use crate::store::{ChangeBlock, OncePerSignature};
use crate::users::Caller;

pub(crate) async fn list(request: Request<'_>) -> Result<Reply, Error> {
    drop(request.fields);
    let blocklist = request.app.store.blocklist(request.caller.user).await?;
    let reply = Reply::ok().with_entries("blockedusers", &blocklist.users);
    Ok(reply.with_entries("blockedconversations", &blocklist.conversations))
}

pub(crate) async fn change(request: Request<'_>, blocked: bool) -> Result<Reply, Error> {
    let other = request.fields.take(|fields| fields.required("userid"))?;
    let Caller { user, station, replay, .. } = request.caller;
    if other == user {
        return Err(Error::malformed("userid", "the user id of another user"));
    }
    let change = ChangeBlock { user, other, blocked, station };
    request.app.store.write(OncePerSignature { replay, change }).await?;
    Ok(Reply::ok())
}
