//! `chatserver usage`: the space that users and conversations take.

use clap::Args;
use serde_json::{Value, json};

use super::output::Output;
use super::{Failed, Settings};
use crate::store::{ConversationSpace, DatabaseSize, Space};
use crate::usage::{Report, UserSpace};

#[derive(Args)]
pub struct ShowUsage {
    /// List only the N users and the N conversations with the most bytes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    top: Option<u32>,
    #[command(flatten)]
    settings: Settings,
}

impl ShowUsage {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        let database = self.settings.open().await?;
        let top = self.top.map_or(usize::MAX, |top| usize::try_from(top).unwrap_or(usize::MAX));
        let report = Report::read(&database.store, top).await;
        database.close().await;
        output(&report?).print(self.settings.json)
    }
}

fn output(report: &Report) -> Output {
    Output::new(text(report), json(report))
}

fn text(report: &Report) -> String {
    let (users, conversations, sum) = report.total;
    let mut lines = vec![match report.size {
        DatabaseSize::File { bytes, free_bytes, log_bytes } => format!(
            "the database file has {bytes} bytes, of which {free_bytes} are free, and its log {log_bytes}"
        ),
        DatabaseSize::Server { bytes } => format!("the database has {bytes} bytes"),
    }];
    lines.push(format!("users: {users}, conversations: {conversations}, {}", in_words(sum)));
    for user in &report.users {
        let UserSpace { email, conversations, space } = user;
        let email = shown(email);
        let words = in_words(*space);
        lines.push(format!("user {email} {words}, conversations: {conversations}"));
    }
    for ([one, other], ConversationSpace { id, space, .. }) in &report.conversations {
        let (one, other) = (shown(one), shown(other));
        lines.push(format!("conversation {id} {one} {other} {}", in_words(*space)));
    }
    lines.join("\n")
}

/// Returns the address of a user; that of a deleted one is empty.
fn shown(email: &str) -> &str {
    if email.is_empty() { "(deleted user)" } else { email }
}

fn json(report: &Report) -> Value {
    let (users, conversations, sum) = report.total;
    let (bytes, free_bytes, log_bytes) = match report.size {
        DatabaseSize::File { bytes, free_bytes, log_bytes } => {
            (bytes, Some(free_bytes), Some(log_bytes))
        }
        DatabaseSize::Server { bytes } => (bytes, None, None),
    };
    let mut totals = in_json(sum);
    totals["users"] = users.into();
    totals["conversations"] = conversations.into();
    let users = report.users.iter().map(|user| {
        let mut object = in_json(user.space);
        object["email"] = user.email.as_str().into();
        object["conversations"] = user.conversations.into();
        object
    });
    let conversations = report.conversations.iter().map(|(emails, conversation)| {
        let mut object = in_json(conversation.space);
        object["conversationid"] = conversation.id.as_str().into();
        object["emails"] = json!(emails);
        object
    });
    json!({
        "databasebytes": bytes,
        "freebytes": free_bytes,
        "logbytes": log_bytes,
        "total": totals,
        "users": users.collect::<Vec<_>>(),
        "conversations": conversations.collect::<Vec<_>>(),
    })
}

fn in_words(Space { bytes, messages, reports }: Space) -> String {
    format!("bytes of data: {bytes}, messages: {messages}, reports: {reports}")
}

fn in_json(Space { bytes, messages, reports }: Space) -> Value {
    json!({ "bytes": bytes, "messages": messages, "reports": reports })
}
