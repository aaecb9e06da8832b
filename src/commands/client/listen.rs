//! `chatserver client listen`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::messages::print_message;
use super::signals::Signals;
use super::text::visible;
use super::{Profiled, exec, refused};
use crate::client::{self, Conversation, Inbox, Positions, Received, Save, Session, persist};
use crate::commands::{Failed, failure};

#[derive(Args)]
pub(crate) struct Listen {
    /// A command for the shell, run for each message. It gets the message on stdin and in variables, and prints the answer
    #[arg(long, value_name = "CMD", value_parser = NonEmptyStringValueParser::new())]
    exec: Option<String>,
    /// How long the command may run for one message
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    timeout: u32,
    /// Report the messages as viewed
    #[arg(long)]
    viewed: bool,
    #[command(flatten)]
    profiled: Profiled,
}

impl Listen {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        let mut signals = Signals::register()?;
        let session = self.profiled.session()?;
        let path = positions_beside(&self.profiled.path()?);
        self.listen(&session, &path, &mut signals).await.map_err(refused)
    }

    /// Listens until a failure or a signal.
    async fn listen(
        &self,
        session: &Session,
        path: &Path,
        signals: &mut Signals,
    ) -> Result<(), client::Error> {
        let positions = tokio::select! {
            positions = Positions::open(session, path) => positions?,
            () = signals.received() => return Ok(()),
        };
        let mut inbox = Inbox::new(session, session.credentials.clone(), positions);
        inbox.warn = |sentence| failure::warn(&visible(sentence));
        tokio::select! {
            // Dropped by a signal, it kills the command that runs.
            listened = inbox.run(async |conversation, message| {
                self.handle(session, conversation, message).await
            }) => return listened,
            () = signals.received() => {}
        }
        inbox.positions.save()
    }

    async fn handle(
        &self,
        session: &Session,
        conversation: &Conversation,
        message: Received,
    ) -> Result<Save, client::Error> {
        // A user's own messages come from other devices. Answering them would be a conversation with oneself.
        if message.sender == Some(session.user()) {
            return Ok(Save::WithPage);
        }
        // First, so that a failure of this does not run the command again.
        if self.viewed {
            session.viewed(conversation, std::slice::from_ref(&message.id)).await?;
        }
        let Some(command) = &self.exec else {
            let printed = print_message(conversation, &message, self.profiled.json);
            return printed.map(|()| Save::WithPage).map_err(client::Error::Output);
        };
        self.answer(session, conversation, &message, command).await
    }

    /// Runs the command for a message and sends what it prints. A message that does not open, and a message whose answer is
    /// refused, is warned of and counts as handled.
    async fn answer(
        &self,
        session: &Session,
        conversation: &Conversation,
        message: &Received,
        command: &str,
    ) -> Result<Save, client::Error> {
        let warn =
            |what: &str| failure::warn(&format!("message {}: {}", message.id, visible(what)));
        let Ok(text) = &message.text else {
            warn("it can't be opened, so the command was not run");
            return Ok(Save::WithPage);
        };
        let limit = Duration::from_secs(self.timeout.into());
        let printed = match exec::run(command, limit, conversation, message, text).await {
            Ok(printed) => printed,
            Err(problem) => {
                warn(&problem.to_string());
                return Ok(Save::Now);
            }
        };
        let printed = printed.trim_end_matches(['\n', '\r']);
        if printed.is_empty() {
            return Ok(Save::Now);
        }
        // The command is not run again for an answer that did not get through.
        let sent = persist(
            async || session.answer(conversation, &message.id, printed).await,
            |error| warn(&format!("the answer is sent again until it gets through: {error}")),
        );
        match sent.await {
            Err(error) if error.refuses_message() => {
                warn(&format!("the answer is refused: {error}"));
            }
            sent => sent?,
        }
        Ok(Save::Now)
    }
}

/// Returns the file that says how far the messages were handled: `client.json.positions` for `client.json`.
fn positions_beside(profile: &Path) -> PathBuf {
    let mut path = OsString::from(profile);
    path.push(".positions");
    path.into()
}
