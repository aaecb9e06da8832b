//! `chatserver usage`: the space that users and conversations take.

use std::cmp::Reverse;
use std::collections::HashMap;

use clap::Args;
use serde_json::{Value, json};

use super::output::Output;
use super::{Failed, Settings};
use crate::store::{ConversationSpace, DatabaseSize, Space, Usage};

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
        let usage = database.store.usage().await;
        database.close().await;
        let top = self.top.map_or(usize::MAX, |top| usize::try_from(top).unwrap_or(usize::MAX));
        Report::new(usage?, top).output().print(self.settings.json)
    }
}

/// The space of one user's conversations. A conversation counts for both of its users.
#[derive(Default)]
struct UserSpace {
    email: String,
    conversations: u64,
    space: Space,
}

/// The printed lists, most bytes first.
struct Report {
    size: DatabaseSize,
    /// Number of users, number of conversations, and the sum of the conversations.
    total: (usize, usize, Space),
    users: Vec<UserSpace>,
    conversations: Vec<([String; 2], ConversationSpace)>,
}

impl Report {
    fn new(usage: Usage, top: usize) -> Self {
        let Usage { users: emails, mut conversations, size } = usage;
        let mut users: HashMap<i64, UserSpace> = HashMap::new();
        for (number, email) in &emails {
            users.insert(*number, UserSpace { email: email.clone(), ..UserSpace::default() });
        }
        let mut sum = Space::default();
        for ConversationSpace { users: both, space, .. } in &conversations {
            sum.add(*space);
            for number in both {
                let user = users.entry(*number).or_default();
                user.conversations += 1;
                user.space.add(*space);
            }
        }
        let total = (users.len(), conversations.len(), sum);
        let mut users: Vec<_> = users.into_values().collect();
        users.sort_by(|one, other| {
            (Reverse(one.space), &one.email).cmp(&(Reverse(other.space), &other.email))
        });
        users.truncate(top);
        conversations
            .sort_by_key(|conversation| (Reverse(conversation.space), conversation.id.to_string()));
        conversations.truncate(top);
        let named = |conversation: ConversationSpace| {
            let email = |number| emails.get(&number).cloned().unwrap_or_default();
            let mut both = conversation.users.map(email);
            both.sort();
            (both, conversation)
        };
        let conversations = conversations.into_iter().map(named).collect();
        Self { size, total, users, conversations }
    }

    fn output(&self) -> Output {
        Output::new(self.text(), self.json())
    }

    fn text(&self) -> String {
        let (users, conversations, sum) = self.total;
        let mut lines = vec![match self.size {
            DatabaseSize::File { bytes, free_bytes, log_bytes } => format!(
                "the database file has {bytes} bytes, of which {free_bytes} are free, and its log {log_bytes}"
            ),
            DatabaseSize::Server { bytes } => format!("the database has {bytes} bytes"),
        }];
        lines.push(format!("users: {users}, conversations: {conversations}, {}", in_words(sum)));
        for user in &self.users {
            let UserSpace { email, conversations, space } = user;
            let words = in_words(*space);
            lines.push(format!("user {email} {words}, conversations: {conversations}"));
        }
        for ([one, other], ConversationSpace { id, space, .. }) in &self.conversations {
            lines.push(format!("conversation {id} {one} {other} {}", in_words(*space)));
        }
        lines.join("\n")
    }

    fn json(&self) -> Value {
        let (users, conversations, sum) = self.total;
        let (bytes, free_bytes, log_bytes) = match self.size {
            DatabaseSize::File { bytes, free_bytes, log_bytes } => {
                (bytes, Some(free_bytes), Some(log_bytes))
            }
            DatabaseSize::Server { bytes } => (bytes, None, None),
        };
        let mut totals = in_json(sum);
        totals["users"] = users.into();
        totals["conversations"] = conversations.into();
        let users = self.users.iter().map(|user| {
            let mut object = in_json(user.space);
            object["email"] = user.email.as_str().into();
            object["conversations"] = user.conversations.into();
            object
        });
        let conversations = self.conversations.iter().map(|(emails, conversation)| {
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
}

fn in_words(Space { bytes, messages, reports }: Space) -> String {
    format!("bytes of data: {bytes}, messages: {messages}, reports: {reports}")
}

fn in_json(Space { bytes, messages, reports }: Space) -> Value {
    json!({ "bytes": bytes, "messages": messages, "reports": reports })
}
