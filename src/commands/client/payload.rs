//! `chatserver client seal` and `open`: profile 1 for shell scripts.

use std::io::{self, IsTerminal as _};

use clap::Args;
use serde_json::json;
use zeroize::Zeroizing;

use super::messages::CANNOT_OPEN;
use super::text::visible;
use super::{parsed, secret_file};
use crate::bounded;
use crate::client::payload::{self, MessageAddress};
use crate::commands::Failed;
use crate::commands::failure::Refusal;
use crate::commands::output::Output;
use crate::domain::{ConversationId, Instance, MessageId, UserId};
use crate::keys::ConversationSecret;

/// Environment variable with the key of the conversation.
pub(super) const KEY: &str = "CHATSERVER_CONVERSATION_KEY";

/// Maximum bytes of a text or of Data on stdin.
const STDIN_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Args)]
pub(crate) struct Payload {
    /// The conversation id
    #[arg(long, value_name = "ID")]
    conversation: String,
    /// The instance of the conversation
    #[arg(long, value_name = "NAME")]
    instance: String,
    /// The message ID
    #[arg(long, value_name = "ID")]
    id: String,
    /// The user id of the sender, as the server names it
    #[arg(long, value_name = "USERID")]
    from: String,
    /// A file that holds the key of the conversation: 64 hexadecimal characters
    #[arg(long, value_name = "FILE")]
    key_file: Option<String>,
    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// The parsed arguments.
struct Parts {
    conversation: ConversationId,
    instance: Instance,
    id: MessageId,
    from: UserId,
    secret: ConversationSecret,
    stdin: String,
}

impl Parts {
    fn address(&self) -> MessageAddress<'_> {
        MessageAddress { conversation: self.conversation, instance: self.instance, id: &self.id }
    }
}

impl Payload {
    pub(crate) fn seal(self) -> Result<(), Failed> {
        let parts = self.parts()?;
        let data = payload::seal(&parts.secret, &parts.address(), parts.from, &parts.stdin);
        Output::new(data.as_str(), json!({ "Data": data })).print(self.json)
    }

    pub(crate) fn open(self) -> Result<(), Failed> {
        let parts = self.parts()?;
        let data = parts.stdin.trim_end_matches(['\n', '\r']);
        let text = payload::open_from(&parts.secret, &parts.address(), data, [parts.from; 2]);
        let text = text.map_err(|error| {
            Refusal::with_code("cannot_open", format!("{CANNOT_OPEN}: {error}"))
        })?;
        let json = json!({ "from": parts.from.as_str(), "text": text });
        // A pipe gets the exact text. A terminal would obey its control characters.
        let text = if io::stdout().is_terminal() { visible(&text) } else { text };
        Output::new(text, json).print(self.json)
    }

    fn parts(&self) -> Result<Parts, Failed> {
        let stdin = bounded::read_text(io::stdin().lock(), STDIN_BYTES);
        Ok(Parts {
            conversation: parsed("--conversation", &self.conversation)?,
            instance: parsed("--instance", &self.instance)?,
            id: parsed("--id", &self.id)?,
            from: parsed("--from", &self.from)?,
            secret: self.secret()?,
            stdin: stdin
                .map_err(|error| Refusal::argument(format!("stdin can't be read: {error}")))?,
        })
    }

    fn secret(&self) -> Result<ConversationSecret, Failed> {
        let (name, text) = match &self.key_file {
            Some(path) => (path.as_str(), secret_file(path)?),
            None => (KEY, Zeroizing::new(std::env::var(KEY).unwrap_or_default())),
        };
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim(), &mut *bytes).map_err(|_| {
            Refusal::argument(format!(
                "{name} must be the key of the conversation, 64 hexadecimal characters"
            ))
        })?;
        Ok(ConversationSecret::from_bytes(*bytes))
    }
}
