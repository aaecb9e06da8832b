//! `chatserver backup`, which also verifies backups, and `chatserver restore`.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::failure::{self, Refusal};
use super::output::Output;
use super::{Failed, Settings, in_shell};
use crate::clock::Clock;
use crate::shutdown::{Hangup, Signals};
use crate::store::{self, Progress, UndoneChanges};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Backup {
    #[command(subcommand)]
    command: Option<BackupCommand>,
    /// The backup file to create; it must not exist yet
    #[arg(required = true)]
    file: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
enum BackupCommand {
    /// Check a whole backup and count its contents
    #[command(after_help = "\
Example:
  chatserver backup verify /var/backups/chat.db
To make a backup that is named verify, write ./verify.")]
    Verify(Verify),
}

#[derive(Args)]
pub(crate) struct Verify {
    /// The backup file
    file: PathBuf,
    /// Print one JSON object on stdout, and failures as one on stderr
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct Restore {
    /// The backup file
    file: PathBuf,
    /// Replace an existing database
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Tools that back a PostgreSQL database up and restore it.
const OF_POSTGRES: &str = "Back it up and restore it with PostgreSQL's own tools: pg_dump and pg_restore, or a base backup with \
     archived WAL for point-in-time recovery";

impl Backup {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        if let Some(BackupCommand::Verify(verify)) = self.command {
            return verify.run().await;
        }
        let Some(file) = &self.file else {
            return Err(Refusal::argument("FILE is missing; it names the backup to create"));
        };
        let config = self.settings.load(&[])?;
        let url = config.database.url.of_file(OF_POSTGRES)?;
        let tell = |progress: Progress| {
            if !self.settings.json {
                let Progress { copied, total } = progress;
                // A closed stderr must not fail the backup.
                drop(writeln!(
                    io::stderr(),
                    "copied {} of {} MiB",
                    mebibytes(copied),
                    mebibytes(total)
                ));
            }
        };
        let bytes = unless_stopped(store::back_up(url, file, tell)).await?;
        if let Err(error) = store::record_backup(url, file, Clock::system().now()) {
            failure::warn(&format!(
                "the date of the backup can't be noted for `chatserver doctor`: {error}"
            ));
        }
        let (key_file, shown) = (config.key_file().to_string(), file.display());
        let text = format!(
            "{shown} holds the database {url}: {} MiB. It is of no use without the key file {key_file}: keep a copy of \
             that, too, but not beside the backup",
            mebibytes(bytes)
        );
        let json = json!({
            "url": url, "file": shown.to_string(), "bytes": bytes, "keyfile": key_file,
        });
        Output::new(text, json).print_after_change(self.settings.json)
    }
}

/// Formats bytes in MiB with one decimal.
fn mebibytes(bytes: u64) -> String {
    let tenths = bytes * 10 / (1024 * 1024);
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// Runs `work` until SIGTERM, SIGINT or SIGHUP. A signal drops `work`, which then removes what it has begun, and is
/// returned as a failure.
pub(super) async fn unless_stopped<T, E: Into<Failed>>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Failed> {
    let mut signals = Signals::listen(Hangup::Stops)?;
    tokio::select! {
        done = work => done.map_err(Into::into),
        signal = signals.next() => Err(Refusal::with_code("failed", format!("stopped by {signal}"))),
    }
}

impl Verify {
    async fn run(self) -> Result<(), Failed> {
        let file = self.file.display().to_string();
        let verified = store::verify_backup(&self.file).await?;
        let counts = verified.counts.iter().map(|(name, count)| match count {
            1 => format!("1 {}", name.trim_end_matches('s')),
            _ => format!("{count} {name}"),
        });
        let counts = counts.collect::<Vec<_>>().join(", ");
        let mut json = Map::from_iter([
            ("file".to_owned(), Value::from(file.clone())),
            ("bytes".to_owned(), Value::from(verified.bytes)),
        ]);
        json.extend(
            verified.counts.iter().map(|(name, count)| ((*name).to_owned(), (*count).into())),
        );
        let text = format!("{file} is sound: {} MiB, {counts}", mebibytes(verified.bytes));
        Output::new(text, json.into()).print(self.json)
    }
}

impl Restore {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        let config = self.settings.load(&[])?;
        let url = config.database.url.of_file(OF_POSTGRES)?;
        let clock = Clock::system();
        let restored = {
            let key_file = config.key_file();
            unless_stopped(store::restore(url, &key_file, &self.file, self.force, &clock)).await?
        };
        let epoch = &restored.epoch.id;
        let mut text = format!("{} is restored; epoch {epoch} has begun", restored.path);
        let mut json = json!({ "file": restored.path, "epoch": epoch });
        if let Some(since) = &restored.since {
            text += &describe(since, &self.settings.as_flags());
            json["disabledsince"] = json!(since.disabled);
            json["rotatedsince"] = json!(since.rotated);
            json["addedsince"] = json!(since.added);
            json["deletedsince"] = json!(since.deleted);
            json["missing"] = json!(since.missing);
            json["undone"] = json!(since.undone);
            json["unreadable"] = json!(since.unreadable);
        }
        Output::new(text, json).print_after_change(self.settings.json)
    }
}

/// Lists the account changes that the restore undid, each with the command that repeats it.
fn describe(since: &UndoneChanges, flags: &str) -> String {
    if let Some(problem) = &since.unreadable {
        return format!(
            "\nThe replaced database can't be read ({problem}). Check which accounts were disabled or deleted and which \
             API keys were rotated since the backup: they are enabled, there and valid again"
        );
    }
    let lists = [
        (&since.disabled, "was disabled since the backup and is enabled again", "disable", ""),
        (&since.rotated, "has its API key from before the rotation again", "rotate-key", ""),
        (&since.deleted, "was deleted since the backup and is there again", "delete", ""),
        (&since.added, "was added since the backup and is gone", "add", " --nick NICK"),
    ];
    let lines = lists.iter().flat_map(|(emails, what, command, argument)| {
        emails.iter().map(move |email| {
            let address = in_shell(email);
            format!("\n{email} {what}: chatserver user {command} {address}{argument}{flags}")
        })
    });
    let missing = since
        .missing
        .iter()
        .map(|email| format!("\n{email} is in the backup, and was not in the replaced database"));
    let undone = since.undone.iter().map(|change| format!("\nundone: {change}"));
    lines.chain(missing).chain(undone).collect()
}
