//! Handlers of `chatregister` (docs/protocol.md#registering-c): what an invitation is for, and registering with it.

use super::request::Request;
use crate::app::App;
use crate::config::Registration;
use crate::domain::{ApiKey, FullName, InvitationToken, Nick, Parse, Timestamp};
use crate::envelope::Reply;
use crate::error::Error;
use crate::fields::Fields;
use crate::keys::{EncryptedPem, PublicKey};
use crate::store::{AddUser, Invitation, Register, WriteError};

/// The field with the token of an invitation.
const INVITATION: &str = "invitation";

/// A token as the client sent it. Any text parses, because a malformed token is answered like an unknown one.
struct PresentedToken(String);

impl Parse for PresentedToken {
    const EXPECTED: &'static str =
        "the token of an invitation, 40 lower-case hexadecimal characters";

    fn parse(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }
}

/// Reads the token. Returns a random one in place of a malformed one, so that both take the same time.
pub(super) fn token(fields: &Fields<'_>) -> Result<InvitationToken, Error> {
    let presented: PresentedToken = fields.required(INVITATION)?;
    Ok(InvitationToken::parse(&presented.0).unwrap_or_else(InvitationToken::generate))
}

/// Finds an invitation that still answers. [`Error::InvalidInvitation`] for any other token.
pub(super) async fn find(
    app: &App,
    token: &InvitationToken,
    now: Timestamp,
) -> Result<Invitation, Error> {
    let found = app.store.invitation(token, now).await?;
    let is_open = app.config.auth.registration == Registration::Invite;
    found.filter(|_| is_open).ok_or(Error::InvalidInvitation)
}

/// The names and the keys that a person registers with.
pub(super) struct NewAccount {
    nick: Nick,
    full_name: FullName,
    public_key: PublicKey,
    private_key: EncryptedPem,
}

pub(super) fn new_account(fields: &Fields<'_>) -> Result<NewAccount, Error> {
    Ok(NewAccount {
        nick: fields.required("nick")?,
        full_name: fields.optional("fullname")?.unwrap_or_default(),
        public_key: fields.required("publickey")?,
        private_key: fields.required("rsakey")?,
    })
}

pub(crate) async fn show(request: Request<'_>) -> Result<Reply, Error> {
    let app = request.app;
    let token = request.fields.take(token)?;
    let invitation = find(app, &token, request.caller.timestamp).await?;
    if invitation.is_used {
        return Err(Error::InvalidInvitation);
    }
    Ok(Reply::ok()
        .with("email", &invitation.email.as_str())
        .with("nick", &invitation.nick)
        .with("expires", &invitation.expires_at.to_string()))
}

pub(crate) async fn register(request: Request<'_>) -> Result<Reply, Error> {
    let (app, user, now) = (request.app, request.caller.user, request.caller.timestamp);
    let (token, account) =
        request.fields.take(|fields| Ok((token(fields)?, new_account(fields)?)))?;
    let email = find(app, &token, now).await?.email;
    let private_key = account.private_key.into_string();
    let add = AddUser {
        email: email.clone(),
        nick: account.nick,
        full_name: account.full_name,
        api_key: ApiKey::generate(),
        private_key: private_key.clone(),
        public_key: account.public_key,
    };
    let change = app.store.write(Register { token, user: add, now });
    match request.caller.actor().does(change).await {
        Ok(()) => {}
        // A registration whose answer was lost is sent again: only its sender knows the encrypted key.
        Err(WriteError::Refused(_)) => {
            let login = app.store.login(user).await?;
            if login.is_none_or(|login| login.private_key != private_key) {
                return Err(Error::InvalidInvitation);
            }
        }
        Err(WriteError::Failed(error)) => return Err(error.into()),
    }
    let api_key = app.store.signing_key(user).await?.ok_or(Error::InvalidInvitation)?;
    Ok(Reply::ok()
        .with("userid", &user.as_str())
        .with("email", &email.as_str())
        .with("apikey", &api_key.as_str()))
}
