//! The settings: `config/default.toml`, then a file, then the environment, then the command line.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use config::{Environment, File, FileFormat, Value, ValueKind};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};
use thiserror::Error;
use tracing_subscriber::EnvFilter;
use url::{Origin, Url};

use crate::id::Parse as _;
use crate::store::DatabaseFile;

/// Every setting, with a comment and its default.
pub const DEFAULT: &str = include_str!("../config/default.toml");

/// Environment variables that begin so and contain [`LEVEL`] are settings.
const PREFIX: &str = "CHATSERVER_";

/// What stands between the levels of a setting's name in an environment variable.
const LEVEL: &str = "__";

/// A setting that is unknown or wrong, with its name, its value and what was expected.
#[derive(Debug, Error)]
pub enum Error {
    /// The file can't be read, or is not TOML.
    #[error("the settings can't be read: {0}")]
    Unreadable(#[source] config::ConfigError),
    /// No setting has this name.
    #[error("{name} = {value}: there is no such setting")]
    Unknown {
        /// The name that was given.
        name: String,
        /// The value that was given.
        value: String,
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
    pub public_url: PublicUrl,
    /// The HTTP status of a refusal.
    pub error_status: ErrorStatus,
    /// Proxies that may name the client by `X-Forwarded-For`.
    pub trusted_proxies: List<Network>,
    /// Origins of browser clients.
    pub cors_origins: List<AllowedOrigin>,
    /// How long `/readyz` refuses before the server stops accepting.
    pub drain_seconds: Seconds<0>,
    /// The address of the metrics.
    pub metrics_listen: MetricsListen,
    /// How long a connection may wait for the whole head of its next request.
    pub header_timeout_seconds: Seconds<1>,
    /// How long a body may take to arrive.
    pub body_timeout_seconds: Seconds<1>,
    /// How long the work on a request may take.
    pub request_timeout_seconds: Seconds<1>,
    /// How long a client may take nothing of its reply.
    pub write_timeout_seconds: Seconds<1>,
}

/// `[database]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `sqlite://` and the path of a file.
    pub url: DatabaseUrl,
}

/// `[auth]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// How far a request's timestamp may be from the server's clock.
    pub clock_skew_seconds: Seconds<1>,
}

/// `[limits]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Connections at a time.
    pub connections: Bounded<1, 1_000_000>,
    /// The body of a request, in bytes.
    pub body_bytes: Bounded<1024, 67_108_864>,
    /// The encrypted text of a message, in bytes.
    pub message_bytes: Bounded<1, 67_108_864>,
    /// The messages of one download.
    pub download_messages: Bounded<2, 100_000>,
    /// The serialized entries of one page, in bytes.
    pub download_bytes: Bounded<1024, 268_435_456>,
    /// Failures of one address in a minute; 0 = off.
    pub failures_per_minute: Bounded<0, 1_000_000>,
    /// Signed requests of one user in a second; 0 = off.
    pub requests_per_second: Bounded<0, 1_000_000>,
    /// How many requests one user may have saved up.
    pub requests_burst: Bounded<1, 1_000_000>,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// What is logged.
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
        let is_setting = |(name, _): &(String, String)| {
            name.strip_prefix(PREFIX).is_some_and(|rest| rest.contains(LEVEL))
        };
        let environment: HashMap<_, _> = environment.into_iter().filter(is_setting).collect();
        let known = Known::read()?;
        // Before the layers read a name: to them a[9] is a path, and makes a list of that length.
        for (name, value) in &environment {
            let rest = name.strip_prefix(PREFIX).unwrap_or_default();
            known.refuse_other(&rest.to_lowercase().replace(LEVEL, "."), value)?;
        }
        for (name, value) in flags {
            known.refuse_other(name, value)?;
        }
        let environment = Environment::with_prefix(PREFIX.trim_end_matches('_'))
            .prefix_separator("_")
            .separator(LEVEL)
            .source(Some(environment));
        let mut layers =
            config::Config::builder().add_source(File::from_str(DEFAULT, FileFormat::Toml));
        if let Some(file) = file {
            layers = layers.add_source(File::from(file).format(FileFormat::Toml));
        }
        layers = layers.add_source(environment);
        for (name, value) in flags {
            layers = layers.set_override(*name, *value).map_err(Error::Unreadable)?;
        }
        let layers = layers.build().map_err(Error::Unreadable)?;
        known.refuse_others(&layers)?;
        serde_path_to_error::deserialize(layers.clone()).map_err(|error| {
            let name = error.path().to_string();
            Error::Wrong {
                value: shown(&layers, &name),
                problem: problem(error.into_inner()),
                name,
            }
        })
    }
}

/// The names that the defaults have. Any other is no setting.
struct Known(Vec<String>);

impl Known {
    fn read() -> Result<Self, Error> {
        let defaults = config::Config::builder()
            .add_source(File::from_str(DEFAULT, FileFormat::Toml))
            .build()
            .map_err(Error::Unreadable)?;
        Ok(Self(settings(&defaults).map(|(name, _)| name).collect()))
    }

    fn refuse_other(&self, name: &str, value: &str) -> Result<(), Error> {
        if self.0.iter().any(|known| known == name) {
            return Ok(());
        }
        Err(Error::Unknown { name: name.to_owned(), value: format!("{value:?}") })
    }

    fn refuse_others(&self, layers: &config::Config) -> Result<(), Error> {
        let unknown = settings(layers).find(|(name, _)| !self.0.contains(name));
        match unknown {
            Some((name, value)) => Err(Error::Unknown { value: quoted(&value), name }),
            None => Ok(()),
        }
    }
}

/// All names and values of two levels, in the order of the names.
fn settings(layers: &config::Config) -> impl Iterator<Item = (String, Value)> + use<> {
    let mut settings = Vec::new();
    if let ValueKind::Table(sections) = layers.cache.kind.clone() {
        for (section, value) in sections {
            match value.kind {
                ValueKind::Table(table) => {
                    let full = |(name, value)| (format!("{section}.{name}"), value);
                    settings.extend(table.into_iter().map(full));
                }
                _ => settings.push((section, value)),
            }
        }
    }
    settings.sort_by(|(one, _), (other, _)| one.cmp(other));
    settings.into_iter()
}

fn shown(layers: &config::Config, name: &str) -> String {
    // An entry of a list is shown as the whole list.
    let name = name.split('[').next().unwrap_or(name);
    layers.get::<Value>(name).map_or_else(|_| "?".to_owned(), |value| quoted(&value))
}

fn quoted(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(entries) => {
            let entries: Vec<_> = entries.iter().map(quoted).collect();
            format!("[{}]", entries.join(", "))
        }
        _ => value.to_string(),
    }
}

fn problem(error: config::ConfigError) -> String {
    match error {
        config::ConfigError::Type { expected, .. } => format!("must be {expected}"),
        config::ConfigError::At { error, .. } => problem(*error),
        config::ConfigError::Message(message) => message,
        other => other.to_string(),
    }
}

fn wrong<E: de::Error>(expected: impl std::fmt::Display) -> E {
    E::custom(format!("must be {expected}"))
}

/// Text that a value's own type reads.
fn parsed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| wrong("an address and a port, such as 127.0.0.1:8080"))
}

/// A whole number within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounded<const LEAST: u32, const MOST: u32>(u32);

impl<const LEAST: u32, const MOST: u32> Bounded<LEAST, MOST> {
    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// The number, as a size.
    #[must_use]
    pub fn size(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<'de, const LEAST: u32, const MOST: u32> Deserialize<'de> for Bounded<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The environment holds text. 1.5 and true, which the layers would convert, are no whole numbers.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Number {
            Number(i64),
            Text(String),
        }
        let number = match Number::deserialize(deserializer) {
            Ok(Number::Number(number)) => u32::try_from(number).ok(),
            Ok(Number::Text(text)) => text.parse().ok(),
            Err(_) => None,
        };
        number
            .filter(|number| (LEAST..=MOST).contains(number))
            .map(Self)
            .ok_or_else(|| wrong(format!("a whole number from {LEAST} to {MOST}")))
    }
}

/// Seconds, at most an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Seconds<const LEAST: u32>(Bounded<LEAST, 3600>);

impl<const LEAST: u32> Seconds<LEAST> {
    /// The time.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0.get().into())
    }

    /// The number of seconds.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

/// The URL by which clients reach the server.
#[derive(Clone, Debug)]
pub struct PublicUrl(Option<Url>);

impl PublicUrl {
    /// The URL, or the one of the address that the server listens on.
    #[must_use]
    pub fn or_listening_on(&self, address: SocketAddr) -> Url {
        self.0.clone().unwrap_or_else(|| {
            Url::parse(&format!("http://{address}/")).expect("an address makes a URL")
        })
    }
}

impl<'de> Deserialize<'de> for PublicUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self(None));
        }
        let url = Url::parse(&text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.query().is_none()
                && url.fragment().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        });
        let expected =
            "empty or an http or https URL without query, such as https://chat.example.com/";
        url.map(|url| Self(Some(url))).ok_or_else(|| wrong(expected))
    }
}

/// Where the database is.
#[derive(Clone, Debug)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for DatabaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let url = String::deserialize(deserializer)?;
        match DatabaseFile::parse(&url) {
            Some(_) => Ok(Self(url)),
            None => Err(wrong(DatabaseFile::EXPECTED)),
        }
    }
}

/// The HTTP status of a refusal (protocol, section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorStatus {
    /// The status that fits the refusal.
    Real,
    /// 200, for clients that read only the envelope.
    Always200,
}

impl<'de> Deserialize<'de> for ErrorStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "real" => Ok(Self::Real),
            "always_200" => Ok(Self::Always200),
            _ => Err(wrong("\"real\" or \"always_200\"")),
        }
    }
}

/// The form of a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl<'de> Deserialize<'de> for LogFormat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(wrong("\"text\" or \"json\"")),
        }
    }
}

/// Which events are logged.
#[derive(Clone, Debug)]
pub struct Filter(String);

impl Filter {
    /// The filter.
    #[must_use]
    pub fn env_filter(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match EnvFilter::builder().parse(&text) {
            Ok(_) => Ok(Self(text)),
            Err(_) => Err(wrong("a level or directives, such as \"info,chatserver::store=debug\"")),
        }
    }
}

/// Where the metrics are served.
#[derive(Clone, Copy, Debug)]
pub struct MetricsListen(pub Option<SocketAddr>);

impl<'de> Deserialize<'de> for MetricsListen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self(None));
        }
        let expected = "empty or an address and a port, such as 127.0.0.1:9464";
        text.parse().map(|address| Self(Some(address))).map_err(|_| wrong(expected))
    }
}

/// A list; in the environment, its entries are separated by commas.
#[derive(Clone, Debug)]
pub struct List<T>(pub Vec<T>);

impl<'de, T: FromStr<Err = &'static str>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Entries {
            Listed(Vec<String>),
            Separated(String),
        }
        let entries = match Entries::deserialize(deserializer) {
            Ok(Entries::Listed(entries)) => entries,
            Ok(Entries::Separated(text)) => {
                let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
                entries.map(str::to_owned).collect()
            }
            Err(_) => return Err(wrong("a list of texts")),
        };
        let entries = entries.iter().map(|entry| entry.parse()).collect::<Result<_, _>>();
        entries.map(Self).map_err(|expected| wrong(format!("a list, each entry {expected}")))
    }
}

/// An address or a network.
#[derive(Clone, Copy, Debug)]
pub struct Network(pub IpNet);

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let network = text.parse::<IpNet>().ok();
        let network = network.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        network.map(Self).ok_or("an address or a network, such as 127.0.0.1 or 10.0.0.0/8")
    }
}

/// An origin as a browser sends it (RFC 6454, section 7).
#[derive(Clone, Debug)]
pub struct AllowedOrigin(pub String);

impl FromStr for AllowedOrigin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let origin = Url::parse(text).map(|url| url.origin());
        match origin {
            Ok(origin @ Origin::Tuple(..)) if origin.ascii_serialization() == text => {
                Ok(Self(text.to_owned()))
            }
            _ => Err("an origin without a path, such as https://chat.example.com"),
        }
    }
}
