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
use crate::domain::{Email, InvitationToken, Nick, Parse};
use crate::store::{Invite, WriteError};
use crate::users::UserError;

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

/// The life of an invitation, in seconds.
pub(super) struct Life(pub(super) u64);

impl Parse for Life {
    const EXPECTED: &'static str =
        "a number of minutes, hours or days up to 90d, such as 30m, 12h or 7d";

    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let seconds = match unit {
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = number.parse().ok().filter(|number| is_number && *number > 0)?;
        let life = number.checked_mul(seconds)?;
        (life <= 90 * 86_400).then_some(Self(life))
    }
}

impl InviteUser {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        let email: Email = argument("EMAIL", &self.email)?;
        let nick: Option<Nick> =
            self.nick.as_deref().map(|nick| argument("--nick", nick)).transpose()?;
        let Life(life) = argument("--expires", &self.expires)?;
        let config = self.settings.load(&[])?;
        if config.auth.registration == Registration::Closed {
            let sentence =
                "nobody can register: auth.registration is \"closed\"; set it to \"invite\" first";
            return Err(Refusal::with_code("registration_closed", sentence));
        }
        let (token, now) = (InvitationToken::generate(), Clock::system().now());
        let link = link(&config, &token)?;
        let expires_at = now.plus_seconds(life);
        let invite = Invite { email: email.clone(), nick, token, now, expires_at };
        let database = self.settings.open().await?;
        let invited = database.store.write(invite).await;
        database.close().await;
        match invited {
            Ok(()) => {}
            Err(WriteError::Refused(_)) => {
                return Err(UserError::EmailTaken(email.to_string()).into());
            }
            Err(WriteError::Failed(error)) => return Err(error.into()),
        }
        let text = format!("{email} can register once until {expires_at} UTC:\n{link}");
        let json = json!({
            "email": email.as_str(), "expires": expires_at.to_string(), "link": link.as_str(),
        });
        Output::new(text, json).print_after_change(self.settings.json)?;
        if !config.http.web.is_on() {
            failure::warn(
                "http.web is false: the link leads to a page that the server does not serve",
            );
        }
        Ok(())
    }
}

/// Returns the link. The token is in the fragment, which no browser sends to a server.
fn link(config: &Config, token: &InvitationToken) -> Result<Url, Failed> {
    let address = match config.http.listen {
        Listen::Address(address) => Some(address),
        Listen::Unix(_) | Listen::Systemd => None,
    };
    let url = config.http.url_at(address).ok_or_else(|| {
        let sentence = "http.public_url = \"\": must be set, because the link begins with it";
        Refusal::with_code("invalid_settings", sentence)
    })?;
    let mut link = url.join("app/invite.html").expect("the public URL has a path");
    link.set_fragment(Some(&format!("invite={}", token.as_str())));
    Ok(link)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_a_number_of_minutes_hours_or_days() {
        let seconds = |text| Life::parse(text).map(|Life(seconds)| seconds);
        assert_eq!(
            ["30m", "12h", "7d", "90d"].map(seconds),
            [1800, 43_200, 604_800, 7_776_000].map(Some)
        );
        let wrong = [
            "",
            "d",
            "7",
            "0d",
            "91d",
            "-1d",
            "+1d",
            "1.5h",
            "7w",
            "7 d",
            "7ä",
            "99999999999999999999d",
        ];
        for text in wrong {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
