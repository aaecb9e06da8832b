//! `chatserver user delete`.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use clap::Args;
use serde_json::json;

use crate::commands::failure::Refusal;
use crate::commands::output::Output;
use crate::commands::{Failed, Settings};
use crate::domain::Email;
use crate::store::Purged;
use crate::users;

/// Maximum bytes of the typed confirmation: the longest address and a line end.
const CONFIRMATION_BYTES: u64 = 256;

#[derive(Args)]
pub(crate) struct Delete {
    /// The user: an e-mail address or a user id
    user: String,
    /// Delete without asking
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    settings: Settings,
}

impl Delete {
    pub(super) async fn run(self) -> Result<(), Failed> {
        let database = self.settings.open().await?;
        let deleted = async {
            let user = users::find(&database.store, &self.user).await?;
            if !self.yes {
                confirm(&user.email)?;
            }
            let tombstone = users::delete(&database.store, user.id).await?;
            // No server may run that would do it.
            while database.store.purge().await? == Purged::Step {}
            database.store.truncate_log();
            Ok::<_, Failed>((user, tombstone))
        };
        let deleted = deleted.await;
        database.close().await;
        let (user, tombstone) = deleted?;
        let (id, email) = (user.id.as_str(), user.email.as_str());
        let text = format!(
            "deleted {email}\nOthers keep their conversations, and see {tombstone}, \"{}\".\n\
             Backups from before this moment still hold the user. After a stop of the server, chatserver\n\
             compact also removes copies of the old id from unused parts of the file.",
            users::DELETED_NICK
        );
        let json = json!({ "userid": id, "email": email, "deletedid": tombstone.as_str() });
        Output::new(text, json).print_after_change(self.settings.json)
    }
}

/// Lets a person type the address on the terminal.
fn confirm(email: &Email) -> Result<(), Failed> {
    if !io::stdin().is_terminal() {
        let sentence =
            format!("{email} was not deleted: confirm with --yes, or run it in a terminal");
        return Err(Refusal::argument(sentence));
    }
    eprint!("Deleting {email} can't be undone. Type the address to go on: ");
    io::stderr().flush()?;
    let mut typed = String::new();
    io::stdin().lock().take(CONFIRMATION_BYTES).read_line(&mut typed)?;
    if users::confirms_deletion(&typed, email) {
        return Ok(());
    }
    Err(Refusal::argument(format!("{email} was not deleted: another text was typed")))
}
