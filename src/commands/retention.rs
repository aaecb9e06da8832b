//! `chatserver retention`: removes messages that are kept no longer, or counts them.

use clap::Args;
use serde_json::{Value, json};

use super::failure::Refusal;
use super::output::Output;
use super::{Database, Failed, Settings};
use crate::clock::Clock;
use crate::domain::{ConversationId, Retention};
use crate::store::{Removed, RemovedOf, Schema, Store, Swept, Vacuumed};

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
        let output = reported?.output(self.dry_run);
        if self.dry_run {
            return output.print(self.settings.json);
        }
        output.print_after_change(self.settings.json)
    }

    async fn report(&self, store: &Store, retention: Retention) -> Result<Report, Failed> {
        let removed = if self.dry_run {
            store.preview(retention, Clock::system().now()).await?
        } else {
            sweep(store, retention).await?
        };
        let mut report = Report { total: Removed::default(), conversations: Vec::new() };
        for (generation, removed) in removed {
            // A conversation that was cleared meanwhile has none of its messages any more.
            let Some((id, emails)) = store.conversation_with(generation).await? else { continue };
            report.total.add(removed);
            report.conversations.push((id, emails, removed));
        }
        report.conversations.sort_by_key(|(id, _, removed)| (-removed.bytes, id.to_string()));
        Ok(report)
    }
}

/// Removes all that is kept no longer, and returns its space to the file system.
async fn sweep(store: &Store, retention: Retention) -> Result<RemovedOf, Failed> {
    let Some(mut sweep) = store.sweep(retention, Clock::system().now()).await? else {
        let sentence = "another server or command is removing old messages: try again in a while";
        return Err(Refusal::with_code("in_use", sentence));
    };
    let mut all = RemovedOf::new();
    while let Swept::Step(removed) = sweep.step(store).await? {
        for (generation, removed) in removed {
            all.entry(generation).or_default().add(removed);
        }
    }
    store.note_removal(&all).await?;
    while !all.is_empty() && store.vacuum().await? == Vacuumed::Step {}
    Ok(all)
}

/// The result of a sweep or a dry run, the conversation with the most bytes first.
struct Report {
    total: Removed,
    conversations: Vec<(ConversationId, Vec<String>, Removed)>,
}

impl Report {
    fn output(self, is_dry_run: bool) -> Output {
        let verb = if is_dry_run { "to be removed" } else { "removed" };
        let mut lines = vec![format!("{verb} in all: {}", in_words(self.total))];
        for (id, emails, removed) in &self.conversations {
            lines.push(format!("conversation {id} {} {}", emails.join(" "), in_words(*removed)));
        }
        let conversations = self.conversations.iter().map(|(id, emails, removed)| {
            let mut object = in_json(*removed);
            object["conversationid"] = id.as_str().into();
            object["emails"] = json!(emails);
            object
        });
        let json = json!({
            "dryrun": is_dry_run,
            "total": in_json(self.total),
            "conversations": conversations.collect::<Vec<_>>(),
        });
        Output::new(lines.join("\n"), json)
    }
}

fn in_words(Removed { messages, emptied, bytes }: Removed) -> String {
    format!("messages: {messages}, emptied: {emptied}, bytes of data: {bytes}")
}

fn in_json(Removed { messages, emptied, bytes }: Removed) -> Value {
    json!({ "messages": messages, "emptied": emptied, "bytes": bytes })
}
