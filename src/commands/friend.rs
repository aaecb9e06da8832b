//! `chatserver friend`: makes, lists and ends friendships.

use clap::{Args, Subcommand};
use serde_json::json;

use super::output::Output;
use super::{Failed, Settings, friend_group};
use crate::domain::Email;
use crate::friends;
use crate::keys::ConversationSecret;
use crate::users;

#[derive(Subcommand)]
pub(crate) enum Friend {
    /// Make two users friends; the first time, create their conversation
    #[command(after_help = "\
Example:
  chatserver friend add alice@example.com bob@example.com
  chatserver friend add --group team.csv   makes all of them friends of each other")]
    Add(Add),
    /// List friendships
    #[command(after_help = "\
Example:
  chatserver friend list alice@example.com")]
    List(List),
    /// End a friendship; the conversation stays readable
    #[command(after_help = "\
Example:
  chatserver friend remove alice@example.com bob@example.com")]
    Remove(Pair),
}

#[derive(Args)]
pub(crate) struct Add {
    /// One user: an e-mail address or a user id
    #[arg(required_unless_present = "group")]
    one: Option<String>,
    /// The other user: an e-mail address or a user id
    #[arg(required_unless_present = "group")]
    other: Option<String>,
    /// Befriend all pairs of the users in this file: a user on each line, or a CSV file with a column email; - is stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["one", "other"])]
    group: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args)]
pub(crate) struct Pair {
    /// One user: an e-mail address or a user id
    one: String,
    /// The other user: an e-mail address or a user id
    other: String,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args)]
pub struct List {
    /// List only this user's friendships: an e-mail address or a user id
    user: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

impl Friend {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        match self {
            Self::Add(add) => add.run().await,
            Self::List(list) => list.run().await,
            Self::Remove(pair) => pair.remove().await,
        }
    }
}

impl Add {
    async fn run(self) -> Result<(), Failed> {
        if let Some(file) = &self.group {
            return friend_group::befriend(file, &self.settings).await;
        }
        let (one, other) = (self.one.unwrap_or_default(), self.other.unwrap_or_default());
        let database = self.settings.open().await?;
        let secret = ConversationSecret::generate();
        let added = friends::befriend(&database.store, &one, &other, &secret).await;
        database.close().await;
        let conversation = added?;
        let json = json!({ "conversationid": conversation.as_str() });
        Output::new(format!("conversation {conversation}"), json)
            .print_after_change(self.settings.json)
    }
}

impl Pair {
    async fn remove(self) -> Result<(), Failed> {
        let database = self.settings.open().await?;
        let removed = friends::unfriend(&database.store, &self.one, &self.other).await;
        database.close().await;
        let removed = removed?;
        let text = if removed { "they are no longer friends" } else { "they were not friends" };
        Output::new(text, json!({ "removed": removed })).print_after_change(self.settings.json)
    }
}

impl List {
    async fn run(self) -> Result<(), Failed> {
        let database = self.settings.open().await?;
        let listed = async {
            let user = match &self.user {
                Some(user) => Some(users::find(&database.store, user).await?),
                None => None,
            };
            let mut friendships = database.store.friendships().await?;
            if let Some(user) = user {
                friendships.retain(|friendship| friendship.emails.contains(&user.email));
            }
            Ok::<_, Failed>(friendships)
        };
        let listed = listed.await;
        database.close().await;
        let listed = listed?;
        let lines = listed.iter().map(|friendship| {
            let [one, other] = &friendship.emails;
            format!("{one} {other} {}", friendship.conversation)
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        let friendships: Vec<_> = listed
            .iter()
            .map(|friendship| {
                let emails = friendship.emails.each_ref().map(Email::as_str);
                json!({ "emails": emails, "conversationid": friendship.conversation.as_str() })
            })
            .collect();
        Output::new(text, json!({ "friendships": friendships })).print(self.settings.json)
    }
}
