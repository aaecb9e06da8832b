//! `chatserver client login`.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};

use clap::Args;
use rand::Rng as _;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde::Deserialize;
use serde_json::json;
use url::Url;
use zeroize::Zeroizing;

use super::text::visible;
use super::{Profiled, refused};
use crate::bounded;
use crate::client::{self, Profile, Session};
use crate::commands::Failed;
use crate::commands::failure::Refusal;
use crate::commands::output::Output;
use crate::domain::{ApiKey, Parse, StationId};
use crate::keys::EncryptionPassword;
use crate::random::os_random;

/// Maximum bytes of a file with a key, or of both on stdin.
const SECRETS_BYTES: u64 = 8 * 1024;

/// Environment variable with the API key.
pub(super) const API_KEY: &str = "CHATSERVER_APIKEY";

/// Environment variable with the encryption password.
pub(super) const PASSWORD: &str = "CHATSERVER_ENCRYPTION_PASSWORD";

#[derive(Args)]
pub(crate) struct Login {
    /// The address of the server, such as <https://chat.example.com/>
    url: String,
    /// A file that holds the API key and nothing else
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<String>,
    /// A file that holds the encryption password and nothing else
    #[arg(long, value_name = "FILE")]
    encryption_password_file: Option<String>,
    #[command(flatten)]
    profiled: Profiled,
}

impl Login {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        let path = self.profiled.path()?;
        let url = Url::parse(&self.url).map_err(|_| {
            Refusal::argument("URL must be that of a server, such as https://chat.example.com/")
        })?;
        let mut stdin = Stdin::default();
        let api_key = stdin.secret(self.api_key_file.as_deref(), API_KEY, "API key")?;
        let password = self.encryption_password_file.as_deref();
        let password = stdin.secret(password, PASSWORD, "Encryption password")?;
        let api_key = parsed::<ApiKey>("the API key", &api_key)?;
        let password = parsed::<EncryptionPassword>("the encryption password", &password)?;
        // A device keeps its station, so that logging in again makes no further one.
        let earlier = Profile::load(&path)
            .ok()
            .filter(|earlier| earlier.url == url.as_str() && earlier.apikey == api_key.as_str());
        let station = earlier.and_then(|earlier| StationId::parse(&earlier.stationid));
        let station = station.unwrap_or_else(new_station);
        let profile = Session::log_in(url, &api_key, &password, station).await.map_err(refused)?;
        profile.save(&path).map_err(client::Error::from).map_err(refused)?;
        let text = format!(
            "logged in as {} ({}); the profile is {}",
            visible(&profile.nick),
            visible(&profile.userid),
            path.display()
        );
        let json = json!({ "userid": profile.userid, "nick": profile.nick, "profile": path });
        Output::new(text, json).print_after_change(self.profiled.json)
    }
}

fn new_station() -> StationId {
    let mut bytes = [0; 16];
    os_random().fill_bytes(&mut bytes);
    StationId::parse(&hex::encode(bytes)).expect("16 bytes are 32 hexadecimal characters")
}

fn parsed<T: Parse>(what: &str, text: &str) -> Result<T, Failed> {
    T::parse(text).ok_or_else(|| Refusal::argument(format!("{what} must be {}", T::EXPECTED)))
}

/// The secrets that stdin gives, if the environment and the options do not.
#[derive(Default)]
struct Stdin {
    /// The lines that are left, or `None` before stdin was read.
    lines: Option<std::vec::IntoIter<Zeroizing<String>>>,
}

/// The output of `chatserver user add --json`.
#[derive(Deserialize)]
struct Added {
    apikey: String,
    encryptionpassword: String,
}

impl Stdin {
    /// Returns a secret from its file, its variable, the terminal or the next line of stdin, in this order.
    fn secret(
        &mut self,
        file: Option<&str>,
        variable: &str,
        name: &'static str,
    ) -> Result<Zeroizing<String>, Failed> {
        if let Some(path) = file {
            let text = File::open(path).and_then(|file| bounded::read_text(file, SECRETS_BYTES));
            let text =
                text.map_err(|error| Refusal::argument(format!("{path} can't be read: {error}")));
            return Ok(line(&Zeroizing::new(text?)));
        }
        if let Ok(text) = std::env::var(variable) {
            return Ok(Zeroizing::new(text));
        }
        if io::stdin().is_terminal() {
            return ask(name).map_err(|error| {
                Refusal::argument(format!("the terminal can't be read: {error}"))
            });
        }
        if self.lines.is_none() {
            self.lines = Some(read_lines(name)?.into_iter());
        }
        let next = self.lines.as_mut().and_then(Iterator::next);
        next.ok_or_else(|| Refusal::argument(format!("{name}: stdin has too few lines")))
    }
}

/// Reads the lines of stdin, or the two secrets of a JSON object, from the one that is `next` on.
fn read_lines(next: &str) -> Result<Vec<Zeroizing<String>>, Failed> {
    let text = bounded::read_text(io::stdin().lock(), SECRETS_BYTES);
    let text = text.map_err(|error| Refusal::argument(format!("stdin can't be read: {error}")))?;
    let text = Zeroizing::new(text);
    if text.trim_start().starts_with('{') {
        let added: Added = serde_json::from_str(&text).map_err(|_| {
            Refusal::argument(
                "stdin must be the output of chatserver user add --json, or two lines",
            )
        })?;
        let mut secrets =
            vec![Zeroizing::new(added.apikey), Zeroizing::new(added.encryptionpassword)];
        if next != "API key" {
            secrets.remove(0);
        }
        return Ok(secrets);
    }
    Ok(text.lines().map(line).collect())
}

/// Returns the first line, without a byte order mark and a line end.
fn line(text: &str) -> Zeroizing<String> {
    let text = text.trim_start_matches('\u{feff}').lines().next().unwrap_or_default();
    Zeroizing::new(text.to_owned())
}

/// Asks on the terminal, which shows nothing of the answer.
fn ask(name: &str) -> io::Result<Zeroizing<String>> {
    let stdin = io::stdin();
    let shown = tcgetattr(&stdin)?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    write!(io::stderr(), "{name}: ")?;
    tcsetattr(&stdin, OptionalActions::Flush, &hidden)?;
    let mut answer = Zeroizing::new(String::new());
    let read = stdin.read_line(&mut answer);
    tcsetattr(&stdin, OptionalActions::Now, &shown)?;
    writeln!(io::stderr())?;
    read?;
    Ok(line(&answer))
}
