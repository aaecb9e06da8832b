//! `chatserver conversation`: settings of one conversation.

use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::Refusal;
use super::output::Output;
use super::{Failed, Settings};
use crate::config::MAX_RETENTION_DAYS;
use crate::domain::{ConversationId, Parse as _};
use crate::retention;

#[derive(Subcommand)]
pub enum Conversation {
    /// Set how long one conversation keeps its messages
    #[command(after_help = "\
Example:
  chatserver conversation retention b08a32f44191bdb3d491c93409cb425b --days 30
`chatserver friend list` and `chatserver usage` show the ids. `chatserver retention --dry-run` shows what will be removed.")]
    Retention(SetRetention),
}

#[derive(Args)]
pub(crate) struct SetRetention {
    /// The conversation id
    conversation: String,
    #[command(flatten)]
    keep: Keep,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Keep {
    /// Keep messages for this many days
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RETENTION_DAYS)))]
    days: Option<u32>,
    /// Keep messages as the setting retention.days says
    #[arg(long)]
    default: bool,
    /// Keep messages for ever
    #[arg(long)]
    forever: bool,
}

impl Conversation {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        match self {
            Self::Retention(set) => set.run().await,
        }
    }
}

impl SetRetention {
    async fn run(self) -> Result<(), Failed> {
        let id = ConversationId::parse(&self.conversation).ok_or_else(|| {
            Refusal::argument(format!("CONVERSATION must be {}", ConversationId::EXPECTED))
        })?;
        let keep = match (self.keep.days, self.keep.default) {
            (Some(days), _) => retention::Keep::Days(days),
            (None, true) => retention::Keep::Default,
            (None, false) => retention::Keep::ForEver,
        };
        let database = self.settings.open().await?;
        let is_set = database.store.set_retention(id, keep.stored()).await;
        database.close().await;
        if !is_set? {
            return Err(Refusal::with_code("not_found", format!("there is no conversation {id}")));
        }
        let text = format!("conversation {id} keeps its messages {keep}");
        let json = json!({ "conversationid": id.as_str(), "days": keep.stored() });
        Output::new(text, json).print_after_change(self.settings.json)
    }
}
