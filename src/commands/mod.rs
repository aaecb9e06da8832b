//! The command line, for operators, for people who try the server, and for people and scripts that chat. Doc comments on
//! arguments are the text of `--help`.

mod admin;
mod audit;
mod backup;
mod client;
mod compact;
mod conversation;
mod copy;
mod demo;
mod demo_users;
mod doctor;
mod epoch;
mod failure;
mod friend;
mod friend_group;
mod health;
mod invitation;
mod keys;
mod list_file;
mod output;
mod retention;
mod serve;
mod sign;
mod station;
mod usage;
mod user;
mod user_export;
mod user_import;
mod workspace;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Once, OnceLock};

use clap::{Args, Parser, Subcommand};
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::api::openapi;
use crate::config::{self, Config, Effective, Layers};
use crate::domain::Limits;
use crate::key_file::KeyFile;
use crate::store::{
    self, DatabaseUrl, Migrated, OpenError, PgUrl, Schema, ServerLock, Store, WalLeft,
};
use crate::telemetry::Logging;
use crate::tls;
use failure::Failed;
use output::Output;

pub use failure::print as failure;

/// A chat server that speaks the Ozeki Chat Client API.
#[derive(Parser)]
#[command(
    name = "chatserver",
    version,
    after_help = "\
Example:
  chatserver demo                      try it: a server with two users and ready-to-paste commands
  chatserver serve --config chat.toml  run it"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server until SIGTERM or SIGINT
    #[command(after_help = "\
Example:
  chatserver serve --listen 127.0.0.1:8080 --database-url sqlite:///var/lib/chatserver/chatserver.db")]
    Serve(serve::Serve),
    /// Run a server with two users, and print commands to try it with
    #[command(after_help = "\
Example:
  chatserver demo --data ./demo   keeps its database, keys and passwords in ./demo")]
    Demo(demo::Demo),
    /// Add, change and show users
    #[command(
        subcommand,
        after_help = "\
Example:
  chatserver user add alice@example.com --nick Alice"
    )]
    User(user::User),
    /// Make and end friendships
    #[command(
        subcommand,
        after_help = "\
Example:
  chatserver friend add alice@example.com bob@example.com"
    )]
    Friend(friend::Friend),
    /// List and revoke stations, the devices of users
    #[command(
        subcommand,
        after_help = "\
Example:
  chatserver station list alice@example.com"
    )]
    Station(station::Station),
    /// Show workspaces
    #[command(
        subcommand,
        after_help = "\
Example:
  chatserver workspace list --json"
    )]
    Workspace(workspace::Workspace),
    /// Change settings of one conversation
    #[command(
        subcommand,
        after_help = "\
Example:
  chatserver conversation retention b08a32f44191bdb3d491c93409cb425b --days 30"
    )]
    Conversation(conversation::Conversation),
    /// Open the admin page
    #[command(
        subcommand,
        after_help = "\
Example:
  chatserver admin link --config chat.toml"
    )]
    Admin(admin::Admin),
    /// Remove messages that are kept no longer, at once; a server does so every hour
    #[command(after_help = "\
Example:
  chatserver retention --dry-run --config chat.toml
The settings retention.days and retention.valid_until, and `chatserver conversation retention`, say what is kept.")]
    Retention(retention::ApplyRetention),
    /// Show the space that users and conversations take, most bytes first
    #[command(after_help = "\
Example:
  chatserver usage --top 10
A conversation counts for both of its users.")]
    Usage(usage::ShowUsage),
    /// Show what was done to accounts, keys, friendships and retention, by whom and from where
    #[command(after_help = "\
Example:
  chatserver audit --since 7d
  chatserver audit --user alice@example.com --json
The oldest entry comes first. The setting audit.days says how long entries are kept.")]
    Audit(audit::ShowAudit),
    /// Chat: a client for people, bots and scripts
    #[command(
        subcommand,
        after_help = "\
Example:
  chatserver client login https://chat.example.com/
  chatserver client send bob@example.com 'Hello, Bob'
  chatserver client read Bob --follow"
    )]
    Client(client::Client),
    /// Print the signature of a request whose body is on stdin; the API key is in `CHATSERVER_APIKEY`
    #[command(after_help = "\
Example:
  printf '%s' \"$BODY\" | chatserver sign --user alice@example.com --station \"$STATION\" --api chatconversation")]
    Sign(sign::Sign),
    /// Copy an SQLite database into a new file, even while a server runs, or check such a copy
    #[command(after_help = "\
Example:
  chatserver backup /var/backups/chat.db
  chatserver backup verify /var/backups/chat.db
The backup holds no key file, without which it is of no use: back that up, too, and keep it apart.")]
    Backup(backup::Backup),
    /// Restore an SQLite database from a backup while no server has it open, and begin a new epoch
    #[command(after_help = "\
Example:
  chatserver restore /var/backups/chat.db --force
Clients then read everything again. Requests signed before the restore are refused.")]
    Restore(backup::Restore),
    /// Begin a new epoch, so that clients read everything again
    #[command(
        subcommand,
        after_help = "\
Example:
  chatserver epoch new --config chat.toml"
    )]
    Epoch(epoch::Epoch),
    /// Show, replace and drop the keys that seal the API keys in the database
    #[command(
        subcommand,
        after_help = "\
Example:
  chatserver keys status --config chat.toml"
    )]
    Keys(keys::Keys),
    /// Bring the schema of the database up to date
    #[command(after_help = "\
Example:
  chatserver migrate --database-url sqlite:///var/lib/chatserver/chatserver.db")]
    Migrate(Settings),
    /// Rewrite an SQLite database without its free space; no other program may have it open
    #[command(after_help = "\
Example:
  chatserver compact --database-url sqlite:///var/lib/chatserver/chatserver.db")]
    Compact(Settings),
    /// Copy a database into an empty one, between SQLite and PostgreSQL, while no server runs
    #[command(after_help = "\
Example:
  chatserver copy --from sqlite:///var/lib/chatserver/chatserver.db --to postgres://chat@db.example.com/chat
Run it again if it was interrupted: it goes on. Until it has finished, nothing else opens the new database.")]
    Copy(copy::Copy),
    /// Look at settings, disk, database, certificate and proxy, and say what to do; a server may run meanwhile
    #[command(after_help = "\
Example:
  chatserver doctor --config chat.toml
  chatserver doctor --full --json
Run it as the user of the service. The exit code is 1 if there is a problem, and 0 if there are only notes.")]
    Doctor(doctor::Doctor),
    /// Check the settings of all layers and the files that they name, and show each with its source
    #[command(
        name = "check-config",
        after_help = "\
Example:
  chatserver check-config --config chat.toml"
    )]
    CheckConfig(Settings),
    /// Ask the running server of these settings whether it is ready
    #[command(after_help = "\
Example:
  chatserver health --config chat.toml && echo ready
It asks /readyz on http.metrics_listen. For containers, whose images have no curl.")]
    Health(Settings),
    /// Print the API as an OpenAPI 3.1 document, which the server also has at /openapi.json
    #[command(after_help = "\
Example:
  chatserver openapi >chatserver.json")]
    Openapi,
}

/// Flags for the source of the settings and the form of the result.
#[derive(Args)]
struct Settings {
    /// A TOML file with settings, see config/default.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The database: sqlite:// and the path of a file, or the postgres:// URL of a database
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Print one JSON object on stdout, and failures as one on stderr
    #[arg(long)]
    json: bool,
}

impl Settings {
    fn load(&self, flags: &[(&str, &str)]) -> Result<Config, config::Error> {
        self.layers(flags)?.config()
    }

    fn layers(&self, flags: &[(&str, &str)]) -> Result<Layers, config::Error> {
        if self.config.is_none() && self.database_url.is_none() {
            warn_of_unused_settings();
        }
        let mut flags = flags.to_vec();
        if let Some(url) = &self.database_url {
            flags.push(("database.url", url));
        }
        // A variable whose name is not UTF-8 is none of the server's. A value that is not UTF-8 is checked in its lossy
        // form, so that a refusal can show it.
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        });
        Layers::read(self.config.as_deref(), environment, &flags)
    }

    /// Returns `--config` and `--database-url` as given, for another command. Each is shell-quoted and follows a space.
    fn as_flags(&self) -> String {
        let config = self.config.as_ref().map(|path| ("config", path.display().to_string()));
        let url = self.database_url.clone().map(|url| ("database-url", url));
        let flags = [config, url].into_iter().flatten();
        let flags = flags.map(|(name, value)| [" --", name, " ", &in_shell(&value)].concat());
        flags.collect()
    }

    /// Opens an existing database. A mistyped path must not create one.
    async fn open(&self) -> Result<Database, Failed> {
        self.open_with(Schema::MustBeCurrent).await
    }

    async fn open_with(&self, schema: Schema) -> Result<Database, Failed> {
        let config = self.load(&[])?;
        Database::open(&config, schema).await
    }
}

/// The settings of the Debian package.
const PACKAGED: &str = "/etc/chatserver/chatserver.toml";

/// Warns, once, that a command without any settings does not use those of the package: it would look for a database in
/// its folder.
fn warn_of_unused_settings() {
    static WARNED: Once = Once::new();
    let is_set = |(name, _): (OsString, _)| name.to_string_lossy().starts_with("CHATSERVER_");
    if Path::new(PACKAGED).exists() && !std::env::vars_os().any(is_set) {
        WARNED.call_once(|| {
            failure::warn(&format!("{PACKAGED} is not used: add --config {PACKAGED}"));
        });
    }
}

/// Quotes a text for a shell, unless it is plain.
fn in_shell(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "@._+-/:".contains(c);
    if text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Changes of this process that only the write-ahead log holds. A command prints its result before it fails for this:
/// the change is made, and the result may never be shown again.
static WAL_LEFT: OnceLock<WalLeft> = OnceLock::new();

/// The database, opened for one command.
struct Database {
    store: Store,
    url: DatabaseUrl,
    tasks: TaskTracker,
}

impl Database {
    async fn open(config: &Config, schema: Schema) -> Result<Self, Failed> {
        let (url, limits) = (config.database.with_password()?, config.limits.of_store());
        Ok(Self::open_at(url, &config.key_file(), schema, limits).await?)
    }

    async fn open_at(
        url: DatabaseUrl,
        key_file: &KeyFile,
        schema: Schema,
        limits: Limits,
    ) -> Result<Self, OpenError> {
        let tasks = TaskTracker::new();
        let store = Store::open(&url, key_file, schema, limits, &tasks).await?;
        Ok(Self { store, url, tasks })
    }

    /// Closes the database. After a change, empties the write-ahead log, so that the database file alone holds
    /// everything. Leaves that to a server that has the database open. Records a failure in [`WAL_LEFT`]: the command
    /// goes on, and fails at the end.
    async fn close(self) {
        if let Err(left) = self.close_wholly().await {
            WAL_LEFT.get_or_init(|| left);
        }
    }

    /// Closes the database like [`Self::close`], but returns the failure, for a command that can't go on with it.
    async fn close_wholly(self) -> Result<(), WalLeft> {
        let beside_server = matches!(&self.url, DatabaseUrl::Sqlite(url)
            if matches!(ServerLock::holder(url), Ok(Some(_))));
        if self.store.has_written() {
            self.store.tell_nodes().await;
        }
        let closed = if beside_server || !self.store.has_written() {
            self.store.leave().await;
            Ok(())
        } else {
            self.store.close().await
        };
        self.tasks.close();
        self.tasks.wait().await;
        closed
    }
}

/// Runs the command of this process. Reports a failure on stderr and exits with 1.
pub async fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if failure::tell_usage(&error) => return ExitCode::SUCCESS,
        Err(_) => return ExitCode::FAILURE,
    };
    // A path need not be UTF-8.
    let arguments = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let actor = audit::actor(arguments);
    let done = actor.does(Box::pin(run_command(cli.command))).await;
    match (done, WAL_LEFT.get()) {
        (Err(failed), _) if !failure::is_closed_pipe(failed.as_ref()) => {
            failure::print(failed.as_ref());
            ExitCode::FAILURE
        }
        (_, Some(left)) => {
            failure::print(left);
            ExitCode::FAILURE
        }
        (_, None) => ExitCode::SUCCESS,
    }
}

async fn run_command(command: Command) -> Result<(), Failed> {
    match command {
        Command::Serve(serve) => serve.run().await,
        Command::Demo(demo) => demo.run().await,
        Command::User(user) => user.run().await,
        Command::Friend(friend) => friend.run().await,
        Command::Station(station) => station.run().await,
        Command::Workspace(workspace) => workspace.run().await,
        Command::Conversation(conversation) => conversation.run().await,
        Command::Admin(admin) => admin.run().await,
        Command::Retention(retention) => retention.run().await,
        Command::Usage(usage) => usage.run().await,
        Command::Audit(audit) => audit.run().await,
        Command::Client(client) => client.run().await,
        Command::Sign(sign) => sign.run(),
        Command::Backup(backup) => backup.run().await,
        Command::Restore(restore) => restore.run().await,
        Command::Epoch(epoch) => epoch.run().await,
        Command::Keys(keys) => keys.run().await,
        Command::Migrate(settings) => migrate(&settings).await,
        Command::Compact(settings) => compact::run(&settings).await,
        Command::Copy(copy) => copy.run().await,
        Command::Doctor(doctor) => doctor.run().await,
        Command::CheckConfig(settings) => check_config(&settings),
        Command::Health(settings) => health::run(&settings).await,
        Command::Openapi => Output::new(openapi::text(), json!({})).print(false),
    }
}

async fn migrate(settings: &Settings) -> Result<(), Failed> {
    let config = settings.load(&[])?;
    // The log shows progress: migrating a large database takes a while.
    let _logging = Logging::start(&config.log)?;
    let url = config.database.with_password()?;
    if let DatabaseUrl::Postgres(url) = &url {
        return migrate_postgres(settings, url).await;
    }
    let (text, json) = (format!("{url} has the newest schema"), json!({ "url": url.to_string() }));
    Database::open(&config, Schema::Migrate).await?.close().await;
    Output::new(text, json).print_after_change(settings.json)
}

async fn migrate_postgres(settings: &Settings, url: &PgUrl) -> Result<(), Failed> {
    let (migrations, text) = match store::migrate(url).await? {
        Migrated::Current(0) => (0, "has the newest schema; it had it already".to_owned()),
        Migrated::Current(1) => (1, "has the newest schema; 1 migration was run".to_owned()),
        Migrated::Current(n) => (n, format!("has the newest schema; {n} migrations were run")),
        Migrated::Newer => (
            0,
            "has the schema of a newer version, which this one works with; nothing was changed"
                .to_owned(),
        ),
    };
    let json = json!({ "url": url.to_string(), "migrations": migrations });
    Output::new(format!("{url} {text}"), json).print_after_change(settings.json)
}

/// Opens the files that the settings name, and changes nothing.
fn check_files(config: &Config) -> Result<(), Failed> {
    tls::look(&config.http)?;
    let is_needed = match config.database.with_password()? {
        DatabaseUrl::Sqlite(url) => store::check_file(&url)?,
        DatabaseUrl::Postgres(url) => {
            store::check_authority(&url)?;
            true
        }
    };
    let key_file = config.key_file();
    if !key_file.exists()? && is_needed {
        failure::warn(&format!(
            "there is no key file {key_file}: the server does not start if the database has been sealed with one; \
             `chatserver doctor` asks the database"
        ));
    }
    Ok(())
}

fn check_config(settings: &Settings) -> Result<(), Failed> {
    let mut layers = settings.layers(&[])?;
    let config = layers.config()?;
    check_files(&config)?;
    let effective = layers.effective(&config);
    let mut text = format!(
        "the settings are valid: listen on {}, keep the data in {}",
        config.http.listen, config.database.url
    );
    for Effective { name, value, source } in &effective {
        text.extend(["\n", name, " = ", value, " (", source, ")"]);
    }
    let all = effective.iter().map(|Effective { name, value, source }| {
        json!({ "name": name, "value": value, "source": source })
    });
    let json = json!({
        "listen": config.http.listen.to_string(),
        "url": config.database.url.to_string(),
        "settings": all.collect::<Vec<_>>(),
    });
    Output::new(text, json).print(settings.json)
}
