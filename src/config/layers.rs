//! The layers of settings: which one has set each value.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use toml::{Table, Value, de};

use super::{Config, DEFAULT, Error};
use crate::bounded;

/// Prefix of environment variables that are settings. They also contain [`LEVEL`].
const PREFIX: &str = "CHATSERVER_";

/// Maximum bytes of a settings file.
const FILE_BYTES: u64 = 1024 * 1024;

/// Separator between section and name of a setting in an environment variable.
const LEVEL: &str = "__";

/// The value of each setting, from the highest layer that sets it.
pub(crate) struct Layers {
    values: Table,
    /// The layer of each setting that has not its default.
    sources: BTreeMap<String, Source>,
}

/// A layer above the defaults.
#[derive(Clone)]
enum Source {
    File(PathBuf),
    /// The variable with this name.
    Environment(String),
    CommandLine,
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(formatter, "file {}", path.display()),
            Self::Environment(variable) => write!(formatter, "environment {variable}"),
            Self::CommandLine => formatter.write_str("command line"),
        }
    }
}

/// A setting as it holds.
pub(crate) struct Effective {
    pub(crate) name: String,
    /// Its value on one line, with passwords left out.
    pub(crate) value: String,
    /// Its layer: `default`, `file PATH`, `environment VARIABLE` or `command line`.
    pub(crate) source: String,
}

impl Layers {
    /// Reads all layers, see [`Config::load`]. Values are not validated yet.
    pub(crate) fn read(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(&str, &str)],
    ) -> Result<Self, Error> {
        let values = DEFAULT.parse().expect("the defaults are TOML");
        let mut layers = Self { values, sources: BTreeMap::new() };
        if let Some(file) = file {
            layers.add_file(file)?;
        }
        for (variable, value) in environment {
            let setting = variable.strip_prefix(PREFIX).filter(|rest| rest.contains(LEVEL));
            let setting = setting.map(|setting| setting.to_lowercase().replace(LEVEL, "."));
            if let Some(setting) = setting {
                layers.set(&setting, Value::String(value), Source::Environment(variable))?;
            }
        }
        for (name, value) in flags {
            layers.set(name, Value::String((*value).to_owned()), Source::CommandLine)?;
        }
        Ok(layers)
    }

    fn add_file(&mut self, path: &Path) -> Result<(), Error> {
        let unreadable = |problem| Error::Unreadable { path: path.to_owned(), problem };
        let text = File::open(path).and_then(|file| bounded::read_text(file, FILE_BYTES));
        let text = text.map_err(|error| unreadable(error.to_string()))?;
        let file: Table = text.parse().map_err(|error| unreadable(located(&text, &error)))?;
        for (section, value) in file {
            let settings = match value {
                Value::Table(settings)
                    if self.values.contains_key(&section) || !settings.is_empty() =>
                {
                    settings
                }
                _ => return Err(Error::Unknown { name: section }),
            };
            for (name, value) in settings {
                let source = Source::File(path.to_owned());
                self.set(&format!("{section}.{name}"), value, source)?;
            }
        }
        Ok(())
    }

    /// Overrides a setting. Names that the defaults lack are [`Error::Unknown`].
    fn set(&mut self, name: &str, value: Value, source: Source) -> Result<(), Error> {
        match self.setting(name) {
            Some(setting) => *setting = value,
            None => return Err(Error::Unknown { name: name.to_owned() }),
        }
        self.sources.insert(name.to_owned(), source);
        Ok(())
    }

    fn setting(&mut self, name: &str) -> Option<&mut Value> {
        let (section, name) = name.split_once('.')?;
        self.values.get_mut(section)?.as_table_mut()?.get_mut(name)
    }

    /// Validates the values.
    pub(crate) fn config(&mut self) -> Result<Config, Error> {
        let config: Config =
            serde_path_to_error::deserialize(self.values.clone()).map_err(|error| {
                // A wrong entry of a list is reported as the whole list.
                let name = error.path().to_string();
                let name = name.split('[').next().unwrap_or_default().to_owned();
                let value = match self.setting(&name) {
                    Some(_) if name == "database.password" => NOT_SHOWN.to_owned(),
                    Some(value) => shown(value),
                    None => String::new(),
                };
                Error::Wrong { name, value, problem: error.into_inner().message().to_owned() }
            })?;
        config.database.agree()?;
        config.auth.agree(&config.database.url)?;
        config.http.agree()?;
        config.admin.agree(&config.http)?;
        config.limits.agree()?;
        Ok(config)
    }

    /// Returns all settings in the order of their names. `config` has been made of them.
    pub(crate) fn effective(&self, config: &Config) -> Vec<Effective> {
        let sections = self.values.iter();
        let settings = sections.flat_map(|(section, settings)| {
            let settings = settings.as_table().into_iter().flatten();
            settings.map(move |(name, value)| (format!("{section}.{name}"), value))
        });
        let effective = settings.map(|(name, value)| {
            let value = match name.as_str() {
                "database.url" => config.database.url.to_string(),
                "database.password" if value.as_str() != Some("") => NOT_SHOWN.to_owned(),
                _ => plain(value),
            };
            let source = self.sources.get(&name);
            let source = source.map_or_else(|| "default".to_owned(), Source::to_string);
            Effective { name, value, source }
        });
        effective.collect()
    }
}

/// Formats a valid value on one line.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() => text.clone(),
        other => written(other),
    }
}

/// Describes a TOML error with its line and column. The file's lines are not shown: they may hold a secret.
fn located(text: &str, error: &de::Error) -> String {
    let Some(span) = error.span() else { return error.message().to_owned() };
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{} at line {line} column {column}", error.message())
}

/// Formats a value on one line, unless it may hold a secret: a user and a password before the host of a URL, even of a
/// malformed one, or an access token.
fn shown(value: &Value) -> String {
    let text = written(value);
    let lower = text.to_lowercase();
    if ["@", "pass", "pwd", "secret", "token", "key", "postgres"]
        .iter()
        .any(|sign| lower.contains(sign))
    {
        return NOT_SHOWN.to_owned();
    }
    text
}

pub(super) const NOT_SHOWN: &str = "(not shown)";

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
