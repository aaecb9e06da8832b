//! Settings in four layers, each overriding the one before: `config/default.toml`, a file, the environment, the command
//! line.
//!
//! `config/default.toml` is the reference: it explains each setting, and a setting that it lacks does not exist.

mod admin;
mod database;
mod http;
mod layers;
mod values;

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::domain::Timestamp;
use crate::key_file::KeyFile;
use crate::store::DatabaseUrl;
use admin::Admin;

use database::Database;
pub use http::Http;
pub(crate) use layers::{Effective, Layers};
use values::parsed;
pub(crate) use values::{
    AllowedOrigin, Bounded, ErrorStatus, Filter, Listen, LogFormat, Network, OptionalPath,
    Registration, Seconds, StoredBytes, Switch, UNIX,
};

/// Every setting with its default and a comment.
pub const DEFAULT: &str = include_str!("../config/default.toml");

/// Maximum of `auth.clock_skew_seconds`. Signatures of changes are kept for as long as any value of that setting could
/// make them acceptable again.
pub(crate) const MAX_CLOCK_SKEW_SECONDS: u32 = 900;

/// Maximum of `retention.days` and `audit.days`: a century.
pub(crate) const MAX_RETENTION_DAYS: u32 = 36_500;

const DAY_SECONDS: i64 = 24 * 60 * 60;

/// An unknown or wrong setting, with its name, its value and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read, or is not TOML.
    #[error("the settings in {} can't be read: {problem}", path.display())]
    Unreadable {
        /// The settings file.
        path: PathBuf,
        /// Why, with line and column where it is not TOML.
        problem: String,
    },
    /// No setting has this name. The value is not shown: it may be a secret of another program.
    #[error("{name}: there is no such setting")]
    Unknown {
        /// The name that was given.
        name: String,
    },
    /// The file of `database.password_file` can't be read, or holds no password.
    #[error("the file of database.password_file, {}, can't be used: {problem}", path.display())]
    Password {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// A setting has a value outside its type or bounds.
    #[error("{name} = {value}: {problem}")]
    Wrong {
        /// The setting's name.
        name: String,
        /// The value that was given, unless it may hold a secret.
        value: String,
        /// The problem, and the form that was expected.
        problem: String,
    },
}

/// All settings, read and checked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Addresses, origins, listeners and timeouts.
    pub http: Http,
    pub(crate) admin: Admin,
    pub(crate) database: Database,
    pub(crate) auth: Auth,
    pub(crate) presence: Presence,
    pub(crate) retention: Retention,
    pub(crate) audit: Audit,
    pub(crate) limits: Limits,
    pub(crate) log: Log,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Auth {
    #[serde(deserialize_with = "parsed")]
    key_file: OptionalPath,
    pub(crate) clock_skew_seconds: Bounded<1, MAX_CLOCK_SKEW_SECONDS>,
    pub(crate) unsigned_notifications: Switch,
    #[serde(deserialize_with = "parsed")]
    pub(crate) registration: Registration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Presence {
    pub(crate) timeout_seconds: Seconds<1>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retention {
    pub(crate) days: Bounded<0, MAX_RETENTION_DAYS>,
    pub(crate) valid_until: Switch,
}

impl Retention {
    pub(crate) fn rule(&self) -> crate::domain::Retention {
        crate::domain::Retention {
            days: self.days.get(),
            honours_valid_until: self.valid_until.is_on(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Audit {
    days: Bounded<0, MAX_RETENTION_DAYS>,
}

impl Audit {
    /// Returns the date of the oldest entries that are kept; `None` if all are.
    pub(crate) fn oldest(&self, now: Timestamp) -> Option<Timestamp> {
        let days = i64::from(self.days.get());
        Timestamp::from_unix(now.unix() - days * DAY_SECONDS).filter(|_| days > 0)
    }
}

/// The section `[limits]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub(crate) connections: Bounded<1, 1_000_000>,
    pub(crate) connections_per_address: Bounded<0, 1_000_000>,
    pub(crate) buffered_bytes: Bounded<16_777_216, 4_294_967_295>,
    pub(crate) body_bytes: Bounded<1024, 16_777_216>,
    pub(crate) message_bytes: Bounded<1, 8_388_608>,
    pub(crate) download_messages: Bounded<2, 100_000>,
    pub(crate) download_bytes: Bounded<1024, 16_777_216>,
    pub(crate) conversation_bytes: StoredBytes,
    pub(crate) friends: Bounded<0, 1_000_000>,
    pub(crate) disk_reserve_bytes: StoredBytes,
    pub(crate) stations_per_user: Bounded<1, 1000>,
    pub(crate) failures_per_minute: Bounded<0, 1_000_000>,
    pub(crate) requests_per_second: Bounded<0, 1_000_000>,
    pub(crate) requests_burst: Bounded<1, 1_000_000>,
}

impl Limits {
    pub(crate) fn of_store(&self) -> crate::domain::Limits {
        crate::domain::Limits {
            conversation_bytes: self.conversation_bytes.get(),
            friends: self.friends.get(),
            disk_reserve_bytes: self.disk_reserve_bytes.get(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Log {
    #[serde(deserialize_with = "parsed")]
    pub(crate) format: LogFormat,
    #[serde(deserialize_with = "parsed")]
    pub(crate) filter: Filter,
}

impl Log {
    pub(crate) fn is_json(&self) -> bool {
        self.format == LogFormat::Json
    }
}

impl Config {
    /// Reads all layers and validates the result.
    ///
    /// Reads the variables of `environment` that begin with `CHATSERVER_` and contain `__`, and ignores the others.
    /// `flags` are names and values from the command line.
    ///
    /// # Errors
    ///
    /// [`Error`] names the setting, its value and what was expected.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(&str, &str)],
    ) -> Result<Self, Error> {
        Layers::read(file, environment, flags)?.config()
    }

    /// Returns the key file of the database.
    pub(crate) fn key_file(&self) -> KeyFile {
        let of_setting = self.auth.key_file().or_else(|| self.database.url.key_file());
        of_setting.expect("the settings of a PostgreSQL database name a key file")
    }
}

impl Auth {
    /// Returns the file of `auth.key_file`, if that is set.
    pub(crate) fn key_file(&self) -> Option<KeyFile> {
        self.key_file.0.as_ref().map(KeyFile::at)
    }

    /// Refuses a PostgreSQL database without a key file: there is no folder beside the database.
    fn agree(&self, database: &DatabaseUrl) -> Result<(), Error> {
        if self.key_file.0.is_some() || database.key_file().is_some() {
            return Ok(());
        }
        let problem = "must be set for a PostgreSQL database: the path of a file that is the same on every node";
        let (name, value) = ("auth.key_file".to_owned(), "\"\"".to_owned());
        Err(Error::Wrong { name, value, problem: problem.to_owned() })
    }
}

impl Limits {
    /// Refuses `message_bytes` above `body_bytes`: no message could reach that bound.
    fn agree(&self) -> Result<(), Error> {
        let (message, body) = (self.message_bytes.get(), self.body_bytes.get());
        if message > body {
            return Err(Error::Wrong {
                name: "limits.message_bytes".to_owned(),
                value: message.to_string(),
                problem: format!(
                    "must not exceed limits.body_bytes = {body}: a body carries the message"
                ),
            });
        }
        Ok(())
    }
}
