//! `chatserver audit`: shows what was done to accounts, keys, friendships and retention, and by whom.

use std::io::{self, BufWriter, Write as _};

use clap::Args;
use clap::CommandFactory as _;
use rustix::process::getuid;
use serde_json::{Value, json};

use super::failure::Refusal;
use super::output::unwritable;
use super::user::argument;
use super::{Cli, Failed, Settings};
use crate::audit::Actor;
use crate::clock::Clock;
use crate::domain::{Parse, Timestamp};
use crate::invitations::Life;
use crate::store::{AuditEntry, AuditQuery, AuditStart, AuditedUser, Named, Store};
use crate::users::UserError;

/// Entries read at once.
const AT_ONCE: u32 = 1000;

/// Maximum characters of an operator's name.
const NAME_CHARACTERS: usize = 64;

#[derive(Args)]
pub(crate) struct ShowAudit {
    /// Only entries since this date, in UTC, or this time ago
    #[arg(long, value_name = "DATE")]
    since: Option<String>,
    /// Only entries about or by this user: an e-mail address, also of an invitation, or a user id, also of a deleted user
    #[arg(long)]
    user: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

/// The value of `--since`.
struct Since(Timestamp);

impl Parse for Since {
    const EXPECTED: &'static str = "a date such as 2024-03-08 or '2024-03-08 14:12:48', in UTC, or a time ago up to 90d, such as 12h or 7d";

    fn parse(text: &str) -> Option<Self> {
        let ago = |Life(seconds)| {
            Timestamp::from_unix(Clock::system().now().unix().checked_sub_unsigned(seconds)?)
        };
        let date = Timestamp::parse(text).or_else(|| Timestamp::parse(&format!("{text} 00:00:00")));
        date.or_else(|| Life::parse(text).and_then(ago)).map(Self)
    }
}

impl ShowAudit {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        let since: Option<Since> =
            self.since.as_deref().map(|since| argument("--since", since)).transpose()?;
        let since = since.map(|Since(date)| date);
        let user = self.user.as_deref().map(audited).transpose()?;
        let database = self.settings.open().await?;
        let printed = self.print(&database.store, since, user.as_ref()).await;
        database.close().await;
        printed
    }

    /// Prints the entries page by page: there may be a million.
    async fn print(
        &self,
        store: &Store,
        since: Option<Timestamp>,
        user: Option<&AuditedUser>,
    ) -> Result<(), Failed> {
        let mut query =
            AuditQuery { since, user, start: AuditStart::OldestAfter(0), most: AT_ONCE };
        let mut entries = store.audit(query).await?;
        if let (true, Some(user), Some(name)) = (entries.is_empty(), user, &self.user)
            && !store.has_had(user).await?
            && store.audit(AuditQuery { since: None, most: 1, ..query }).await?.is_empty()
        {
            return Err(UserError::NotFound(name.clone()).into());
        }
        let mut out = BufWriter::new(io::stdout());
        let mut put = |text: &str| out.write_all(text.as_bytes()).map_err(unwritable);
        let as_json = self.settings.json;
        if as_json {
            put("{\"entries\":[")?;
        }
        let mut separator = "";
        while let Some(last) = entries.last() {
            query.start = AuditStart::OldestAfter(last.number);
            for entry in &entries {
                if as_json {
                    put(separator)?;
                    put(&object(entry).to_string())?;
                    separator = ",";
                } else {
                    put(&line(entry))?;
                    put("\n")?;
                }
            }
            entries = store.audit(query).await?;
        }
        if as_json {
            put("]}\n")?;
        }
        out.flush().map_err(unwritable)
    }
}

fn audited(name: &str) -> Result<AuditedUser, Failed> {
    let expected = "--user must be an e-mail address or a user id";
    AuditedUser::named(name).ok_or_else(|| Refusal::argument(expected))
}

/// Returns an entry in words, such as `2026-03-08 14:12:48 user_disabled alice@example.com by command user disable, root`.
fn line(entry: &AuditEntry) -> String {
    let mut line = format!("{} {}", entry.date(), entry.action);
    let named = [entry.subject(), entry.other()].into_iter().flatten().map(name);
    let invited = (!entry.invited.is_empty()).then_some(entry.invited.as_str());
    for name in named.chain(invited).chain(entry.conversation_id.as_deref()) {
        line.extend([" ", name]);
    }
    if !entry.details.is_empty() {
        line.extend([" (", &entry.details, ")"]);
    }
    line.extend([" by ", &entry.via]);
    let actor = entry.actor().map(name).unwrap_or_default();
    for more in [&entry.operator, actor, &entry.address] {
        if !more.is_empty() {
            line.extend([", ", more]);
        }
    }
    line
}

/// Returns the address of a user; of a deleted one the id.
fn name(Named { id, email }: Named<'_>) -> &str {
    if email.is_empty() { id } else { email }
}

fn object(entry: &AuditEntry) -> Value {
    let mut object = json!({
        "number": entry.number,
        "date": entry.date(),
        "action": entry.action,
        "by": entry.via,
    });
    let people = [("actor", entry.actor()), ("user", entry.subject()), ("friend", entry.other())];
    for (key, named) in people {
        if let Some(named) = named {
            object[key] = json!(named);
        }
    }
    let texts = [
        ("operator", entry.operator.as_str()),
        ("address", &entry.address),
        ("invited", &entry.invited),
        ("conversationid", entry.conversation_id.as_deref().unwrap_or_default()),
        ("details", &entry.details),
    ];
    for (key, text) in texts {
        if !text.is_empty() {
            object[key] = text.into();
        }
    }
    object
}

/// Returns the command of this process as the actor of its changes.
pub(super) fn actor(arguments: impl IntoIterator<Item = String>) -> Actor {
    let mut command = Cli::command();
    let mut words = Vec::new();
    for argument in arguments {
        let Some(found) = command.find_subcommand(&argument) else { continue };
        words.push(argument);
        command = found.clone();
    }
    Actor::Command { name: words.join(" "), operator: operator() }
}

/// Returns the name of the person who runs the process, as far as the environment tells it; else the number.
fn operator() -> String {
    let named = ["SUDO_USER", "LOGNAME", "USER"]
        .into_iter()
        .find_map(|variable| std::env::var(variable).ok().filter(|name| !name.is_empty()));
    let name = named.unwrap_or_else(|| format!("uid {}", getuid().as_raw()));
    // Nothing that reorders or ends a line, and no comma, which separates the parts of an entry.
    name.chars()
        .filter(|c| c.is_ascii_graphic() && *c != ',' || *c == ' ')
        .take(NAME_CHARACTERS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_or_a_time_ago_is_a_beginning() {
        let parsed = |text| Since::parse(text).map(|Since(date)| date.to_string());
        assert_eq!(parsed("2024-03-08").as_deref(), Some("2024-03-08 00:00:00"));
        assert_eq!(parsed("2024-03-08 14:12:48").as_deref(), Some("2024-03-08 14:12:48"));
        let hour = Clock::system().now().unix() - 3600;
        let Some(Since(ago)) = Since::parse("1h") else { panic!("1h is a time ago") };
        assert!((hour..hour + 60).contains(&ago.unix()), "{ago}");
        for wrong in ["", "yesterday", "2024-02-30", "2024-03-08T14:12:48Z", "91d", "-1d"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_actor_has_the_name_of_the_command() {
        let name = |arguments: &[&str]| {
            let actor = actor(arguments.iter().map(|argument| (*argument).to_owned()));
            actor.via()
        };
        assert_eq!(name(&["user", "disable", "alice@example.com"]), "command user disable");
        assert_eq!(name(&["retention", "--config", "user"]), "command retention");
    }
}
