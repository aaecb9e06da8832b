//! `chatserver client`: a chat client on the command line, for people, bots and scripts.

mod friends;
mod listen;
mod login;
mod messages;
mod payload;
mod presence;
mod text;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Failed;
use super::failure::Refusal;
use crate::client::{self, KeyError, Profile, ProfileError, Session};
use text::visible;

#[derive(Subcommand)]
pub(crate) enum Client {
    /// Log in and write a profile, which the other commands use; the keys come from stdin, files or the environment
    #[command(after_help = "\
Example:
  chatserver client login https://chat.example.com/
On a terminal it asks for the API key and the encryption password. Otherwise stdin has both, each on a line, or what
chatserver user add --json prints. CHATSERVER_APIKEY, CHATSERVER_ENCRYPTION_PASSWORD and the two options come first.")]
    Login(login::Login),
    /// List conversations, the last used first
    #[command(after_help = "\
Example:
  chatserver client conversations --json")]
    Conversations(Profiled),
    /// Send a message
    #[command(after_help = "\
Example:
  chatserver client send bob@example.com 'Hello, Bob'
  df -h | chatserver client send Bob -")]
    Send(messages::Send),
    /// Show the newest messages, or those since a message
    #[command(after_help = "\
Example:
  chatserver client read Bob --follow
A control character in a message is shown as \\u{…}; --json has the exact text.")]
    Read(messages::Read),
    /// Wait for new messages of all conversations; print each, or answer it with a command
    #[command(after_help = "\
Example:
  chatserver client listen --exec ./answer.sh
The command gets each message as one JSON object on stdin, and in CHAT_TEXT, CHAT_FROM, CHAT_NICK, CHAT_CONVERSATION and
CHAT_ID. What it prints is sent as the answer. It has 60 s; if it fails or prints nothing, nothing is sent. The text is
written by others: a shell script must quote \"$CHAT_TEXT\".")]
    Listen(listen::Listen),
    /// List and change friends and friend requests
    #[command(
        subcommand,
        after_help = "\
Example:
  chatserver client friends add bob@example.com"
    )]
    Friends(friends::Friends),
    /// Show the availability of friends, or set one's own
    #[command(after_help = "\
Example:
  chatserver client presence set away")]
    Presence(presence::Presence),
    /// Encrypt the text on stdin: print Data of profile 1
    #[command(after_help = "\
Example:
  printf '%s' 'Hello' | chatserver client seal --conversation \"$CONVERSATION\" --instance \"$INSTANCE\" --id \"$ID\" --from \"$USERID\"
The conversation's key is in CHATSERVER_CONVERSATION_KEY or in --key-file, in hexadecimal.")]
    Seal(payload::Payload),
    /// Decrypt the Data on stdin: print the text, if it names the sender --from
    #[command(after_help = "\
Example:
  printf '%s' \"$DATA\" | chatserver client open --conversation \"$CONVERSATION\" --instance \"$INSTANCE\" --id \"$ID\" --from \"$USERID\"
The conversation's key is in CHATSERVER_CONVERSATION_KEY or in --key-file, in hexadecimal.")]
    Open(payload::Payload),
}

/// Flags for the profile and the form of the result.
#[derive(Args)]
pub(crate) struct Profiled {
    /// The profile; by default chatserver/client.json in `$XDG_CONFIG_HOME` or ~/.config
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Print JSON on stdout, and failures as one object on stderr
    #[arg(long)]
    json: bool,
}

impl Profiled {
    fn path(&self) -> Result<PathBuf, Failed> {
        if let Some(path) = &self.profile {
            return Ok(path.clone());
        }
        let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let config = folder("XDG_CONFIG_HOME").map(PathBuf::from);
        let config = config.or_else(|| Some(PathBuf::from(folder("HOME")?).join(".config")));
        let config = config.ok_or_else(|| {
            Refusal::argument("--profile is missing, and neither XDG_CONFIG_HOME nor HOME is set")
        })?;
        Ok(config.join("chatserver").join("client.json"))
    }

    fn session(&self) -> Result<Session, Failed> {
        let path = self.path()?;
        let profile = Profile::load(&path).map_err(client::Error::from).map_err(refused)?;
        Session::of(&profile, &path).map_err(refused)
    }
}

impl Client {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        match self {
            Self::Login(login) => login.run().await,
            Self::Conversations(profiled) => messages::conversations(&profiled).await,
            Self::Send(send) => send.run().await,
            Self::Read(read) => read.run().await,
            Self::Listen(listen) => listen.run().await,
            Self::Friends(friends) => friends.run().await,
            Self::Presence(presence) => presence.run().await,
            Self::Seal(payload) => payload.seal(),
            Self::Open(payload) => payload.open(),
        }
    }
}

/// Turns a failure of the client into one of the command line. A refusal keeps the server's `errorcode`. The sentence may
/// be the server's, so it is made visible.
fn refused(error: client::Error) -> Failed {
    let code = match &error {
        client::Error::Refused { code, .. } => code.as_str(),
        client::Error::Url => "invalid_argument",
        client::Error::Unreachable { .. } => "unreachable",
        client::Error::Answer(_) => "invalid_answer",
        client::Error::Replaced => "replaced",
        client::Error::NotFound(_) => "not_found",
        client::Error::Key(KeyError::WrongPassword) => "wrong_password",
        client::Error::Key(_) => "cannot_open",
        client::Error::Profile(ProfileError::Missing(_)) => "no_profile",
        client::Error::Profile(ProfileError::Open { .. } | ProfileError::Malformed { .. }) => {
            "invalid_profile"
        }
        client::Error::Profile(ProfileError::File { .. }) | client::Error::Output(_) => "failed",
    };
    let is_code =
        !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let code = if is_code { code.to_owned() } else { "failed".to_owned() };
    if let client::Error::Output(failed) = error {
        return failed;
    }
    let mut sentence = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        let text = source.to_string();
        if !sentence.contains(&text) {
            sentence = format!("{sentence}: {text}");
        }
        cause = source.source();
    }
    Refusal::with_code(code, visible(&sentence))
}
