//! `chatserver user invite`, `user invitations` and `user uninvite`: links with which people register.

use clap::Args;
use serde_json::json;
use url::Url;

use super::failure::{self, Refusal};
use super::output::Output;
use super::user::argument;
use super::{Failed, Settings};
use crate::clock::Clock;
use crate::config::{Config, Listen, Registration};
use crate::domain::{Email, Nick};
use crate::invitations::{self, Life, NewInvitation};

#[derive(Args)]
pub(crate) struct InviteUser {
    /// The e-mail address of the person
    email: String,
    /// The nick to propose; the person may choose another one
    #[arg(long)]
    nick: Option<String>,
    /// How long the link can be used: minutes, hours or days
    #[arg(long, value_name = "TIME", default_value = "7d")]
    expires: String,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args)]
pub(crate) struct UninviteUser {
    /// The e-mail address of the person
    email: String,
    #[command(flatten)]
    settings: Settings,
}

impl InviteUser {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        let email: Email = argument("EMAIL", &self.email)?;
        let nick: Option<Nick> =
            self.nick.as_deref().map(|nick| argument("--nick", nick)).transpose()?;
        let life: Life = argument("--expires", &self.expires)?;
        let config = self.settings.load(&[])?;
        if config.auth.registration == Registration::Closed {
            return Err(Refusal::with_code("registration_closed", invitations::CLOSED));
        }
        let (public_url, now) = (public_url(&config)?, Clock::system().now());
        let database = self.settings.open().await?;
        let invited =
            invitations::invite(&database.store, &public_url, email, nick, life, now).await;
        database.close().await;
        let NewInvitation { email, link, expires_at } = invited?;
        let text = format!("{email} can register once until {expires_at} UTC:\n{link}");
        let json = json!({
            "email": email.as_str(), "expires": expires_at.to_string(), "link": link.as_str(),
        });
        Output::new(text, json).print_after_change(self.settings.json)?;
        if !config.http.web.is_on() {
            failure::warn(invitations::NO_WEB);
        }
        if config.http.url_at(None).is_none() {
            failure::warn(
                "http.public_url is empty: the link begins with the address that the server listens on, which other machines may not reach",
            );
        }
        Ok(())
    }
}

/// Returns the URL that the link begins with.
fn public_url(config: &Config) -> Result<Url, Failed> {
    let address = match config.http.listen {
        Listen::Address(address) => Some(address),
        Listen::Unix(_) | Listen::Systemd => None,
    };
    config.http.url_at(address).ok_or_else(|| {
        let sentence = "http.public_url = \"\": must be set, because the link begins with it";
        Refusal::with_code("invalid_settings", sentence)
    })
}

pub(crate) async fn list(settings: Settings) -> Result<(), Failed> {
    let database = settings.open().await?;
    let invitations = database.store.invitations(Clock::system().now()).await;
    database.close().await;
    let invitations = invitations?;
    let lines = invitations.iter().map(|invitation| {
        let nick =
            if invitation.nick.is_empty() { "" } else { &format!(" as {}", invitation.nick) };
        let (created, expires) = (invitation.created_at, invitation.expires_at);
        format!("{}{nick}, invited {created}, until {expires} UTC", invitation.email)
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let invitations = invitations.iter().map(|invitation| {
        json!({
            "email": invitation.email.as_str(),
            "nick": invitation.nick,
            "invited": invitation.created_at.to_string(),
            "expires": invitation.expires_at.to_string(),
        })
    });
    let json = json!({ "invitations": invitations.collect::<Vec<_>>() });
    Output::new(text, json).print(settings.json)
}

impl UninviteUser {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        let email: Email = argument("EMAIL", &self.email)?;
        let database = self.settings.open().await?;
        let revoked = database.store.uninvite(&email, Clock::system().now()).await;
        database.close().await;
        let revoked = revoked?;
        let text = if revoked { "the invitation is revoked" } else { "there was no invitation" };
        Output::new(text, json!({ "revoked": revoked })).print_after_change(self.settings.json)
    }
}
