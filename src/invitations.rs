//! Invitations: links with which people register.

use url::Url;

use crate::domain::{Email, InvitationToken, Nick, Parse, Timestamp};
use crate::store::{Invite, Store, WriteError};
use crate::users::UserError;

/// Why nobody is invited while `auth.registration` is `closed`.
pub(crate) const CLOSED: &str =
    "nobody can register: auth.registration is \"closed\"; set it to \"invite\" first";

/// A warning about links while `http.web` is off.
pub(crate) const NO_WEB: &str =
    "http.web is false: the link leads to a page that the server does not serve";

/// The life of an invitation, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life(pub(crate) u64);

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

/// An invitation, with the link that is shown once: the database has only a hash of its token.
pub(crate) struct NewInvitation {
    pub(crate) email: Email,
    pub(crate) link: Url,
    pub(crate) expires_at: Timestamp,
}

/// Invites a person. An earlier invitation of the address is replaced. The link begins with `public_url`.
///
/// # Errors
///
/// [`UserError::EmailTaken`] if the person is a user already, [`UserError::Store`].
pub(crate) async fn invite(
    store: &Store,
    public_url: &Url,
    email: Email,
    nick: Option<Nick>,
    life: Life,
    now: Timestamp,
) -> Result<NewInvitation, UserError> {
    let (token, expires_at) = (InvitationToken::generate(), now.plus_seconds(life.0));
    let link = link(public_url, &token);
    let invite = Invite { email: email.clone(), nick, token, now, expires_at };
    match store.write(invite).await {
        Ok(()) => Ok(NewInvitation { email, link, expires_at }),
        Err(WriteError::Refused(_)) => Err(UserError::EmailTaken(email.to_string())),
        Err(WriteError::Failed(error)) => Err(error.into()),
    }
}

/// Returns the link. The token is in the fragment, which no browser sends to a server.
fn link(public_url: &Url, token: &InvitationToken) -> Url {
    let mut link = public_url.join("app/invite.html").expect("the public URL has a path");
    link.set_fragment(Some(&format!("invite={}", token.as_str())));
    link
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
