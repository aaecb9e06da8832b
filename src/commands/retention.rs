//! `chatserver retention`: removes messages that are kept no longer, or counts them.

use clap::Args;
use serde_json::{Value, json};

use super::failure::Refusal;
use super::output::Output;
use super::{Database, Failed, Settings};
use crate::clock::Clock;
use crate::domain::Retention;
use crate::retention::{self, Report};
use crate::store::{Removed, Schema, Store};

#[derive(Args)]
pub struct ApplyRetention {
    /// Remove nothing: only show what would be removed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    settings: Settings,
}

impl ApplyRetention {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        let config = self.settings.load(&[])?;
        let database = Database::open(&config, Schema::MustBeCurrent).await?;
        let reported = self.report(&database.store, config.retention.rule()).await;
        database.close().await;
        let output = output(&reported?, self.dry_run);
        if self.dry_run {
            return output.print(self.settings.json);
        }
        output.print_after_change(self.settings.json)
    }

    async fn report(&self, store: &Store, rule: Retention) -> Result<Report, Failed> {
        let now = Clock::system().now();
        if self.dry_run {
            return Ok(retention::preview(store, rule, now, usize::MAX).await?);
        }
        retention::sweep(store, rule, now).await?.ok_or_else(|| {
            let sentence =
                "another server or command is removing old messages: try again in a while";
            Refusal::with_code("in_use", sentence)
        })
    }
}

fn output(report: &Report, is_dry_run: bool) -> Output {
    let verb = if is_dry_run { "to be removed" } else { "removed" };
    let mut lines = vec![format!("{verb} in all: {}", in_words(report.total))];
    for (id, emails, removed) in &report.conversations {
        lines.push(format!("conversation {id} {} {}", emails.join(" "), in_words(*removed)));
    }
    let conversations = report.conversations.iter().map(|(id, emails, removed)| {
        let mut object = in_json(*removed);
        object["conversationid"] = id.as_str().into();
        object["emails"] = json!(emails);
        object
    });
    let json = json!({
        "dryrun": is_dry_run,
        "total": in_json(report.total),
        "conversations": conversations.collect::<Vec<_>>(),
    });
    Output::new(lines.join("\n"), json)
}

fn in_words(Removed { messages, emptied, bytes }: Removed) -> String {
    format!("messages: {messages}, emptied: {emptied}, bytes of data: {bytes}")
}

fn in_json(Removed { messages, emptied, bytes }: Removed) -> Value {
    json!({ "messages": messages, "emptied": emptied, "bytes": bytes })
}
