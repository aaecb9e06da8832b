//! Handler of `workspace` in the service `chatowner` (docs/protocol.md#9-workspaces): registers a workspace by name.

use super::request::Request;
use crate::envelope::Reply;
use crate::error::Error;
use crate::store::RegisterWorkspace;

pub(crate) async fn register(request: Request<'_>) -> Result<Reply, Error> {
    let name = request.fields.take(|fields| fields.required("workspacename"))?;
    let (app, owner) = (request.app, request.caller.user);
    app.store.write(RegisterWorkspace { name, owner, now: app.clock.now() }).await?;
    Ok(Reply::ok())
}
