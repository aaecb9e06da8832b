//! `workspace` of the service `chatowner` (docs/protocol.md#9-workspaces).

use super::actions::Request;
use super::envelope::Reply;
use crate::error::Error;
use crate::workspaces;

pub async fn register(request: Request<'_>) -> Result<Reply, Error> {
    let name = request.fields.take(|fields| fields.required("workspacename"))?;
    let (app, caller) = (request.app, &request.caller);
    workspaces::register(&app.store, caller, name, app.clock.now()).await?;
    Ok(Reply::ok())
}
