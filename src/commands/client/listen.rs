//! `chatserver client listen`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::login::{API_KEY, PASSWORD};
use super::messages::{id_of_answer, json_of, print_message};
use super::payload::KEY;
use super::text::visible;
use super::{Profiled, refused};
use crate::client::{self, Conversation, Inbox, Positions, Received, Session};
use crate::commands::{Failed, failure};

/// Maximum time that a command takes for one message.
const COMMAND: Duration = Duration::from_mins(1);

/// Pause before an answer that did not get through is sent again.
const SEND_AGAIN: Duration = Duration::from_secs(5);

/// Maximum bytes of an answer: sealed, it fits into `limits.message_bytes`.
const ANSWER_BYTES: u64 = 128 * 1024;

/// Maximum bytes of a text in a variable: the system refuses variables of 128 KiB.
const VARIABLE_BYTES: usize = 100 * 1024;

#[derive(Args)]
pub(crate) struct Listen {
    /// A command for the shell, run for each message. It gets the message on stdin and in variables, and prints the answer
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
    /// Report the messages as viewed
    #[arg(long)]
    viewed: bool,
    #[command(flatten)]
    profiled: Profiled,
}

impl Listen {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        let session = self.profiled.session()?;
        let path = positions_beside(&self.profiled.path()?);
        let known = Positions::load(&path).map_err(client::Error::from).map_err(refused)?;
        let positions = if let Some(known) = known {
            known
        } else {
            // The first run begins with what comes from now on.
            let conversations = session.conversations().await.map_err(refused)?;
            let positions = Positions::at_the_end(&conversations, &session.api.now());
            positions.save(&path).map_err(client::Error::from).map_err(refused)?;
            positions
        };
        let mut inbox = Inbox::new(&session, session.credentials.clone(), positions);
        let listened = inbox.run(async |conversation, message, positions| {
            // A user's own messages come from other devices. Answering them would be a conversation with oneself.
            if message.sender != Some(session.user()) {
                self.handle(&session, conversation, message).await?;
            }
            Ok(positions.save(&path)?)
        });
        listened.await.map_err(refused)
    }

    async fn handle(
        &self,
        session: &Session,
        conversation: &Conversation,
        message: Received,
    ) -> Result<(), client::Error> {
        // First, so that a failure of this does not run the command again.
        if self.viewed {
            session.viewed(conversation, std::slice::from_ref(&message.id)).await?;
        }
        match &self.exec {
            None => print_message(conversation, &message, self.profiled.json)
                .map_err(client::Error::Output),
            Some(command) => answer(session, conversation, &message, command).await,
        }
    }
}

/// Returns the file that says how far the messages were handled: `client.positions.json` for `client.json`.
fn positions_beside(profile: &Path) -> PathBuf {
    profile.with_extension("positions.json")
}

/// Runs the command for a message and sends what it prints. A message that does not open, and one whose answer is refused,
/// is warned of and counts as handled.
async fn answer(
    session: &Session,
    conversation: &Conversation,
    message: &Received,
    command: &str,
) -> Result<(), client::Error> {
    let warn = |what: &str| failure::warn(&format!("message {}: {}", message.id, visible(what)));
    let Ok(text) = &message.text else {
        warn("it can't be opened, so the command was not run");
        return Ok(());
    };
    let printed = match timeout(COMMAND, run(command, conversation, message, text)).await {
        Ok(Ok(printed)) => printed,
        Ok(Err(problem)) => {
            warn(&problem.to_string());
            return Ok(());
        }
        Err(_) => {
            warn(&format!("the command was ended after {} s", COMMAND.as_secs()));
            return Ok(());
        }
    };
    let printed = printed.trim_end_matches(['\n', '\r']);
    if printed.is_empty() {
        return Ok(());
    }
    let id = id_of_answer(conversation, &message.id);
    loop {
        match session.send(conversation, printed, Some(id.clone())).await {
            // The command is not run again for an answer that did not get through.
            Err(error) if error.may_pass() => sleep(SEND_AGAIN).await,
            // An earlier attempt, or an earlier run, has sent it.
            Err(error) if error.is("message_conflict") => return Ok(()),
            Err(error @ client::Error::Refused { .. }) => {
                warn(&format!("the answer is refused: {error}"));
                return Ok(());
            }
            sent => return sent.map(drop),
        }
    }
}

/// Runs the command and returns what it prints.
async fn run(
    command: &str,
    conversation: &Conversation,
    message: &Received,
    text: &str,
) -> Result<String, Failed> {
    let sender = message.sender.as_ref().map_or("", |user| user.as_str());
    // A variable can't hold NUL.
    let plain = |text: &str| text.replace('\0', "\u{fffd}");
    let short = if text.len() > VARIABLE_BYTES { String::new() } else { plain(text) };
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .env("CHAT_TEXT", short)
        .env("CHAT_FROM", sender)
        .env("CHAT_NICK", plain(conversation.nick_of(sender)))
        .env("CHAT_CONVERSATION", &conversation.id)
        .env("CHAT_ID", message.id.as_str())
        .env_remove(API_KEY)
        .env_remove(PASSWORD)
        .env_remove(KEY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("sh can't be started: {error}"))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
        return Err("the command has no pipes".into());
    };
    let object = format!("{}\n", json_of(conversation, message));
    let tell = async move {
        // A command need not read its stdin.
        drop(stdin.write_all(object.as_bytes()).await);
    };
    let mut printed = Vec::new();
    let mut bounded = stdout.take(ANSWER_BYTES + 1);
    let ((), read) = tokio::join!(tell, bounded.read_to_end(&mut printed));
    read?;
    if printed.len() as u64 > ANSWER_BYTES {
        return Err(format!("the command printed more than {ANSWER_BYTES} bytes").into());
    }
    let status = child.wait().await?;
    if !status.success() {
        return Err(format!("the command failed: {status}").into());
    }
    String::from_utf8(printed).map_err(|_| "the command printed no UTF-8".into())
}
