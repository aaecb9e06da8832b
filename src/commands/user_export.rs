//! `chatserver user export`: writes all that is held about a user as one JSON object.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::failure::Refusal;
use super::output::Output;
use super::{Failed, Settings};
use crate::export;
use crate::store::Store;

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
        let export = export::Export::begin(store, &self.user).await?;
        let Some(file) = &self.output else { return write(export, store, io::stdout()).await };
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
        let created = created.map_err(|error| refused(file, &error))?;
        let written = write(export, store, &created).await;
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

/// Writes an export. Returns its bytes.
async fn write(mut export: export::Export, store: &Store, out: impl Write) -> Result<u64, Failed> {
    let (mut out, mut bytes) = (BufWriter::new(out), 0);
    while let Some(piece) = export.next(store).await? {
        out.write_all(piece.as_bytes())?;
        bytes += piece.len() as u64;
    }
    out.flush()?;
    Ok(bytes)
}
