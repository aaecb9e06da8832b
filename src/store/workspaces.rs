//! Workspaces: registered names and their owners.

use super::error::Doing as _;
use super::listing::listed;
use super::sql::Sql;
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Store, WriteError, stored};
use crate::domain::{Email, MOST_WORKSPACES, Refusal, Timestamp, UserId, WorkspaceName};

listed!(OWNER, COUNT, REGISTER, WORKSPACES);

const OWNER: Sql = Sql::both("SELECT owner_id FROM workspaces WHERE name = $1");

const COUNT: Sql = Sql::both("SELECT count(*) FROM workspaces WHERE owner_id = $1");

/// A user who was deleted a moment ago registers nothing.
const REGISTER: Sql = Sql::both(
    "
    INSERT INTO workspaces (name, owner_id, registered_at) SELECT $1, id, $3 FROM users WHERE id = $2",
);

const WORKSPACES: Sql = Sql::both(
    "
    SELECT w.name, w.owner_id, u.email, w.registered_at
    FROM workspaces w JOIN users u ON u.id = w.owner_id ORDER BY w.name",
);

/// A registered workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    pub name: String,
    pub(crate) owner: UserId,
    /// The owner's address.
    pub email: Email,
    pub(crate) registered_at: Timestamp,
}

impl Store {
    /// Returns all workspaces, by name.
    ///
    /// # Errors
    ///
    /// [`Error`] if the store failed.
    pub async fn workspaces(&self) -> Result<Vec<Workspace>, Error> {
        let rows = self.reader().await?.query(WORKSPACES).all().await;
        let rows: Vec<(String, String, String, i64)> = rows.doing("listing workspaces")?;
        let workspace = |(name, owner, email, at): (String, String, String, i64)| {
            let out_of_range =
                || sqlx::Error::Decode("a column does not hold the second of a date".into());
            let at = Timestamp::from_unix(at).ok_or_else(out_of_range);
            Ok(Workspace {
                name,
                owner: stored(&owner)?,
                email: Email::from_stored(email),
                registered_at: at.doing("reading when a workspace was registered")?,
            })
        };
        rows.into_iter().map(workspace).collect()
    }
}

/// Registers a workspace. Idempotent for its owner.
#[derive(Clone, Debug)]
pub(crate) struct RegisterWorkspace {
    pub(crate) name: WorkspaceName,
    pub(crate) owner: UserId,
    pub(crate) now: Timestamp,
}

impl WriteOp for RegisterWorkspace {
    type Output = ();
    /// [`Refusal::WorkspaceTaken`], [`Refusal::TooMany`].
    type Refusal = Refusal;

    fn grows(&self) -> bool {
        true
    }

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError> {
        let owner = tx.query(OWNER).await?.bind(self.name.as_str());
        let owner: Option<String> =
            owner.optional_value().await.doing("looking for a workspace")?;
        match owner {
            Some(owner) if owner == self.owner.as_str() => return Ok(()),
            Some(_) => return Err(Refusal::WorkspaceTaken.into()),
            None => {}
        }
        let count = tx.query(COUNT).await?.bind(self.owner.as_str());
        let count: i64 = count.value().await.doing("counting workspaces")?;
        if count >= i64::from(MOST_WORKSPACES) {
            return Err(
                Refusal::TooMany { what: "workspaces", most: MOST_WORKSPACES.into() }.into()
            );
        }
        let register = tx.query(REGISTER).await?.bind(self.name.as_str());
        let register = register.bind(self.owner.as_str()).bind(self.now.unix());
        register.execute().await.doing("registering a workspace")?;
        Ok(())
    }
}
