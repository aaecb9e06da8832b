//! `chatserver client`: a chat client on the command line, for people, bots and scripts.

mod exec;
mod friends;
mod listen;
mod login;
mod messages;
mod payload;
mod presence;
mod signals;
mod text;

use std::fs::File;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use zeroize::Zeroizing;

use super::Failed;
use super::failure::Refusal;
use crate::bounded;
use crate::client::{self, KeyError, Profile, ProfileError, Session};
use crate::domain::{MessageId, Parse};
use text::visible;

/// Maximum bytes of a file with a secret, or of both secrets on stdin.
const SECRETS_BYTES: u64 = 8 * 1024;

#[derive(Subcommand)]
pub(crate) enum Client {
    /// Log in and write a profile, which the other commands use; the keys come from files, the environment, the terminal or stdin
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
A control character in a message is shown as \\u{…}; --json has the exact text. A second --follow of the same conversation
with this profile ends the first.")]
    Read(messages::Read),
    /// Wait for new messages of all conversations; print each, or answer it with a command
    #[command(after_help = "\
Example:
  chatserver client listen --exec 'echo \"you said: $CHAT_TEXT\"'
The command gets each message as one JSON object on stdin, and in CHAT_TEXT, CHAT_FROM, CHAT_NICK, CHAT_CONVERSATION and
CHAT_ID. What it prints until it ends is sent as the answer. It has 60 s or --timeout, and is then killed with its children.
If it fails or prints nothing, nothing is sent. The text is written by others: a shell script must quote \"$CHAT_TEXT\".
Two bots that are friends answer each other for ever: make the command print nothing for the other bot's CHAT_FROM.
A second listen with this profile ends the first.")]
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

/// Reads a file that holds a secret on its first line.
fn secret_file(path: &str) -> Result<Zeroizing<String>, Failed> {
    let text = File::open(path).and_then(|file| bounded::read_text(file, SECRETS_BYTES));
    let text = text.map_err(|error| Refusal::argument(format!("{path} can't be read: {error}")))?;
    Ok(first_line(&Zeroizing::new(text)))
}

/// Returns the first line, without a byte order mark and a line end.
fn first_line(text: &str) -> Zeroizing<String> {
    let text = text.trim_start_matches('\u{feff}').lines().next().unwrap_or_default();
    Zeroizing::new(text.to_owned())
}

fn parsed<T: Parse>(what: &str, text: &str) -> Result<T, Failed> {
    T::parse(text).ok_or_else(|| Refusal::argument(format!("{what} must be {}", T::EXPECTED)))
}

/// `errorcode` of a failure that no server reports. docs/operating.md#output-and-failures lists each.
#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Code {
    CannotOpen,
    Failed,
    InvalidAnswer,
    InvalidArgument,
    InvalidProfile,
    NoProfile,
    NotFound,
    Replaced,
    Unreachable,
    WrongPassword,
}

impl Code {
    fn of(error: &client::Error) -> Self {
        match error {
            client::Error::Url => Self::InvalidArgument,
            client::Error::Unreachable { .. } => Self::Unreachable,
            client::Error::Answer(_) => Self::InvalidAnswer,
            client::Error::Replaced => Self::Replaced,
            client::Error::NotFound(_) => Self::NotFound,
            client::Error::Key(KeyError::WrongPassword) => Self::WrongPassword,
            client::Error::Key(_) => Self::CannotOpen,
            client::Error::Profile(ProfileError::Missing(_)) => Self::NoProfile,
            client::Error::Profile(ProfileError::Open { .. } | ProfileError::Malformed { .. }) => {
                Self::InvalidProfile
            }
            client::Error::Refused { .. }
            | client::Error::Profile(ProfileError::File { .. })
            | client::Error::Output(_) => Self::Failed,
        }
    }

    fn name(self) -> String {
        let value = self.to_possible_value().expect("no code is skipped");
        value.get_name().to_owned()
    }
}

/// Returns the `errorcode` of a failure. A refusal keeps that of the server, if it has the form of one.
fn code_of(error: &client::Error) -> String {
    let is_code = |code: &str| {
        !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    match error {
        client::Error::Refused { code, .. } if is_code(code) => code.clone(),
        error => Code::of(error).name(),
    }
}

/// Returns the sentence of a failure with its causes. It may be the server's, so it is made visible.
fn sentence_of(error: &client::Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        let text = source.to_string();
        if !sentence.contains(&text) {
            sentence = format!("{sentence}: {text}");
        }
        cause = source.source();
    }
    visible(&sentence)
}

/// Turns a failure of the client into one of the command line.
fn refused(error: client::Error) -> Failed {
    match error {
        client::Error::Output(failed) => failed,
        error => Refusal::with_code(code_of(&error), sentence_of(&error)),
    }
}

/// Like [`refused`], for a message that may have been stored. The failure names its ID, under which it can be sent again.
fn not_sent(error: &client::Error, id: &MessageId) -> Failed {
    let mut sentence = sentence_of(error);
    if error.may_pass() {
        sentence = format!("{sentence}; to send it again and store it once, use --id {id}");
    }
    if error.is("message_conflict") {
        sentence = format!("{sentence}, perhaps the first attempt of this one");
    }
    Refusal::with_field(code_of(error), sentence, ("ID", id.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_a_failure_is_documented() {
        let page = include_str!("../../../docs/operating.md");
        for code in Code::value_variants() {
            // `failed` stands for all that has no code of its own.
            let name = code.name();
            assert!(page.contains(&format!("| `{name}` |")), "{name}");
        }
    }
}
