//! The key file: whether it is there, private, the service's own, and that of the database.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::Report;
use crate::config::Config;
use crate::domain::Parse as _;
use crate::key_file::{KeyFile, KeyFileError};
use crate::store::{DatabaseFile, DatabaseUrl, Registered, look_at_keys};

const NOT_THAT: &str =
    "put the key file of this database in its place, from its copy: another one opens no API key";

/// Looks at the key file. `registered` are the keys that the database records; `None` if it can't be read.
pub(super) fn look(config: &Config, registered: Option<&[Registered]>, report: &mut Report) {
    let file = config.key_file();
    match look_at_keys(&file, registered.unwrap_or_default()) {
        Ok(None) => missing(config, &file, registered.is_some(), report),
        Ok(Some(keys)) => {
            if let Some(advice) = of_another_user(config, &file) {
                let found = format!("{file} belongs to another user than the database");
                return report.problem("keyfile", found, &advice);
            }
            let keys = keys.iter().map(|(number, found)| format!("key {number} ({found})"));
            let keys = keys.collect::<Vec<_>>().join(", ");
            let compared = match registered {
                None => "; it is not compared with the database",
                Some([]) => "; the database records none yet",
                Some(_) => ", as the database records them",
            };
            report.ok("keyfile", format!("{file} has {keys}{compared}"));
        }
        Err(error @ (KeyFileError::Lacks { .. } | KeyFileError::Differs { .. })) => {
            report.problem("keyfile", error.to_string(), NOT_THAT);
        }
        Err(error @ KeyFileError::Unreadable { .. }) => {
            let advice =
                "run this as the user of the service, who must own the file, with mode 600";
            report.problem("keyfile", error.to_string(), advice);
        }
        // The sentences say what to do.
        Err(error) => report.problem("keyfile", error.to_string(), ""),
    }
}

fn missing(config: &Config, file: &KeyFile, is_known: bool, report: &mut Report) {
    let found = format!("there is no key file {file}");
    match &config.database.url {
        DatabaseUrl::Sqlite(_) if is_known => {
            report.ok("keyfile", format!("{found} yet; the first command that needs it makes it"));
        }
        DatabaseUrl::Sqlite(_) => {
            let found = format!("{found}, and the database can't be asked whether it needs one");
            report.note("keyfile", found, "look for a copy of it, if this version has run before");
        }
        DatabaseUrl::Postgres(_) => {
            report.note("keyfile", found, "make it once, and bring the same file to every node");
        }
    }
}

/// Returns the command that helps, if the file belongs to another user than the database file: its mode keeps the service
/// out, although root can read it.
fn of_another_user(config: &Config, file: &KeyFile) -> Option<String> {
    let DatabaseUrl::Sqlite(url) = &config.database.url else { return None };
    let database = DatabaseFile::parse(url)?;
    let owner = fs::metadata(database.path()).ok()?.uid();
    let found = fs::metadata(file.path()).ok()?.uid();
    let (database, file) = (database.path().display(), file.path().display());
    (owner != found).then(|| format!("run `chown --reference={database} {file}`"))
}
