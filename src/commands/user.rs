//! `chatserver user`: adds, changes and shows users, and gives them new API keys.

mod delete;

use std::fs::File;
use std::io;

use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::failure::{self, Refusal};
use super::invitation::{self, InviteUser, UninviteUser};
use super::output::Output;
use super::user_export::Export;
use super::user_import::Import;
use super::{Database, Failed, Settings};
use crate::bounded;
use crate::domain::{ApiKey, Email, FullName, Nick, Parse};
use crate::keys::{EncryptionPassword, KeySource};
use crate::store::{self, Schema};
use crate::users::{self, NewUser};

/// Maximum bytes of a file with an encryption password: the longest password, a byte order mark and some line ends.
const PASSWORD_FILE_BYTES: u64 = 1100;

#[derive(Subcommand)]
pub enum User {
    /// Add a user with a new API key and a new RSA key pair
    #[command(after_help = "\
Example:
  chatserver user add alice@example.com --nick Alice --fullname 'Alice Example'
The encryption password is generated unless a file gives it; it is stored nowhere. The database is created if it is
missing.")]
    Add(Add),
    /// Add the users of a CSV file, each with new keys; users who exist already are left as they are
    #[command(after_help = "\
Example:
  chatserver user import team.csv --credentials team-credentials.csv
The first line of the file is email,nick,fullname. Nothing is added if any line is wrong. The command can be run again:
it adds who is missing. It writes API keys and generated encryption passwords into the file of --credentials, which only
its owner may read; they are stored nowhere else in a readable form.")]
    Import(Import),
    /// Invite a person: print a link with which they register once, and make their keys in their browser
    #[command(after_help = "\
Example:
  chatserver user invite alice@example.com --nick Alice --expires 3d
Another invitation of the same address replaces the first one. The link is all that it takes to register as this person.")]
    Invite(InviteUser),
    /// List the invitations that can be used
    #[command(after_help = "\
Example:
  chatserver user invitations --json")]
    Invitations(Settings),
    /// Revoke an invitation
    #[command(after_help = "\
Example:
  chatserver user uninvite alice@example.com")]
    Uninvite(UninviteUser),
    /// Change the names of a user; the display names of conversations follow the nick
    #[command(after_help = "\
Example:
  chatserver user set alice@example.com --nick Ally")]
    Set(Set),
    /// List all users
    #[command(after_help = "\
Example:
  chatserver user list --json")]
    List(Settings),
    /// Show a user
    #[command(after_help = "\
Example:
  chatserver user show alice@example.com")]
    Show(One),
    /// Write all that is held about a user as one JSON object, but for the API key
    #[command(after_help = "\
Example:
  chatserver user export alice@example.com --output alice.json
The private key and the messages in it are encrypted, as they are stored.")]
    Export(Export),
    /// Refuse a user's logins and signatures, and hide the user from friends
    #[command(after_help = "\
Example:
  chatserver user disable alice@example.com")]
    Disable(One),
    /// Undo a disable; friends see the user again
    #[command(after_help = "\
Example:
  chatserver user enable alice@example.com")]
    Enable(One),
    /// Delete a user for good; others keep their conversations with "Deleted user"
    #[command(after_help = "\
Example:
  chatserver user delete alice@example.com --yes
An interrupted deletion leaves the user disabled; run it again. Backups from before still hold the user.")]
    Delete(delete::Delete),
    /// Give a user a new API key; the RSA key pair and its password stay
    #[command(
        name = "rotate-key",
        after_help = "\
Example:
  chatserver user rotate-key alice@example.com"
    )]
    RotateKey(One),
}

#[derive(Args)]
pub(crate) struct Add {
    /// The e-mail address
    email: String,
    /// The name that others see
    #[arg(long)]
    nick: String,
    /// The full name
    #[arg(long, value_name = "NAME", default_value = "")]
    fullname: String,
    /// A file that holds the encryption password and nothing else; - is stdin
    #[arg(long, value_name = "FILE")]
    encryption_password_file: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args)]
#[command(group = ArgGroup::new("names").args(["nick", "fullname"]).required(true).multiple(true))]
pub(crate) struct Set {
    /// The user: an e-mail address or a user id
    user: String,
    /// The new name that others see
    #[arg(long)]
    nick: Option<String>,
    /// The new full name
    #[arg(long, value_name = "NAME")]
    fullname: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args)]
pub(crate) struct One {
    /// The user: an e-mail address or a user id
    user: String,
    #[command(flatten)]
    settings: Settings,
}

impl User {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        match self {
            Self::Add(add) => add.run().await,
            Self::Import(import) => import.run().await,
            Self::Invite(invite) => invite.run().await,
            Self::Invitations(settings) => invitation::list(settings).await,
            Self::Uninvite(uninvite) => uninvite.run().await,
            Self::Set(set) => set.run().await,
            Self::List(settings) => list(settings).await,
            Self::Show(one) => one.show().await,
            Self::Export(export) => export.run().await,
            Self::Disable(one) => one.set_disabled(true).await,
            Self::Enable(one) => one.set_disabled(false).await,
            Self::Delete(delete) => delete.run().await,
            Self::RotateKey(one) => one.rotate_key().await,
        }
    }
}

/// Parses an argument. A refusal names the argument and the expected form.
pub(super) fn argument<T: Parse>(name: &str, text: &str) -> Result<T, Failed> {
    T::parse(text)
        .ok_or_else(|| Refusal::argument(format!("{name} must be {}", T::expected_of(text))))
}

impl Add {
    async fn run(self) -> Result<(), Failed> {
        let email: Email = argument("EMAIL", &self.email)?;
        let nick: Nick = argument("--nick", &self.nick)?;
        let full_name: FullName = argument("--fullname", &self.fullname)?;
        let password = match &self.encryption_password_file {
            Some(file) => read_password(file)?,
            None => EncryptionPassword::generate(),
        };
        let is_short = password.is_short();
        let database = self.settings.open_with(Schema::CurrentOrNew).await?;
        let keys = KeySource::generated();
        let added = users::add(&database.store, &keys, email, nick, full_name, password).await;
        let told = match &added {
            Ok(added) => self.print_or_remove(added, &database).await,
            Err(_) => Ok(()),
        };
        database.close().await;
        added?;
        told?;
        if is_short {
            failure::warn(&format!(
                "the encryption password has fewer than {} characters: anyone who gets the PEM of the private key can guess it",
                EncryptionPassword::FEWEST_ADVISED
            ));
        }
        Ok(())
    }

    /// Prints the new user with the password, which is stored nowhere. If printing fails, removes the user again:
    /// otherwise the address would be taken for good.
    async fn print_or_remove(&self, added: &NewUser, database: &Database) -> Result<(), Failed> {
        let (id, email) = (added.id.as_str(), added.email.as_str());
        let (key, password) = (added.api_key.as_str(), added.encryption_password.as_str());
        let shown = if self.encryption_password_file.is_some() { "as given" } else { password };
        let text = format!(
            "userid             {id}\nemail              {email}\napikey             {key}\n\
             encryptionpassword {shown}\n\nThe password is stored nowhere: keep it."
        );
        let json = json!({
            "userid": id, "email": email, "apikey": key, "encryptionpassword": password,
        });
        let Err(error) = Output::new(text, json).print(self.settings.json) else { return Ok(()) };
        let removed = database.store.remove_new_user(added.id, added.api_key.clone()).await;
        let outcome = match removed {
            Ok(true) => "was not added".to_owned(),
            Ok(false) => "was added, and has changed since".to_owned(),
            Err(failed) => format!("was added, and can't be removed: {failed}"),
        };
        Err(Refusal::with_code(
            "output_failed",
            format!("{email} {outcome}: stdout can't be written: {error}"),
        ))
    }
}

fn read_password(file: &str) -> Result<EncryptionPassword, Failed> {
    let read = if file == "-" {
        bounded::read_text(io::stdin().lock(), PASSWORD_FILE_BYTES)
    } else {
        File::open(file).and_then(|file| bounded::read_text(file, PASSWORD_FILE_BYTES))
    };
    let text = Zeroizing::new(read.map_err(|error| {
        Refusal::argument(format!("--encryption-password-file {file} can't be read: {error}"))
    })?);
    // Windows editors put a byte order mark before the text.
    let password = text.strip_prefix('\u{feff}').unwrap_or(&text);
    argument("the encryption password", password.trim_end_matches(['\r', '\n']))
}

impl Set {
    async fn run(self) -> Result<(), Failed> {
        let nick: Option<Nick> =
            self.nick.as_deref().map(|nick| argument("--nick", nick)).transpose()?;
        let full_name: Option<FullName> =
            self.fullname.as_deref().map(|name| argument("--fullname", name)).transpose()?;
        let database = self.settings.open().await?;
        let set = async {
            let user = users::find(&database.store, &self.user).await?;
            users::rename(&database.store, user.id, nick, full_name).await?;
            users::find(&database.store, &self.user).await
        };
        let set = set.await;
        database.close().await;
        output(&set?).print_after_change(self.settings.json)
    }
}

async fn list(settings: Settings) -> Result<(), Failed> {
    let database = settings.open().await?;
    let users = database.store.users().await;
    database.close().await;
    let users = users?;
    let lines = users.iter().map(|user| {
        let disabled = if user.is_disabled { " (disabled)" } else { "" };
        format!("{} {} {}{disabled}", user.id, user.email, user.nick)
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let users: Vec<_> = users.iter().map(shown).collect();
    Output::new(text, json!({ "users": users })).print(settings.json)
}

impl One {
    async fn show(self) -> Result<(), Failed> {
        let database = self.settings.open().await?;
        let user = users::find(&database.store, &self.user).await;
        database.close().await;
        output(&user?).print(self.settings.json)
    }

    async fn set_disabled(self, disabled: bool) -> Result<(), Failed> {
        let database = self.settings.open().await?;
        let set = async {
            let user = users::find(&database.store, &self.user).await?;
            database.store.set_disabled(user.id, disabled).await?;
            users::find(&database.store, &self.user).await
        };
        let set = set.await;
        database.close().await;
        output(&set?).print_after_change(self.settings.json)
    }

    async fn rotate_key(self) -> Result<(), Failed> {
        let api_key = ApiKey::generate();
        let database = self.settings.open().await?;
        let rotated = async {
            let user = users::find(&database.store, &self.user).await?;
            let replaced = database.store.set_api_key(user.id, api_key.clone()).await?;
            let Some(before) = replaced else {
                return Err(users::UserError::NotFound(self.user.clone()).into());
            };
            let (id, email, key) = (user.id.as_str(), user.email.as_str(), api_key.as_str());
            let text = format!("userid {id}\nemail  {email}\napikey {key}");
            let json = json!({ "userid": id, "email": email, "apikey": key });
            let Err(error) = Output::new(text, json).print(self.settings.json) else {
                return Ok(());
            };
            // Restores the old key: a new key that was not printed would lock the user out.
            database.store.set_api_key(user.id, before).await?;
            let sentence = format!("{email} keeps the old key: stdout can't be written: {error}");
            Err(Refusal::with_code("output_failed", sentence))
        };
        let rotated = rotated.await;
        database.close().await;
        rotated
    }
}

fn shown(user: &store::User) -> Value {
    json!({
        "userid": user.id.as_str(),
        "email": user.email.as_str(),
        "nick": user.nick,
        "fullname": user.full_name,
        "disabled": user.is_disabled,
        "publickey": user.public_key.as_str(),
    })
}

fn output(user: &store::User) -> Output {
    let text = format!(
        "userid    {}\nemail     {}\nnick      {}\nfullname  {}\ndisabled  {}\npublickey {}",
        user.id,
        user.email,
        user.nick,
        user.full_name,
        user.is_disabled,
        user.public_key.as_str()
    );
    Output::new(text, shown(user))
}
