//! `chatserver epoch`: begins an epoch, so that clients read everything again.

use clap::{Args, Subcommand};
use serde_json::json;

use super::output::Output;
use super::{Database, Failed, Settings};
use crate::clock::Clock;
use crate::store::{DatabaseUrl, Schema, ServerLock};

#[derive(Subcommand)]
pub(crate) enum Epoch {
    /// Begin a new epoch after the database has lost commits, by a recovery or a failover
    #[command(after_help = "\
Example:
  chatserver epoch new --config chat.toml
Clients then read everything again. Requests signed before are refused. The servers of a PostgreSQL database
notice it while they run; that of an SQLite database must be stopped. `chatserver restore` does it by itself.")]
    New(New),
}

#[derive(Args)]
pub(crate) struct New {
    #[command(flatten)]
    settings: Settings,
}

impl Epoch {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        match self {
            Self::New(new) => new.run().await,
        }
    }
}

impl New {
    async fn run(self) -> Result<(), Failed> {
        let config = self.settings.load(&[])?;
        // The server of a file reads the epoch only when it starts.
        let _lock = match &config.database.url {
            DatabaseUrl::Sqlite(url) => Some(ServerLock::acquire(url, "epoch new").await?),
            DatabaseUrl::Postgres(_) => None,
        };
        let database = Database::open(&config, Schema::MustBeCurrent).await?;
        let begun = database.store.begin_epoch(Clock::system().now()).await;
        database.close().await;
        let epoch = begun?;
        let text = format!("epoch {} has begun", epoch.id);
        Output::new(text, json!({ "epoch": epoch.id })).print_after_change(self.settings.json)
    }
}
