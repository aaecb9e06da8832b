//! `chatserver admin link`: prints a link that opens the admin page once.

use clap::Subcommand;
use serde_json::json;

use super::failure::Refusal;
use super::output::Output;
use super::{Database, Failed, Settings};
use crate::admin_links::{self, FORWARDED_PORT};
use crate::audit::Actor;
use crate::clock::Clock;
use crate::config::{Listen, UNIX};
use crate::store::Schema;

#[derive(Subcommand)]
pub(crate) enum Admin {
    /// Print a link that opens the admin page once, within ten minutes
    #[command(after_help = "\
Example:
  chatserver admin link --config chat.toml
Anyone who has the link may enter: don't pass it on. The setting admin.listen turns the page on.")]
    Link(Settings),
}

impl Admin {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        match self {
            Self::Link(settings) => link(settings).await,
        }
    }
}

async fn link(settings: Settings) -> Result<(), Failed> {
    let config = settings.load(&[])?;
    let Some(listen) = &config.admin.listen.0 else {
        let sentence = "admin.listen is empty: the admin page is off; set it, such as to 127.0.0.1:8081, and restart the server";
        return Err(Refusal::with_code("invalid_settings", sentence));
    };
    let database = Database::open(&config, Schema::MustBeCurrent).await?;
    let made =
        admin_links::make(&database.store, Actor::current().operator(), Clock::system().now())
            .await;
    database.close().await;
    let made = made?;
    let (url, expires_at) = (admin_links::url(listen, &made.token), made.expires_at);
    let text =
        format!("This link can be used once, until {expires_at} UTC:\n{url}\n{}", way_to(listen));
    let json = json!({ "link": url.as_str(), "expires": expires_at.to_string() });
    Output::new(text, json).print_after_change(settings.json)
}

/// Says how a browser on another machine reaches the page.
fn way_to(listen: &Listen) -> String {
    match listen {
        Listen::Address(address) => {
            let port = address.port();
            format!(
                "To open it on your own machine, first run there: ssh -N -L {port}:{address} SERVER"
            )
        }
        unix => {
            let path = unix.to_string();
            let path = path.strip_prefix(UNIX).unwrap_or(&path);
            format!(
                "The page is on a Unix socket. To open the link on your own machine, first run there: ssh -N -L {FORWARDED_PORT}:{path} SERVER"
            )
        }
    }
}
