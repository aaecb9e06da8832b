//! Invitations: one-time links with which a person registers.
//!
//! The table holds the SHA-256 of a token, so who reads the database can't use an invitation. A used one stays for some
//! minutes, so that a person whose answer was lost gets it again.

use std::convert::Infallible;

use sha2::{Digest as _, Sha256};
use sqlx::FromRow;

use super::audit::{self, Event};
use super::error::Doing as _;
use super::listing::listed;
use super::sql::Sql;
use super::users::AddUser;
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Store, WriteError};
use crate::audit::Action;
use crate::domain::{Email, InvitationToken, Nick, Timestamp, UserId};

listed!(INVITE, ANY_OLD, FORGET, INVITATIONS, INVITATION_OF, UNINVITE, INVITED, USE, HAS_USER);

/// Seconds after its use in which an invitation answers the same registration again.
const REPEATED_WITHIN: i64 = 600;

const INVITE: Sql = Sql::both(
    "
    INSERT INTO invitations (email, token_digest, nick, created_at, expires_at)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (email) DO UPDATE
    SET token_digest = excluded.token_digest, nick = excluded.nick, created_at = excluded.created_at,
        expires_at = excluded.expires_at, used_at = NULL",
);

const ANY_OLD: Sql =
    Sql::both("SELECT EXISTS (SELECT 1 FROM invitations WHERE expires_at <= $1 OR used_at <= $2)");

const FORGET: Sql = Sql::both("DELETE FROM invitations WHERE expires_at <= $1 OR used_at <= $2");

const INVITATIONS: Sql = Sql::both(
    "
    SELECT email, nick, created_at, expires_at, used_at FROM invitations
    WHERE used_at IS NULL AND expires_at > $1 ORDER BY email",
);

const INVITATION_OF: Sql = Sql::both(
    "
    SELECT email, nick, created_at, expires_at, used_at FROM invitations
    WHERE email = $1 AND used_at IS NULL AND expires_at > $2",
);

const UNINVITE: Sql =
    Sql::both("DELETE FROM invitations WHERE email = $1 AND used_at IS NULL AND expires_at > $2");

const INVITED: Sql = Sql::both(
    "
    SELECT email, nick, created_at, expires_at, used_at FROM invitations WHERE token_digest = $1",
);

const USE: Sql = Sql::both("UPDATE invitations SET used_at = $2 WHERE token_digest = $1");

const HAS_USER: Sql = Sql::both("SELECT EXISTS (SELECT 1 FROM users WHERE id = $1)");

/// An invitation that is not expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invitation {
    pub(crate) email: Email,
    /// The nick that the operator proposes; may be empty.
    pub(crate) nick: String,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    pub(crate) is_used: bool,
}

#[derive(FromRow)]
struct InvitationRow {
    email: String,
    nick: String,
    created_at: i64,
    expires_at: i64,
    used_at: Option<i64>,
}

impl InvitationRow {
    fn invitation(self) -> Result<Invitation, Error> {
        let date = |seconds| {
            Timestamp::from_unix(seconds)
                .ok_or_else(|| Error::not_as_stored("the second of a date"))
        };
        Ok(Invitation {
            email: Email::from_stored(self.email),
            nick: self.nick,
            created_at: date(self.created_at)?,
            expires_at: date(self.expires_at)?,
            is_used: self.used_at.is_some(),
        })
    }

    /// Whether the invitation still answers: unused until it expires, used for some minutes more.
    fn answers(&self, now: Timestamp) -> bool {
        match self.used_at {
            None => self.expires_at > now.unix(),
            Some(used_at) => used_at > now.unix() - REPEATED_WITHIN,
        }
    }
}

fn digest(token: &InvitationToken) -> String {
    hex::encode(Sha256::digest(token.as_str()))
}

impl Store {
    /// Returns the invitations that can be used, by address.
    pub(crate) async fn invitations(&self, now: Timestamp) -> Result<Vec<Invitation>, Error> {
        let rows = self.reader().await?.query(INVITATIONS).bind(now.unix()).all().await;
        let rows: Vec<InvitationRow> = rows.doing("listing invitations")?;
        rows.into_iter().map(InvitationRow::invitation).collect()
    }

    /// Returns the invitation of an address that can be used.
    pub(crate) async fn invitation_of(
        &self,
        email: &Email,
        now: Timestamp,
    ) -> Result<Option<Invitation>, Error> {
        let mut reads = self.reader().await?;
        let row = reads.query(INVITATION_OF).bind(email.as_str()).bind(now.unix()).optional().await;
        let row: Option<InvitationRow> = row.doing("looking up the invitation of an address")?;
        row.map(InvitationRow::invitation).transpose()
    }

    /// Returns the invitation of a token. `None` if the token is unknown, revoked or expired, or was used a while ago.
    pub(crate) async fn invitation(
        &self,
        token: &InvitationToken,
        now: Timestamp,
    ) -> Result<Option<Invitation>, Error> {
        let mut reads = self.reader().await?;
        let row = reads.query(INVITED).bind(digest(token).as_str()).optional().await;
        let row: Option<InvitationRow> = row.doing("looking up an invitation")?;
        row.filter(|row| row.answers(now)).map(InvitationRow::invitation).transpose()
    }

    /// Removes the invitations that answered no more at this time. Returns whether there were any.
    pub(crate) async fn expire_invitations(&self, passed: Timestamp) -> Result<bool, Error> {
        let mut reads = self.reader().await?;
        let any = reads.query(ANY_OLD).bind(passed.unix()).bind(passed.unix() - REPEATED_WITHIN);
        let any = any.value().await.doing("looking for old invitations")?;
        drop(reads);
        if any {
            self.write(Expire(passed)).await?;
        }
        Ok(any)
    }

    /// Revokes an invitation. Returns whether there was one that could be used.
    pub(crate) async fn uninvite(&self, email: &Email, now: Timestamp) -> Result<bool, Error> {
        Ok(self.write(Uninvite { email: email.clone(), now }).await?)
    }
}

/// Invites a person. An earlier invitation of the address is replaced.
pub(crate) struct Invite {
    pub(crate) email: Email,
    pub(crate) nick: Option<Nick>,
    pub(crate) token: InvitationToken,
    pub(crate) now: Timestamp,
    pub(crate) expires_at: Timestamp,
}

/// A user has the address of an invitation, or its user ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HasUser;

impl WriteOp for Invite {
    type Output = ();
    type Refusal = HasUser;

    fn grows(&self) -> bool {
        true
    }

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError<HasUser>> {
        let has_user = tx.query(HAS_USER).await?.bind(UserId::of(&self.email).as_str());
        if has_user.value().await.doing("looking for a user")? {
            return Err(WriteError::Refused(HasUser));
        }
        forget(tx, self.now).await?;
        let invite = tx.query(INVITE).await?.bind(self.email.as_str());
        let invite = invite.bind(digest(&self.token).as_str());
        let invite = invite.bind(self.nick.as_ref().map_or("", Nick::as_str));
        let invite = invite.bind(self.now.unix()).bind(self.expires_at.unix());
        invite.execute().await.doing("inviting")?;
        let event = Event { invited: Some(&self.email), ..Event::default() };
        audit::record(tx, Action::UserInvited, event).await?;
        Ok(())
    }
}

/// Removes the invitations that answer no more.
async fn forget(tx: &mut WriteTx, now: Timestamp) -> Result<(), Error> {
    let forget = tx.query(FORGET).await?.bind(now.unix()).bind(now.unix() - REPEATED_WITHIN);
    forget.execute().await.map(drop).doing("removing old invitations")
}

/// Removes the invitations that answered no more at this time.
struct Expire(Timestamp);

impl WriteOp for Expire {
    type Output = ();
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError<Infallible>> {
        Ok(forget(tx, self.0).await?)
    }
}

struct Uninvite {
    email: Email,
    now: Timestamp,
}

impl WriteOp for Uninvite {
    type Output = bool;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<bool, WriteError<Infallible>> {
        let uninvite = tx.query(UNINVITE).await?.bind(self.email.as_str()).bind(self.now.unix());
        let revoked = uninvite.execute().await.doing("revoking an invitation")? > 0;
        if revoked {
            let event = Event { invited: Some(&self.email), ..Event::default() };
            audit::record(tx, Action::InvitationRevoked, event).await?;
        }
        Ok(revoked)
    }
}

/// Adds the user of an invitation, once.
pub(crate) struct Register {
    pub(crate) token: InvitationToken,
    pub(crate) user: AddUser,
    pub(crate) now: Timestamp,
}

/// The invitation can't be used, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotInvited;

impl WriteOp for Register {
    type Output = ();
    type Refusal = NotInvited;

    fn grows(&self) -> bool {
        true
    }

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError<NotInvited>> {
        let digest = digest(&self.token);
        let row = tx.query(INVITED).await?.bind(digest.as_str()).optional().await;
        let row: Option<InvitationRow> = row.doing("looking up an invitation")?;
        let is_unused = |row: &InvitationRow| {
            row.used_at.is_none()
                && row.answers(self.now)
                && row.email.as_str() == self.user.email.as_str()
        };
        if !row.as_ref().is_some_and(is_unused) {
            return Err(WriteError::Refused(NotInvited));
        }
        match self.user.insert(tx, Action::UserRegistered).await {
            Ok(()) => {}
            // The operator has added the user since. Nothing was written.
            Err(WriteError::Refused(_)) => return Err(WriteError::Refused(NotInvited)),
            Err(WriteError::Failed(error)) => return Err(WriteError::Failed(error)),
        }
        let mark = tx.query(USE).await?.bind(digest.as_str()).bind(self.now.unix());
        mark.execute().await.doing("using an invitation")?;
        Ok(())
    }
}
