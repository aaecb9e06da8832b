//! `chatserver client login`.

use std::io::{self, IsTerminal as _, Write as _};

use clap::Args;
use rand::Rng as _;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use serde::Deserialize;
use serde_json::json;
use tokio::task::spawn_blocking;
use url::{Host, Url};
use zeroize::Zeroizing;

use super::signals::Signals;
use super::text::{visible, visible_nick};
use super::{Profiled, SECRETS_BYTES, code_of, first_line, parsed, refused, secret_file};
use crate::bounded;
use crate::client::{self, KeyError, Profile, Session, server_url};
use crate::commands::Failed;
use crate::commands::failure::{self, Refusal};
use crate::commands::output::Output;
use crate::domain::{ApiKey, Parse as _, StationId};
use crate::keys::EncryptionPassword;
use crate::random::os_random;

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
        // Registered first, and shown again last: a signal must not leave a terminal that hides what is typed.
        let mut signals = Signals::register()?;
        let _shown = RestoredTerminal(tcgetattr(io::stdin()).ok());
        tokio::select! {
            done = self.log_in() => done,
            () = signals.received() => Err("interrupted".into()),
        }
    }

    async fn log_in(self) -> Result<(), Failed> {
        let path = self.profiled.path()?;
        let url = Url::parse(&self.url).map_err(|_| {
            Refusal::argument("URL must be that of a server, such as https://chat.example.com/")
        })?;
        let url = server_url(url).map_err(refused)?;
        let (api_key_file, password_file) = (self.api_key_file, self.encryption_password_file);
        // On a thread of its own, because it waits for the user.
        let secrets = spawn_blocking(move || {
            let mut stdin = Stdin::default();
            let api_key = stdin.secret(api_key_file.as_deref(), API_KEY, "API key")?;
            let password = stdin.secret(password_file.as_deref(), PASSWORD, "Encryption password");
            Ok::<_, Failed>((api_key, password?))
        });
        let (api_key, password) = secrets.await??;
        let api_key = parsed::<ApiKey>("the API key", api_key.trim())?;
        let has_space = password.trim() != password.as_str();
        let password = parsed::<EncryptionPassword>("the encryption password", &password)?;
        // A device keeps its station, so that logging in again makes no further one.
        let earlier = Profile::load(&path)
            .ok()
            .filter(|earlier| earlier.url == url.as_str() && earlier.apikey == api_key.as_str());
        let station = earlier.and_then(|earlier| StationId::parse(&earlier.stationid));
        let station = station.unwrap_or_else(new_station);
        if is_exposed(&url) {
            failure::warn("http sends the API key and all requests unencrypted: use https");
        }
        let logged_in = Session::log_in(url, &api_key, &password, station).await;
        let (_, profile) = logged_in.map_err(|error| wrong_password(error, has_space))?;
        profile.save(&path).map_err(client::Error::from).map_err(refused)?;
        let text = format!(
            "logged in as {} ({}); the profile is {}",
            visible_nick(&profile.nick),
            visible(&profile.userid),
            path.display()
        );
        let json = json!({ "userid": profile.userid, "nick": profile.nick, "profile": path });
        Output::new(text, json).print_after_change(self.profiled.json)
    }
}

/// Returns the failure of a login. A space that was pasted along with a password is hard to see.
fn wrong_password(error: client::Error, has_space: bool) -> Failed {
    if has_space && matches!(error, client::Error::Key(KeyError::WrongPassword)) {
        return Refusal::with_code(
            code_of(&error),
            format!("{error}: it begins or ends with a space, which may not be a part of it"),
        );
    }
    refused(error)
}

/// Whether others on the network can read the requests: http to another host than this one.
fn is_exposed(url: &Url) -> bool {
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "http" && !is_loopback
}

fn new_station() -> StationId {
    let mut bytes = [0; 16];
    os_random().fill_bytes(&mut bytes);
    StationId::parse(&hex::encode(bytes)).expect("16 bytes are 32 hexadecimal characters")
}

/// The settings of the terminal on stdin, which are restored on drop.
struct RestoredTerminal(Option<Termios>);

impl Drop for RestoredTerminal {
    fn drop(&mut self) {
        if let Some(settings) = &self.0 {
            // A terminal that is gone needs no settings.
            tcsetattr(io::stdin(), OptionalActions::Now, settings).ok();
        }
    }
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
            return secret_file(path);
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

/// Reads the lines of stdin, or the two secrets of a JSON object. Leaves out the API key unless it is `next`.
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
    Ok(text.lines().map(first_line).collect())
}

/// Asks on the terminal, which shows nothing of the answer.
fn ask(name: &str) -> io::Result<Zeroizing<String>> {
    let stdin = io::stdin();
    let shown = tcgetattr(&stdin)?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    // Ctrl-Z would leave the shell without echo.
    hidden.special_codes[SpecialCodeIndex::VSUSP] = 0;
    write!(io::stderr(), "{name}: ")?;
    tcsetattr(&stdin, OptionalActions::Flush, &hidden)?;
    let mut answer = Zeroizing::new(String::new());
    let read = stdin.read_line(&mut answer);
    tcsetattr(&stdin, OptionalActions::Now, &shown)?;
    writeln!(io::stderr())?;
    read?;
    Ok(first_line(&answer))
}
