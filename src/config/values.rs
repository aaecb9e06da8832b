//! Types of settings: which values each setting may have.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Deserializer};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt as _, FilterFn, LevelFilter};
use tracing_subscriber::{EnvFilter, layer};
use url::{Host, Url};

use crate::domain::{Email, Parse};

fn wrong<E: serde::de::Error>(expected: impl fmt::Display) -> E {
    E::custom(format!("must be {expected}"))
}

/// Deserializes a setting whose text has a form of its own, by its [`Parse`].
pub(super) fn parsed<'de, D: Deserializer<'de>, T: Parse>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer).map_err(|_| wrong(T::EXPECTED))?;
    T::parse(&text).ok_or_else(|| wrong(T::expected_of(&text)))
}

/// The socket that serves the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    Address(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// The socket that systemd passes to the process.
    Systemd,
}

/// Begins the value of a [`Listen::Unix`].
pub(crate) const UNIX: &str = "unix:";

impl Parse for Listen {
    const EXPECTED: &'static str = "an address and a port, such as 127.0.0.1:8080, or unix: and an absolute path, such as unix:/run/chatserver/chatserver.sock, or systemd";

    fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix(UNIX) {
            Some(path) => absolute(path).map(Self::Unix),
            None if text == "systemd" => Some(Self::Systemd),
            None => text.parse().ok().map(Self::Address),
        }
    }
}

impl Listen {
    /// Whether two sockets can't be open at the same time. Each port 0 is another one.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Address(one), Self::Address(other)) => {
                let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
                (is_any || one.ip() == other.ip()) && one.port() == other.port() && one.port() != 0
            }
            (Self::Unix(one), Self::Unix(other)) => one == other,
            _ => false,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "{UNIX}{}", path.display()),
            Self::Systemd => formatter.write_str("systemd"),
        }
    }
}

/// Returns the path of a text that is an absolute path of a file.
fn absolute(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    let is_file = path.is_absolute() && path.file_name().is_some() && !text.ends_with('/');
    (is_file && !text.contains(char::is_control)).then(|| path.to_owned())
}

/// The path of a file or a folder, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OptionalPath(pub(crate) Option<PathBuf>);

impl Parse for OptionalPath {
    const EXPECTED: &'static str = "empty or an absolute path, such as /etc/chatserver/name";

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(None));
        }
        absolute(text).map(|path| Self(Some(path)))
    }
}

/// A domain name that a certificate may be for, in lower case.
#[derive(Clone, Debug)]
pub(crate) struct DomainName(pub(crate) String);

impl Parse for DomainName {
    const EXPECTED: &'static str = "a domain name in lower case, such as chat.example.com";

    fn parse(text: &str) -> Option<Self> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        let has_labels = text.split('.').all(|label| (1..=63).contains(&label.len()));
        let is_domain = matches!(Host::parse(text), Ok(Host::Domain(_)));
        let fits = text.len() <= 253 && text.chars().all(is_plain) && has_labels;
        (is_domain && fits).then(|| Self(text.to_owned()))
    }
}

/// The e-mail address of an operator, or none.
#[derive(Clone, Debug)]
pub(crate) struct Contact(pub(crate) Option<String>);

impl Parse for Contact {
    const EXPECTED: &'static str = "empty or an e-mail address, such as admin@example.com";

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(None));
        }
        Email::parse(text).map(|email| Self(Some(email.to_string())))
    }
}

/// The https URL of the directory of an ACME server.
#[derive(Clone, Debug)]
pub(crate) struct DirectoryUrl(pub(crate) Url);

impl Parse for DirectoryUrl {
    const EXPECTED: &'static str =
        "an https URL, such as https://acme-v02.api.letsencrypt.org/directory";

    fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let fits = url.scheme() == "https" && url.has_host() && url.username().is_empty();
        (fits && url.password().is_none()).then_some(Self(url))
    }
}

/// A whole number within bounds, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounded<const LEAST: u32, const MOST: u32>(u32);

impl<const LEAST: u32, const MOST: u32> Bounded<LEAST, MOST> {
    pub(crate) fn get(self) -> u32 {
        self.0
    }

    pub(crate) fn size(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<'de, const LEAST: u32, const MOST: u32> Deserialize<'de> for Bounded<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        whole_number(deserializer)
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| (LEAST..=MOST).contains(number))
            .map(Self)
            .ok_or_else(|| wrong(format!("a whole number from {LEAST} to {MOST}")))
    }
}

/// Reads a whole number, written as a number or as text, because the environment holds only text. Returns `None` for
/// 1.5 and `true`, which the layers of the configuration would convert.
fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Option<u64> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Number(i64),
        Text(String),
    }
    match Number::deserialize(deserializer).ok()? {
        Number::Number(number) => number.try_into().ok(),
        // Unsigned: text such as `-0` is refused.
        Number::Text(text) => text.parse().ok(),
    }
}

/// Maximum bytes that a setting may hold: an exabyte, more than any disk has.
const MOST_STORED: u64 = 1_000_000_000_000_000_000;

/// Bytes of stored data; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredBytes(u64);

impl StoredBytes {
    pub(crate) fn get(self) -> u64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for StoredBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        whole_number(deserializer)
            .filter(|bytes| *bytes <= MOST_STORED)
            .map(Self)
            .ok_or_else(|| wrong(format!("a whole number from 0 to {MOST_STORED}")))
    }
}

/// Seconds, at most 3600.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Seconds<const LEAST: u32>(Bounded<LEAST, 3600>);

impl<const LEAST: u32> Seconds<LEAST> {
    pub(crate) fn duration(self) -> Duration {
        Duration::from_secs(self.0.get().into())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Switch(bool);

impl Switch {
    pub(crate) fn is_on(self) -> bool {
        self.0
    }
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The environment holds only text.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Position {
            Switch(bool),
            Text(String),
        }
        let position = match Position::deserialize(deserializer) {
            Ok(Position::Switch(is_on)) => Some(is_on),
            Ok(Position::Text(text)) => text.parse().ok(),
            Err(_) => None,
        };
        position.map(Self).ok_or_else(|| wrong("true or false"))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct PublicUrl(Option<Url>);

impl PublicUrl {
    /// Returns the URL that is set.
    pub(super) fn get(&self) -> Option<&Url> {
        self.0.as_ref()
    }
}

impl Parse for PublicUrl {
    const EXPECTED: &'static str = "empty or an http or https URL without query whose path ends in / or /index.php, such as https://chat.example.com/";

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(None));
        }
        let url = Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && (url.path().ends_with('/') || url.path().ends_with("/index.php"))
                && url.query().is_none()
                && url.fragment().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        });
        url.map(|url| Self(Some(url)))
    }
}

/// The HTTP status of a refusal (docs/protocol.md#answers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorStatus {
    /// The status that fits the refusal.
    Real,
    /// 200, for clients that read only the envelope.
    Always200,
}

impl Parse for ErrorStatus {
    const EXPECTED: &'static str = "\"real\" or \"always_200\"";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "real" => Some(Self::Real),
            "always_200" => Some(Self::Always200),
            _ => None,
        }
    }
}

/// Whether people can register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Registration {
    /// With an invitation.
    Invite,
    /// Not at all.
    Closed,
}

impl Parse for Registration {
    const EXPECTED: &'static str = "\"invite\" or \"closed\"";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "invite" => Some(Self::Invite),
            "closed" => Some(Self::Closed),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl Parse for LogFormat {
    const EXPECTED: &'static str = "\"text\" or \"json\"";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// Which events are logged.
#[derive(Clone, Debug)]
pub(crate) struct Filter(String);

impl Filter {
    /// No directive can let through the events of libraries that carry secrets.
    pub(crate) fn layer_filter<S: Subscriber>(&self) -> impl layer::Filter<S> + use<S> {
        let secrets = FilterFn::new(keeps_secrets).with_max_level_hint(LevelFilter::TRACE);
        EnvFilter::new(&self.0).and(secrets)
    }
}

/// Returns whether an event can hold no frame, header or bound value. WebSocket libraries log whole frames, with
/// station IDs and signatures. At `trace` any library may log the bytes that it handles.
fn keeps_secrets(metadata: &Metadata<'_>) -> bool {
    match metadata.target().split("::").next().unwrap_or_default() {
        "chatserver" => true,
        "tungstenite" | "tokio_tungstenite" => false,
        _ => *metadata.level() <= Level::DEBUG,
    }
}

impl Parse for Filter {
    const EXPECTED: &'static str =
        "a level or directives, such as \"info,chatserver::store=debug\"";

    fn parse(text: &str) -> Option<Self> {
        // A bare word that is no level would be read as the name of a module, and turn everything else off.
        let has_level = |directive: &str| {
            let level = directive.rsplit('=').next().unwrap_or_default();
            level.trim().parse::<LevelFilter>().is_ok() && !level.trim().is_empty()
        };
        let well_formed =
            text.split(',').all(has_level) && EnvFilter::builder().parse(text).is_ok();
        well_formed.then(|| Self(text.to_owned()))
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct MetricsListen(pub(crate) Option<SocketAddr>);

impl Parse for MetricsListen {
    const EXPECTED: &'static str = "empty or an address and a port, such as 127.0.0.1:9464";

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(None));
        }
        text.parse().ok().map(|address| Self(Some(address)))
    }
}

/// A list; in the environment, its entries are separated by commas.
#[derive(Clone, Debug)]
pub struct List<T>(pub Vec<T>);

impl<'de, T: Parse> Deserialize<'de> for List<T> {
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
            Err(_) => Vec::from([String::new()]),
        };
        let entries = entries.iter().map(|entry| T::parse(entry)).collect::<Option<_>>();
        entries.map(Self).ok_or_else(|| wrong(format!("a list, each entry {}", T::EXPECTED)))
    }
}

/// A network of client addresses. A single address is a network of one.
#[derive(Clone, Copy, Debug)]
pub struct Network(pub(crate) IpNet);

impl Parse for Network {
    const EXPECTED: &'static str = "an address or a network, such as 127.0.0.1 or 10.0.0.0/8";

    fn parse(text: &str) -> Option<Self> {
        let network = text.parse::<IpNet>().ok();
        let network = network.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
        Some(Self(canonical(network)))
    }
}

/// Converts IPv4 networks that are written as IPv6 (`::ffff:10.0.0.0/104`) to IPv4, because addresses of clients are
/// compared in that form.
fn canonical(network: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    let IpNet::V6(v6) = network else { return network };
    let length = v6.prefix_len().checked_sub(MAPPED);
    let v4 = v6.addr().to_ipv4_mapped().zip(length);
    v4.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(network, IpNet::V4)
}

/// An origin as a browser sends it (RFC 6454, section 7).
#[derive(Clone, Debug)]
pub(crate) struct AllowedOrigin(pub(crate) String);

impl Parse for AllowedOrigin {
    const EXPECTED: &'static str = "an origin without a path, such as https://chat.example.com";

    fn parse(text: &str) -> Option<Self> {
        let origin = Url::parse(text).ok()?.origin();
        let is_whole = origin.is_tuple() && origin.ascii_serialization() == text;
        is_whole.then(|| Self(text.to_owned()))
    }
}
