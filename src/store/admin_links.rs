//! Links to the admin page: each can be used once, until it expires.
//!
//! The table holds the SHA-256 of a token, so who reads the database can't use a link.

use std::convert::Infallible;

use sha2::{Digest as _, Sha256};

use super::audit::{self, Event};
use super::error::Doing as _;
use super::listing::listed;
use super::sql::{Connection, Sql};
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Store, WriteError};
use crate::audit::{Action, Actor};
use crate::domain::{AdminToken, Timestamp};

listed!(MAKE, FORGET, FORGET_ALL, OPERATOR, SPEND);

const MAKE: Sql =
    Sql::both("INSERT INTO admin_links (token_digest, operator, expires_at) VALUES ($1, $2, $3)");

const FORGET: Sql = Sql::both("DELETE FROM admin_links WHERE expires_at <= $1");

const FORGET_ALL: Sql = Sql::both("DELETE FROM admin_links");

const OPERATOR: Sql =
    Sql::both("SELECT operator FROM admin_links WHERE token_digest = $1 AND expires_at > $2");

const SPEND: Sql = Sql::both("DELETE FROM admin_links WHERE token_digest = $1 AND expires_at > $2");

fn digest(token: &AdminToken) -> String {
    hex::encode(Sha256::digest(token.as_str()))
}

/// Removes all links. A backup may hold links that were used since.
pub(super) async fn forget_all(connection: &mut Connection) -> Result<(), sqlx::Error> {
    connection.query(FORGET_ALL).execute().await.map(drop)
}

impl Store {
    /// Spends a link. Returns who made it, or `None` if it is unknown, used or expired.
    pub(crate) async fn spend_admin_link(
        &self,
        token: &AdminToken,
        now: Timestamp,
    ) -> Result<Option<String>, Error> {
        // A guess costs a read, not a commit.
        let mut reads = self.reader().await?;
        let operator = reads.query(OPERATOR).bind(digest(token).as_str()).bind(now.unix());
        let operator: Option<String> =
            operator.optional_value().await.doing("looking up an admin link")?;
        drop(reads);
        let Some(operator) = operator else { return Ok(None) };
        let actor = Actor::AdminPage { operator: operator.clone() };
        let is_spent = actor.does(self.write(SpendAdminLink { token: *token, now })).await?;
        Ok(is_spent.then_some(operator))
    }
}

/// Makes a link, and removes the expired ones. It does not count as growth: the admin page helps while the disk is full.
pub(crate) struct MakeAdminLink {
    pub(crate) token: AdminToken,
    pub(crate) operator: String,
    pub(crate) now: Timestamp,
    pub(crate) expires_at: Timestamp,
}

impl WriteOp for MakeAdminLink {
    type Output = ();
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError<Infallible>> {
        let forget = tx.query(FORGET).await?.bind(self.now.unix());
        forget.execute().await.doing("removing expired admin links")?;
        let make = tx.query(MAKE).await?.bind(digest(&self.token).as_str());
        let make = make.bind(self.operator.as_str()).bind(self.expires_at.unix());
        make.execute().await.doing("making an admin link")?;
        Ok(audit::record(tx, Action::AdminLinkMade, Event::default()).await?)
    }
}

struct SpendAdminLink {
    token: AdminToken,
    now: Timestamp,
}

impl WriteOp for SpendAdminLink {
    /// Whether the link was usable.
    type Output = bool;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<bool, WriteError<Infallible>> {
        let spend = tx.query(SPEND).await?.bind(digest(&self.token).as_str());
        let count = spend.bind(self.now.unix()).execute().await.doing("using an admin link")?;
        if count > 0 {
            audit::record(tx, Action::AdminPageEntered, Event::default()).await?;
        }
        Ok(count > 0)
    }
}
