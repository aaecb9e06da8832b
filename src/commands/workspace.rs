//! `chatserver workspace`: lists workspaces with their owners. Clients register them over HTTP.

use clap::Subcommand;
use serde_json::json;

use super::output::Output;
use super::{Failed, Settings};

#[derive(Subcommand)]
pub enum Workspace {
    /// List all workspaces with their owners
    #[command(after_help = "\
Example:
  chatserver workspace list")]
    List(Settings),
}

impl Workspace {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        match self {
            Self::List(settings) => list(settings).await,
        }
    }
}

async fn list(settings: Settings) -> Result<(), Failed> {
    let database = settings.open().await?;
    let listed = database.store.workspaces().await;
    database.close().await;
    let listed = listed?;
    let lines = listed.iter().map(|workspace| format!("{} {}", workspace.name, workspace.email));
    let text = lines.collect::<Vec<_>>().join("\n");
    let workspaces: Vec<_> = listed
        .iter()
        .map(|workspace| {
            json!({
                "name": workspace.name,
                "owner": workspace.email.as_str(),
                "userid": workspace.owner.as_str(),
                "registered": workspace.registered_at.to_string(),
            })
        })
        .collect();
    Output::new(text, json!({ "workspaces": workspaces })).print(settings.json)
}
