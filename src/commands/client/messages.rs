//! `chatserver client conversations`, `send` and `read`.

use std::io::{self, Write as _};

use clap::Args;
use serde_json::{Value, json};

use super::text::{visible, visible_nick};
use super::{Profiled, not_sent, parsed, refused};
use crate::bounded;
use crate::client::{
    self, Conversation, Credentials, Inbox, Positions, Received, Save, Session, derived_id,
    new_message_id, persist,
};
use crate::commands::Failed;
use crate::commands::failure::Refusal;
use crate::commands::output::Output;
use crate::domain::{MessageId, Parse as _, StationId, UserId};

/// Maximum bytes of a text on stdin. Sealed, it has more characters than any server takes by default.
const TEXT_BYTES: u64 = 256 * 1024;

/// Shown instead of the text if a message does not open, or names another sender than the server does.
pub(super) const CANNOT_OPEN: &str = "This message can't be opened";

#[derive(Args)]
pub(crate) struct Send {
    /// The receiver: an e-mail address, a user id, a nick or a conversation id
    to: String,
    /// The text; - is stdin, without the line ends at its end
    text: String,
    /// The message ID; by default a new one. To repeat a send without an answer, give the ID that its failure names
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    profiled: Profiled,
}

#[derive(Args)]
pub(crate) struct Read {
    /// The other user: an e-mail address, a user id, a nick; or a conversation id
    to: String,
    /// Show what follows the message with this ID
    #[arg(long, value_name = "ID", conflicts_with = "limit")]
    since: Option<String>,
    /// How many of the newest messages to show
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Go on with each new message, until Ctrl-C. With --json, each message is one line
    #[arg(long)]
    follow: bool,
    /// Report the shown messages as viewed
    #[arg(long)]
    viewed: bool,
    #[command(flatten)]
    profiled: Profiled,
}

/// Lists conversations.
pub(super) async fn conversations(profiled: &Profiled) -> Result<(), Failed> {
    let session = profiled.session()?;
    let me = session.user();
    let listed = session.conversations_with_unread().await.map_err(refused)?;
    let shown: Vec<_> = listed
        .iter()
        .filter_map(|conversation| {
            let other = conversation.other_than(me.as_str())?;
            let unread = conversation.properties.first().and_then(|own| own.unread);
            Some((conversation, other, unread))
        })
        .collect();
    let lines = shown.iter().map(|(conversation, other, unread)| {
        let unread = unread.filter(|unread| *unread > 0);
        let unread = unread.map_or_else(String::new, |unread| format!(", {unread} unread"));
        let (nick, user) = (visible_nick(&other.username), visible(&other.userid));
        format!("{nick} {user}, conversation {}{unread}", visible(&conversation.id))
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let json: Vec<_> = shown
        .iter()
        .map(|(conversation, other, unread)| {
            let own = conversation.properties.first();
            json!({
                "conversationid": conversation.id, "instance": conversation.instance,
                "userid": other.userid, "nick": other.username,
                "lastmessageid": conversation.lastmessageid, "lastaccess": conversation.lastaccess,
                "unread": unread, "ismuted": own.is_some_and(|own| own.ismuted),
                "isfavorite": own.is_some_and(|own| own.isfavorite),
            })
        })
        .collect();
    Output::new(text, json!({ "conversations": json })).print(profiled.json)
}

impl Send {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        let session = self.profiled.session()?;
        let id = match &self.id {
            Some(id) => parsed("--id", id)?,
            None => new_message_id(),
        };
        let text = self.text()?;
        if text.is_empty() {
            return Err(Refusal::argument("the text is empty"));
        }
        let conversation = session.conversation(&self.to).await.map_err(refused)?;
        let sent = session.send(&conversation, &text, &id).await;
        sent.map_err(|error| not_sent(&error, &id))?;
        let json = json!({
            "conversationid": conversation.id, "instance": conversation.instance, "ID": id.as_str(),
        });
        Output::new(id.as_str(), json).print_after_change(self.profiled.json)
    }

    fn text(&self) -> Result<String, Failed> {
        if self.text != "-" {
            return Ok(self.text.clone());
        }
        let text = bounded::read_text(io::stdin().lock(), TEXT_BYTES);
        let text = text.map_err(|error| {
            Refusal::argument(format!("the text on stdin can't be read: {error}"))
        })?;
        Ok(text.trim_end_matches(['\n', '\r']).to_owned())
    }
}

impl Read {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        let session = self.profiled.session()?;
        let conversation = session.conversation(&self.to).await.map_err(refused)?;
        let messages = match &self.since {
            Some(id) => session.since(&conversation, id).await,
            None => session.newest(&conversation, self.limit).await,
        };
        let messages = messages.map_err(refused)?;
        let ids: Vec<_> = messages.iter().map(|message| message.id.clone()).collect();
        if !self.follow {
            self.print_all(&conversation, &messages)?;
            if self.viewed {
                session.viewed(&conversation, &ids).await.map_err(refused)?;
            }
            return Ok(());
        }
        for message in &messages {
            self.print(&conversation, message)?;
        }
        let last = ids.last().map(MessageId::as_str).or(self.since.as_deref()).unwrap_or_default();
        let followed = self.follow(&session, &conversation, &ids, last).await;
        followed.map_err(refused)
    }

    /// Reports the printed messages, and prints what follows the `last`, until a failure that does not pass.
    async fn follow(
        &self,
        session: &Session,
        conversation: &Conversation,
        printed: &[MessageId],
        last: &str,
    ) -> Result<(), client::Error> {
        let mut positions = Positions::of(session);
        positions.record(conversation, last, &session.api.now());
        if self.viewed {
            let viewed = persist(async || session.viewed(conversation, printed).await, |_| ());
            match viewed.await {
                // The conversation was cleared, so there is nothing to report.
                Err(error) if error.is("instance_changed") => {}
                viewed => viewed?,
            }
        }
        let credentials = of_follower(&session.credentials, &conversation.id);
        let mut inbox = Inbox::new(session, credentials, positions);
        inbox.only = Some(conversation.id.clone());
        let followed = inbox.run(async |conversation, message| {
            // First, so that a failure of this does not print the message again.
            if self.viewed {
                session.viewed(conversation, std::slice::from_ref(&message.id)).await?;
            }
            self.print(conversation, &message).map_err(client::Error::Output)?;
            Ok(Save::WithPage)
        });
        followed.await
    }

    fn print_all(&self, conversation: &Conversation, messages: &[Received]) -> Result<(), Failed> {
        let lines = messages.iter().map(|message| line_of(conversation, message));
        let text = lines.collect::<Vec<_>>().join("\n");
        let messages: Vec<_> =
            messages.iter().map(|message| json_of(conversation, message)).collect();
        let json = json!({
            "conversationid": conversation.id, "instance": conversation.instance, "messages": messages,
        });
        Output::new(text, json).print(self.profiled.json)
    }

    fn print(&self, conversation: &Conversation, message: &Received) -> Result<(), Failed> {
        print_message(conversation, message, self.profiled.json)
    }
}

/// Prints a message on a line of its own.
pub(super) fn print_message(
    conversation: &Conversation,
    message: &Received,
    as_json: bool,
) -> Result<(), Failed> {
    Output::new(line_of(conversation, message), json_of(conversation, message)).print(as_json)?;
    Ok(io::stdout().flush()?)
}

/// Returns the line of a message: `2026-11-23 01:16:01 Alice: Hello`.
fn line_of(conversation: &Conversation, message: &Received) -> String {
    let sender = message.sender.as_ref().map_or("?", |user| conversation.nick_of(user.as_str()));
    let text = message.text.as_deref().unwrap_or(CANNOT_OPEN);
    format!("{} {}: {}", visible(&message.created), visible_nick(sender), visible(text))
}

/// Returns the object of a message. `text` is null if the message can't be opened.
pub(super) fn json_of(conversation: &Conversation, message: &Received) -> Value {
    let sender = message.sender.as_ref().map(UserId::as_str);
    let mut json = json!({
        "conversationid": conversation.id, "instance": conversation.instance,
        "ID": message.id.as_str(), "created": message.created, "from": sender,
        "nick": sender.map(|sender| conversation.nick_of(sender)), "text": message.text.as_deref().ok(),
    });
    if let Err(error) = &message.text {
        json["error"] = format!("{CANNOT_OPEN}: {error}").into();
    }
    json
}

/// Returns the credentials with the station that follows a conversation. The station of the profile belongs to `listen`,
/// and a station has one listener.
fn of_follower(credentials: &Credentials, conversation: &str) -> Credentials {
    let station = derived_id(&["follow", credentials.station.as_str(), conversation]);
    credentials.at(StationId::parse(&station).expect("32 hexadecimal characters are a station"))
}
