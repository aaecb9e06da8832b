//! `chatserver copy`: moves a server's data to another database.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, json};

use super::backup::unless_stopped;
use super::failure::Refusal;
use super::output::Output;
use super::{Failed, Settings};
use crate::domain::Parse as _;
use crate::store::{self, CopyProgress, DatabaseUrl};

#[derive(Args)]
pub(crate) struct Copy {
    /// The database to copy: sqlite:// and the path of a file, or the postgres:// URL of a database
    #[arg(long, value_name = "URL")]
    from: String,
    /// The database to fill, which must be empty. A file is created, and so are the tables
    #[arg(long, value_name = "URL")]
    to: String,
    /// A TOML file with settings, see config/default.toml: the password of a postgres:// URL without one is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object on stdout, and failures as one on stderr
    #[arg(long)]
    json: bool,
}

impl Copy {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        let Self { from, to, config, json } = self;
        let config = Settings { config, database_url: None, json }.load(&[])?;
        let from = config.database.add_password(&parse("--from", &from)?)?;
        let to = config.database.add_password(&parse("--to", &to)?)?;
        let key_file = config.auth.key_file().or_else(|| to.key_file()).ok_or_else(|| {
            let sentence = "auth.key_file must be set for a PostgreSQL database: the path of its key file, which the \
                            copy makes if it does not exist and --from has one beside it";
            Refusal::with_code("invalid_settings", sentence)
        })?;
        let tell = |CopyProgress { done, rows, total }| {
            if !json {
                // A closed stderr must not fail the copy.
                drop(writeln!(io::stderr(), "{done} {rows} of {total} rows"));
            }
        };
        let copied = unless_stopped(store::copy(&from, &to, &key_file, tell)).await?;
        let rows: u64 = copied.tables.iter().map(|(_, rows, _)| rows).sum();
        let text = format!(
            "{to} is a copy of {from}: {rows} rows in {} tables, {} of them copied now, all verified",
            copied.tables.len(),
            copied.added
        );
        let tables = copied.tables.into_iter().map(|(name, rows, digest)| {
            (name.to_owned(), json!({ "rows": rows, "sha256": digest }))
        });
        let object = json!({
            "from": from.to_string(),
            "to": to.to_string(),
            "rows": rows,
            "copied": copied.added,
            "tables": tables.collect::<Map<_, _>>(),
        });
        Output::new(text, object).print_after_change(json)
    }
}

/// Parses the URL of a flag. Does not repeat it in a refusal: it may hold a password.
fn parse(flag: &str, url: &str) -> Result<DatabaseUrl, Failed> {
    DatabaseUrl::parse(url).ok_or_else(|| {
        let mut sentence = format!("{flag} must be {}", DatabaseUrl::EXPECTED);
        if let Some(objection) = DatabaseUrl::objection(url) {
            sentence = format!("{sentence}; {objection}");
        }
        Refusal::argument(sentence)
    })
}
