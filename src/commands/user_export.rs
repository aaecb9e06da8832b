//! `chatserver user export`: writes all that is held about a user as one JSON object, piece by piece.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::failure::Refusal;
use super::output::Output;
use super::{Failed, Settings};
use crate::domain::UserId;
use crate::store::{self, Account, Paged, Store};
use crate::users::{self, UserError};

#[derive(Args)]
pub(crate) struct Export {
    /// The user: an e-mail address or a user id
    user: String,
    /// A file to create for the export, which only its owner may read; without it, the export goes to stdout
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

impl Export {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        let database = self.settings.open().await?;
        let exported = self.export(&database.store).await;
        database.close().await;
        match (exported?, &self.output) {
            (bytes, Some(file)) => {
                let file = file.display().to_string();
                let text =
                    format!("{file} holds all that is held about {}: {bytes} bytes", self.user);
                Output::new(text, json!({ "file": file, "bytes": bytes })).print(self.settings.json)
            }
            (_, None) => Ok(()),
        }
    }

    /// Writes the export. Returns its bytes.
    async fn export(&self, store: &Store) -> Result<u64, Failed> {
        let user = users::find(store, &self.user).await?.id;
        let account = store.exported_account(user).await?;
        let account = account.ok_or_else(|| UserError::NotFound(self.user.clone()))?;
        let Some(file) = &self.output else {
            return Writing::to(io::stdout()).write(store, user, &account).await;
        };
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
        let created = created.map_err(|error| refused(file, &error))?;
        let written = Writing::to(&created).write(store, user, &account).await;
        let written = match created.sync_all() {
            Err(error) if written.is_ok() => Err(error.into()),
            _ => written,
        };
        if written.is_err() {
            // Part of an export is no JSON. A file that can't be removed is one more reason for the same failure.
            drop(fs::remove_file(file));
        }
        written.map_err(|failed| match failed.downcast::<io::Error>() {
            Ok(error) => {
                let sentence = format!("{} can't be written: {error}", file.display());
                Refusal::with_code("failed", sentence)
            }
            Err(failed) => failed,
        })
    }
}

fn refused(file: &Path, error: &io::Error) -> Failed {
    let code = match error.kind() {
        io::ErrorKind::AlreadyExists => "already_exists",
        _ => "invalid_argument",
    };
    Refusal::with_code(code, format!("--output {} can't be created: {error}", file.display()))
}

/// An export on its way. Counts its bytes.
struct Writing<W: Write> {
    out: BufWriter<W>,
    bytes: u64,
}

impl<W: Write> Writing<W> {
    fn to(out: W) -> Self {
        Self { out: BufWriter::new(out), bytes: 0 }
    }

    async fn write(
        mut self,
        store: &Store,
        user: UserId,
        account: &Account,
    ) -> Result<u64, Failed> {
        self.open(account)?;
        self.put(",\"conversations\":[")?;
        let mut separator = "\n";
        for participation in store.participations(user).await? {
            // The conversation may have gone since it was listed.
            let Some(conversation) = store.exported_conversation(participation).await? else {
                continue;
            };
            self.put(separator)?;
            separator = ",\n";
            self.open(&conversation)?;
            let generation = conversation.generation;
            self.rows(async |after| store.exported_messages(generation, after).await).await?;
            self.rows(async |after| store.exported_reports(generation, after).await).await?;
            self.put("}")?;
        }
        self.put("]}\n")?;
        self.out.flush()?;
        Ok(self.bytes)
    }

    /// Writes an object up to its closing brace, so that more can follow.
    fn open(&mut self, object: &impl Serialize) -> Result<(), Failed> {
        let text = serde_json::to_string(object)?;
        self.put(text.strip_suffix('}').unwrap_or(&text))?;
        Ok(())
    }

    /// Writes all rows that `read` returns as a further field of the open object. `read` takes the sequence number of the
    /// last row so far.
    async fn rows<T: Paged>(
        &mut self,
        read: impl AsyncFn(i64) -> Result<Vec<T>, store::Error>,
    ) -> Result<(), Failed> {
        self.put(&format!(",\"{}\":[", T::NAME))?;
        let mut after = 0;
        let mut separator = "\n";
        loop {
            let rows = read(after).await?;
            let Some(last) = rows.last() else { break };
            after = last.seq();
            for row in &rows {
                self.put(separator)?;
                self.put(&serde_json::to_string(row)?)?;
                separator = ",\n";
            }
        }
        self.put("]")?;
        Ok(())
    }

    fn put(&mut self, text: &str) -> io::Result<()> {
        self.bytes += text.len() as u64;
        self.out.write_all(text.as_bytes())
    }
}
