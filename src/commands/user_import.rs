//! `chatserver user import`: adds the users of a CSV file.
//!
//! Secrets can't be shown again, so they are in a file on disk before the users are in the database. Both happen chunk
//! by chunk: an import that is interrupted has added the users of whole chunks, and the next one adds the others.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use clap::Args;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use serde_json::json;

use super::failure::{self, Refusal};
use super::list_file::{self, Line, Mistakes, show_progress};
use super::output::Output;
use super::{Failed, Settings};
use crate::domain::{Email, FullName, Nick, Parse, UserId};
use crate::keys::{EncryptionPassword, KeySource};
use crate::store::{Schema, Store};
use crate::users::{Candidate, NewUser};

/// Users whose secrets are written at once, and who are then added at once. The writer makes one transaction of them.
const CHUNK: usize = 64;

const HEADER: [&str; 3] = ["email", "nick", "fullname"];

#[derive(Args)]
pub(crate) struct Import {
    /// The CSV file, whose first line is email,nick,fullname; - is stdin
    file: String,
    /// The file to create for the credentials of the new users; it must not exist yet
    #[arg(long, value_name = "FILE")]
    credentials: PathBuf,
    #[command(flatten)]
    settings: Settings,
}

/// A well-formed line of the file.
struct Entry {
    line: usize,
    email: Email,
    nick: Nick,
    full_name: FullName,
    exists: bool,
}

impl Import {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        let mut mistakes = Mistakes::default();
        let mut entries = entries(list_file::read(&self.file)?, &mut mistakes);
        let database = self.settings.open_with(Schema::CurrentOrNew).await?;
        let import = async {
            mark_existing(&database.store, &mut entries, &mut mistakes).await?;
            mistakes.refuse(&self.file)?;
            let new: Vec<_> = entries.iter().filter(|entry| !entry.exists).collect();
            if new.is_empty() {
                return Ok(());
            }
            let mut credentials = Credentials::create(&self.credentials)?;
            let mut added = 0;
            for chunk in new.chunks(CHUNK) {
                let done = add(&database.store, chunk, &mut credentials).await;
                done.inspect_err(|_| self.warn_of_rest(added, new.len()))?;
                added += chunk.len();
                show_progress(&format!("added {added} of {} users", new.len()));
            }
            Ok(())
        };
        let imported: Result<(), Failed> = import.await;
        database.close().await;
        imported?;
        self.output(&entries).print_after_change(self.settings.json)
    }

    /// Says what an import that fails has done already.
    fn warn_of_rest(&self, added: usize, all: usize) {
        failure::warn(&format!(
            "{added} of {all} users were added before the failure; run the command again with another file for --credentials, and keep {}",
            self.credentials.display()
        ));
    }

    fn output(&self, entries: &[Entry]) -> Output {
        let existing = entries.iter().filter(|entry| entry.exists).count();
        let added = entries.len() - existing;
        let result = |entry: &Entry| if entry.exists { "exists" } else { "added" };
        let lines = entries.iter().map(|entry| {
            format!("{} {} {}\n", UserId::of(&entry.email), entry.email, result(entry))
        });
        let place = match added {
            0 => String::new(),
            _ => format!("; the credentials are in {}", self.credentials.display()),
        };
        let text = format!(
            "{}{added} users added, {existing} existed already{place}",
            lines.collect::<String>()
        );
        let users = entries.iter().map(|entry| {
            json!({
                "line": entry.line,
                "userid": UserId::of(&entry.email).as_str(),
                "email": entry.email.as_str(),
                "result": result(entry),
            })
        });
        let json = json!({
            "added": added,
            "existing": existing,
            "credentials": (added > 0).then(|| self.credentials.display().to_string()),
            "users": users.collect::<Vec<_>>(),
        });
        Output::new(text, json)
    }
}

/// Reads the lines, without the header.
fn entries(lines: Vec<Line>, mistakes: &mut Mistakes) -> Vec<Entry> {
    let mut lines = lines.into_iter();
    let header = lines.next();
    let number = header.as_ref().map_or(1, |header| header.number);
    let names: Vec<_> =
        header.iter().flat_map(|header| header.fields.iter()).map(str::trim).collect();
    if names != HEADER {
        mistakes.add(
            number,
            format!("the first line must be {}, not {}", HEADER.join(","), names.join(",")),
        );
        return Vec::new();
    }
    let mut first_lines = HashMap::new();
    let mut entries = Vec::new();
    for line in lines {
        let Some(entry) = Entry::read(&line, mistakes) else { continue };
        if let Some(first) = first_lines.insert(entry.email.as_str().to_owned(), line.number) {
            mistakes.add(line.number, format!("{} is in line {first} already", entry.email));
        } else {
            entries.push(entry);
        }
    }
    entries
}

impl Entry {
    fn read(line: &Line, mistakes: &mut Mistakes) -> Option<Self> {
        let fields: Vec<_> = line.fields.iter().collect();
        let [email, nick, full_name] = fields[..] else {
            let sentence =
                format!("the line has {} fields, not the 3 of the first line", fields.len());
            mistakes.add(line.number, sentence);
            return None;
        };
        let email = field("email", email, line.number, mistakes);
        let nick = field("nick", nick, line.number, mistakes);
        let full_name = field("fullname", full_name, line.number, mistakes);
        Some(Self {
            line: line.number,
            email: email?,
            nick: nick?,
            full_name: full_name?,
            exists: false,
        })
    }
}

fn field<T: Parse>(name: &str, text: &str, line: usize, mistakes: &mut Mistakes) -> Option<T> {
    let value = T::parse(text);
    if value.is_none() {
        mistakes.add(line, format!("{name} must be {}, not {text:?}", T::expected_of(text)));
    }
    value
}

/// Finds the users who exist already. One with other names is a mistake: the import would leave them as they are.
async fn mark_existing(
    store: &Store,
    entries: &mut [Entry],
    mistakes: &mut Mistakes,
) -> Result<(), Failed> {
    for entry in entries {
        let Some(user) = store.user(UserId::of(&entry.email)).await? else { continue };
        entry.exists = true;
        if user.email != entry.email {
            let sentence =
                format!("the address can't be used: {} has the same user id", user.email);
            mistakes.add(entry.line, sentence);
        } else if (user.nick.as_str(), user.full_name.as_str())
            != (entry.nick.as_str(), entry.full_name.as_str())
        {
            let sentence = format!(
                "{} exists with the nick {:?} and the full name {:?}; chatserver user set changes them",
                user.email, user.nick, user.full_name
            );
            mistakes.add(entry.line, sentence);
        }
    }
    Ok(())
}

/// Makes keys on all cores, writes the secrets, and then adds the users.
async fn add(
    store: &Store,
    entries: &[&Entry],
    credentials: &mut Credentials,
) -> Result<(), Failed> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let keys = KeySource::generated();
    let candidates = entries.iter().map(|entry| {
        let (email, nick) = (entry.email.clone(), entry.nick.clone());
        let password = EncryptionPassword::generate();
        Candidate::new(&keys, email, nick, entry.full_name.clone(), password)
    });
    let candidates: Vec<_> = stream::iter(candidates).buffered(cores).collect().await;
    credentials.write(candidates.iter().map(|candidate| &candidate.credentials))?;
    let added = join_all(candidates.into_iter().map(|candidate| candidate.add_to(store))).await;
    added.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(())
}

/// The file with the secrets of the new users.
struct Credentials(csv::Writer<File>);

impl Credentials {
    fn create(path: &Path) -> Result<Self, Failed> {
        let create = || {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            // The name of the file must survive a power cut, too.
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
            let mut writer = csv::Writer::from_writer(file);
            writer.write_record(["email", "userid", "apikey", "encryptionpassword"])?;
            Ok(Self(writer))
        };
        create().map_err(|error: io::Error| {
            let code = match error.kind() {
                io::ErrorKind::AlreadyExists => "already_exists",
                _ => "invalid_argument",
            };
            let path = path.display();
            Refusal::with_code(code, format!("--credentials {path} can't be created: {error}"))
        })
    }

    /// Appends these users, and returns once they are on disk.
    fn write<'a>(&mut self, users: impl Iterator<Item = &'a NewUser>) -> Result<(), Failed> {
        for user in users {
            let (key, password) = (user.api_key.as_str(), user.encryption_password.as_str());
            self.0.write_record([user.email.as_str(), user.id.as_str(), key, password])?;
        }
        self.0.flush()?;
        self.0.get_ref().sync_all()?;
        Ok(())
    }
}
