//! The settings: `config/default.toml`, then a file, then the environment, then the command line.

mod values;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value, de};

use crate::bounded;
use values::parsed;
pub use values::{
    AllowedOrigin, Bounded, DatabaseUrl, ErrorStatus, Filter, List, LogFormat, MetricsListen,
    Network, PublicUrl, Seconds, StoredBytes, Switch,
};

/// Every setting, with a comment and its default.
pub const DEFAULT: &str = include_str!("../config/default.toml");

/// Environment variables that begin so and contain [`LEVEL`] are settings.
const PREFIX: &str = "CHATSERVER_";

/// The largest `auth.clock_skew_seconds`: signatures of changes are kept for as long as any setting of it
/// could make them acceptable again.
pub const MAX_CLOCK_SKEW_SECONDS: u32 = 900;

/// Maximum bytes of a file with settings.
const FILE_BYTES: u64 = 1024 * 1024;

/// What stands between the levels of a setting's name in an environment variable.
const LEVEL: &str = "__";

/// A setting that is unknown or wrong, with its name, its value and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read, or is not TOML.
    #[error("the settings in {} can't be read: {problem}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// No setting has this name. Its value is not shown: it may be a secret of another program.
    #[error("{name}: there is no such setting")]
    Unknown {
        /// The name that was given.
        name: String,
    },
    /// A setting has a value that it can't have.
    #[error("{name} = {value}: {problem}")]
    Wrong {
        /// The setting.
        name: String,
        /// Its value.
        value: String,
        /// What is wrong, and what was expected.
        problem: String,
    },
}

/// All settings. `config/default.toml` says what each one is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How the server is reached.
    pub http: Http,
    /// Where it keeps its data.
    pub database: Database,
    /// Whom it believes.
    pub auth: Auth,
    /// Whom it takes for reachable.
    pub presence: Presence,
    /// What it bears.
    pub limits: Limits,
    /// What it tells its operator.
    pub log: Log,
}

/// `[http]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// The address that clients connect to.
    #[serde(deserialize_with = "parsed")]
    pub listen: SocketAddr,
    /// The URL by which clients reach the server; `None` stands for the address it listens on.
    #[serde(deserialize_with = "parsed")]
    pub public_url: PublicUrl,
    /// The HTTP status of a refusal.
    #[serde(deserialize_with = "parsed")]
    pub error_status: ErrorStatus,
    /// Proxies that may name the client by `X-Forwarded-For`.
    pub trusted_proxies: List<Network>,
    /// Origins of browser clients.
    pub cors_origins: List<AllowedOrigin>,
    /// Origins of browser clients that may listen; none listed is all.
    pub listener_origins: List<AllowedOrigin>,
    /// Listeners at a time, and as many WebSockets that have not subscribed.
    pub listeners: Bounded<1, 1_000_000>,
    /// Listeners of one user at a time.
    pub listeners_per_user: Bounded<1, 1000>,
    /// How often a listener is pinged.
    pub listener_ping_seconds: Seconds<1>,
    /// How long `/readyz` refuses before the server stops accepting.
    pub drain_seconds: Seconds<0>,
    /// The address of the metrics.
    #[serde(deserialize_with = "parsed")]
    pub metrics_listen: MetricsListen,
    /// How long a head may take, from its first byte to its end.
    pub header_timeout_seconds: Seconds<1>,
    /// How long a connection may be idle before the first byte of its next head.
    pub keep_alive_seconds: Seconds<1>,
    /// How long a body may take to arrive.
    pub body_timeout_seconds: Seconds<1>,
    /// How long the work on a request may take.
    pub request_timeout_seconds: Seconds<1>,
    /// How long a client may take its answer at less than 8 KiB/s.
    pub write_timeout_seconds: Seconds<1>,
}

/// `[database]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `sqlite://` and the path of a file.
    #[serde(deserialize_with = "parsed")]
    pub url: DatabaseUrl,
}

/// `[auth]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// How far a request's timestamp may be from the server's clock.
    pub clock_skew_seconds: Bounded<1, MAX_CLOCK_SKEW_SECONDS>,
    /// Whether a station that one user has bound is told what is new without a signature.
    pub unsigned_notifications: Switch,
}

/// `[presence]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Presence {
    /// How long a user without a listener is reachable after a sign of life.
    pub timeout_seconds: Seconds<1>,
}

/// `[limits]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Connections at a time.
    pub connections: Bounded<1, 1_000_000>,
    /// Connections of one client network at a time; 0 = off.
    pub connections_per_address: Bounded<0, 1_000_000>,
    /// Bodies and answers on their way, in bytes.
    pub buffered_bytes: Bounded<16_777_216, 4_294_967_295>,
    /// The body of a request, in bytes.
    pub body_bytes: Bounded<1024, 16_777_216>,
    /// The encrypted text of a message, in bytes.
    pub message_bytes: Bounded<1, 8_388_608>,
    /// The messages of one download, and its reports.
    pub download_messages: Bounded<2, 100_000>,
    /// The serialized entries of one page, in bytes.
    pub download_bytes: Bounded<1024, 16_777_216>,
    /// Bytes of `Data` of one conversation; 0 = off.
    pub conversation_bytes: StoredBytes,
    /// Friends of one user; 0 = off.
    pub friends: Bounded<0, 1_000_000>,
    /// Free bytes of the disk that are kept; 0 = off.
    pub disk_reserve_bytes: StoredBytes,
    /// Stations of one user.
    pub stations_per_user: Bounded<1, 1000>,
    /// Failures of one address in a minute; 0 = off.
    pub failures_per_minute: Bounded<0, 1_000_000>,
    /// Logins and signed requests of one user in a second; 0 = off.
    pub requests_per_second: Bounded<0, 1_000_000>,
    /// How many requests one user may have saved up.
    pub requests_burst: Bounded<1, 1_000_000>,
}

impl Limits {
    /// What of this bounds the data.
    #[must_use]
    pub fn of_store(&self) -> crate::domain::Limits {
        crate::domain::Limits {
            conversation_bytes: self.conversation_bytes.get(),
            friends: self.friends.get(),
            disk_reserve_bytes: self.disk_reserve_bytes.get(),
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// The form of a line.
    #[serde(deserialize_with = "parsed")]
    pub format: LogFormat,
    /// What is logged.
    #[serde(deserialize_with = "parsed")]
    pub filter: Filter,
}

impl Config {
    /// Reads all layers and validates the whole.
    ///
    /// `environment` are environment variables, of which only those count that begin with `CHATSERVER_` and
    /// contain `__`; `flags` are names and values from the command line.
    ///
    /// # Errors
    ///
    /// [`Error`] names the setting, its value and what was expected.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(&str, &str)],
    ) -> Result<Self, Error> {
        let mut layers = Layers::default();
        if let Some(file) = file {
            layers.add_file(file)?;
        }
        for (name, value) in environment {
            let setting = name.strip_prefix(PREFIX).filter(|rest| rest.contains(LEVEL));
            if let Some(setting) = setting {
                layers.set(&setting.to_lowercase().replace(LEVEL, "."), Value::String(value))?;
            }
        }
        for (name, value) in flags {
            layers.set(name, Value::String((*value).to_owned()))?;
        }
        layers.read()
    }
}

/// The value of each setting, from the highest layer that has one.
struct Layers(Table);

impl Default for Layers {
    fn default() -> Self {
        Self(DEFAULT.parse().expect("the defaults are TOML"))
    }
}

impl Layers {
    fn add_file(&mut self, path: &Path) -> Result<(), Error> {
        let unreadable = |problem| Error::Unreadable { path: path.to_owned(), problem };
        let text = File::open(path).and_then(|file| bounded::read_text(file, FILE_BYTES));
        let text = text.map_err(|error| unreadable(error.to_string()))?;
        let file: Table = text.parse().map_err(|error| unreadable(located(&text, &error)))?;
        for (section, value) in file {
            let settings = match value {
                Value::Table(settings) if self.0.contains_key(&section) || !settings.is_empty() => {
                    settings
                }
                _ => return Err(Error::Unknown { name: section }),
            };
            for (name, value) in settings {
                self.set(&format!("{section}.{name}"), value)?;
            }
        }
        Ok(())
    }

    /// Only what the defaults have is a setting.
    fn set(&mut self, name: &str, value: Value) -> Result<(), Error> {
        match self.setting(name) {
            Some(setting) => *setting = value,
            None => return Err(Error::Unknown { name: name.to_owned() }),
        }
        Ok(())
    }

    fn setting(&mut self, name: &str) -> Option<&mut Value> {
        let (section, name) = name.split_once('.')?;
        self.0.get_mut(section)?.as_table_mut()?.get_mut(name)
    }

    fn read(mut self) -> Result<Config, Error> {
        let config: Config = serde_path_to_error::deserialize(self.0.clone()).map_err(|error| {
            // An entry of a list is shown as the whole list.
            let name = error.path().to_string();
            let name = name.split('[').next().unwrap_or_default().to_owned();
            let value = self.setting(&name).map_or_else(String::new, |value| shown(value));
            Error::Wrong { name, value, problem: error.into_inner().message().to_owned() }
        })?;
        config.http.agree()?;
        config.limits.agree()?;
        Ok(config)
    }
}

impl Http {
    /// Refuses one address for two listeners.
    fn agree(&self) -> Result<(), Error> {
        match self.metrics_listen.0 {
            Some(address) if address == self.listen && address.port() != 0 => Err(Error::Wrong {
                name: "http.metrics_listen".to_owned(),
                value: address.to_string(),
                problem: "must not be the address of http.listen".to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

impl Limits {
    /// Refuses bounds of which one could never be reached for the other.
    fn agree(&self) -> Result<(), Error> {
        let (message, body) = (self.message_bytes.get(), self.body_bytes.get());
        if message > body {
            return Err(Error::Wrong {
                name: "limits.message_bytes".to_owned(),
                value: message.to_string(),
                problem: format!(
                    "must not exceed limits.body_bytes = {body}: a message comes in a body"
                ),
            });
        }
        Ok(())
    }
}

/// What is wrong with a TOML file, and where. Its lines are not shown: they may hold a secret.
fn located(text: &str, error: &de::Error) -> String {
    let Some(span) = error.span() else { return error.message().to_owned() };
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{} at line {line} column {column}", error.message())
}

/// A value on one line, unless it may hold a secret: a user and a password before the host of a URL, or an access token.
fn shown(value: &Value) -> String {
    let text = written(value);
    let lower = text.to_lowercase();
    if ["@", "pass", "pwd", "secret", "token", "key"].iter().any(|sign| lower.contains(sign)) {
        return NOT_SHOWN.to_owned();
    }
    text
}

/// Stands for a value that may hold a secret.
const NOT_SHOWN: &str = "(not shown)";

fn written(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Array(entries) => {
            let entries: Vec<_> = entries.iter().map(written).collect();
            format!("[{}]", entries.join(", "))
        }
        other => other.to_string(),
    }
}
