//! `chatserver keys`: shows, replaces and drops the keys that seal the API keys in the database.

use std::io::{self, Write as _};

use clap::{Args, Subcommand};
use serde_json::json;

use super::backup::unless_stopped;
use super::failure::Refusal;
use super::output::Output;
use super::{Database, Failed, Settings};
use crate::key_file::{Secret, Secrets};
use crate::store::{DatabaseUrl, Sealing, StillNeeded, Store, WriteError};

#[derive(Subcommand)]
pub(crate) enum Keys {
    /// Show the keys of the key file and of the database by their fingerprints, and what is sealed with each
    #[command(after_help = "\
Example:
  chatserver keys status --config chat.toml")]
    Status(Settings),
    /// Seal all API keys with a new key of the key file, while servers run
    #[command(after_help = "\
Example:
  chatserver keys rotate --config chat.toml
With PostgreSQL, every node needs the new key first:
  chatserver keys rotate --add-only    adds the key to the file; copy the file to every node
  chatserver keys rotate               then seals with it
Run it again if it was interrupted: it goes on.")]
    Rotate(Rotate),
    /// Remove a key that no API key is sealed with from the key file; backups that are sealed with it become useless
    #[command(after_help = "\
Example:
  chatserver keys drop 1 --config chat.toml")]
    Drop(Drop),
}

#[derive(Args)]
pub(crate) struct Rotate {
    /// Only add a key to the key file
    #[arg(long)]
    add_only: bool,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args)]
pub(crate) struct Drop {
    /// The number of the key, as `keys status` shows it
    number: i64,
    #[command(flatten)]
    settings: Settings,
}

impl Keys {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        match self {
            Self::Status(settings) => status(&settings).await,
            Self::Rotate(rotate) => rotate.run().await,
            Self::Drop(drop) => drop.run().await,
        }
    }
}

async fn status(settings: &Settings) -> Result<(), Failed> {
    let database = settings.open().await?;
    let sealing = database.store.sealing().await;
    let file = database.store.keys().file().to_string();
    let keys = database.store.keys().fingerprints();
    database.close().await;
    let sealing = sealing?;
    let (current, in_clear) = (sealing.current(), sealing.users(0));
    let mut lines = vec![format!("key file {file}")];
    let mut shown = Vec::new();
    for (number, fingerprint) in &keys {
        let users = sealing.users(*number);
        let is_current = *number == current;
        let mark = if is_current { ", seals new API keys" } else { "" };
        lines.push(format!("key {number} ({fingerprint}): API keys of {users} users{mark}"));
        shown.push(json!({
            "number": number, "fingerprint": fingerprint, "users": users, "current": is_current,
        }));
    }
    if in_clear > 0 || current == 0 {
        let of = format!("in clear: API keys of {in_clear} users");
        lines.push(format!("{of}; `chatserver keys rotate` seals them"));
    }
    let json = json!({ "file": file, "keys": shown, "inclear": in_clear });
    Output::new(lines.join("\n"), json).print(settings.json)
}

impl Rotate {
    async fn run(self) -> Result<(), Failed> {
        let database = self.settings.open().await?;
        let rotated = unless_stopped(self.rotate(&database)).await;
        database.close().await;
        rotated?.print_after_change(self.settings.json)
    }

    async fn rotate(&self, database: &Database) -> Result<Output, Failed> {
        let store = &database.store;
        let sealing = store.sealing().await?;
        if self.add_only {
            let (number, fingerprint) = add_key(store, &sealing)?;
            let file = store.keys().file();
            let text = format!(
                "key {number} ({fingerprint}) is in {file}: copy the file to every node, then run `chatserver keys rotate{}`",
                self.settings.as_flags()
            );
            let json = json!({ "file": file.to_string(), "number": number, "fingerprint": fingerprint, "sealed": 0 });
            return Ok(Output::new(text, json));
        }
        let (number, fingerprint) = self.next_key(database, &sealing)?;
        store.activate_key(number, &fingerprint).await?;
        let sealed = self.seal(store).await?;
        store.remove_clear_keys().await?;
        let file = store.keys().file();
        let text =
            format!("{sealed} API keys are sealed with key {number} ({fingerprint}) of {file}");
        let json = json!({ "file": file.to_string(), "number": number, "fingerprint": fingerprint, "sealed": sealed });
        Ok(Output::new(text, json))
    }

    /// Returns the key to seal with: that of an interrupted rotation, one that was added before, or a new one.
    fn next_key(&self, database: &Database, sealing: &Sealing) -> Result<(i64, String), Failed> {
        let (current, newest) = (sealing.current(), database.store.keys().newest());
        let is_unfinished = sealing.is_unfinished();
        if newest.0 > current || is_unfinished {
            return Ok(newest);
        }
        if let DatabaseUrl::Postgres(_) = &database.url {
            let flags = self.settings.as_flags();
            return Err(Refusal::with_code(
                "no_new_key",
                format!(
                    "the key file has no key after key {current}, and a new one would be unknown to the nodes: run \
                     `chatserver keys rotate --add-only{flags}`, copy the file to every node, and run this again"
                ),
            ));
        }
        add_key(&database.store, sealing)
    }

    /// Seals in small steps, between which clients are served.
    async fn seal(&self, store: &Store) -> Result<usize, Failed> {
        let mut sealed = 0;
        loop {
            match store.seal_step().await? {
                0 => return Ok(sealed),
                step => sealed += step,
            }
            if !self.settings.json {
                // A closed stderr must not end the rotation.
                drop(writeln!(io::stderr(), "sealed {sealed} API keys"));
            }
        }
    }
}

/// Adds a key to the file. Its number is above all that the file or the database has had.
fn add_key(store: &Store, sealing: &Sealing) -> Result<(i64, String), Failed> {
    let of_database = sealing.registered.iter().map(|key| key.number).max().unwrap_or(0);
    let mut secrets = secrets(store)?;
    let of_file = secrets.keys().max().copied().unwrap_or(0);
    secrets.insert(of_file.max(of_database) + 1, Secret::generate());
    store.keys().file().replace(&secrets)?;
    store.keys().reload();
    Ok(store.keys().newest())
}

/// Reads the key file once more, to write it with another key.
fn secrets(store: &Store) -> Result<Secrets, Failed> {
    let file = store.keys().file();
    let secrets = file.read()?;
    secrets
        .ok_or_else(|| Refusal::with_code("key_file", format!("the key file {file} has vanished")))
}

impl Drop {
    async fn run(self) -> Result<(), Failed> {
        let database = self.settings.open().await?;
        let dropped = self.drop(&database.store).await;
        database.close().await;
        let file = dropped?;
        let number = self.number;
        let text = format!(
            "key {number} is dropped from {file}. On other nodes, put this file in the place of theirs. A backup that is \
             sealed with key {number} needs a copy of the file that still has it"
        );
        let json = json!({ "file": file, "number": number });
        Output::new(text, json).print_after_change(self.settings.json)
    }

    /// Forgets the key in the database first: a key that only the file has does no harm.
    async fn drop(&self, store: &Store) -> Result<String, Failed> {
        let number = self.number;
        let mut secrets = secrets(store)?;
        let file = store.keys().file();
        if secrets.remove(&number).is_none() {
            let sentence = format!("the key file {file} has no key {number}");
            return Err(Refusal::with_code("not_found", sentence));
        }
        let needed = |why| Refusal::with_code("in_use", format!("key {number} is needed: {why}"));
        match store.forget_key(number).await {
            Ok(_) => {}
            Err(WriteError::Refused(StillNeeded::IsCurrent)) => {
                return Err(needed("new API keys are sealed with it".to_owned()));
            }
            Err(WriteError::Refused(StillNeeded::By(users))) => {
                let why = format!(
                    "the API keys of {users} users are sealed with it; `chatserver keys rotate` goes on"
                );
                return Err(needed(why));
            }
            Err(WriteError::Failed(error)) => return Err(error.into()),
        }
        file.replace(&secrets)?;
        Ok(file.to_string())
    }
}
