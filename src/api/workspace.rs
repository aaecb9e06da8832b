//! `workspace` of the service `chatowner` (protocol, section 2.7).

use super::envelope::Reply;
use super::fields::Fields;
use crate::app::App;
use crate::error::Error;
use crate::users::Caller;
use crate::workspaces;

pub async fn register(app: &App, caller: &Caller, fields: Fields<'_>) -> Result<Reply, Error> {
    let name = fields.take(|fields| fields.required("workspacename"))?;
    workspaces::register(&app.store, caller, name, app.clock.now()).await?;
    Ok(Reply::ok())
}
