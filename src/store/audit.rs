//! The audit log: what was done to accounts, keys, friendships and retention, and by whom.
//!
//! An entry is written by the transaction of its change. Only that of a sweep of retention, which is many transactions,
//! follows it. Entries are only added, but for four cases: those past `audit.days` are removed; of what one client does,
//! [`OF_A_CLIENT`] entries are kept; a deletion removes what tells more of the user than the tombstone's id; and an addition
//! that is taken back at once leaves none.

use std::convert::Infallible;

use serde::Serialize;
use sqlx::FromRow;

use super::error::Doing as _;
use super::listing::listed;
use super::sql::Sql;
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Removed, RemovedOf, Store, WriteError};
use crate::audit::{Action, Actor};
use crate::clock::Clock;
use crate::domain::{ConversationId, Email, Parse as _, Timestamp, UserId};

listed!(
    RECORD,
    FORGET_OLDEST,
    NAME_INVITED,
    FORGET_ADDED,
    UNNAME_INVITED,
    FORGET_ADDRESSES,
    FORGET_DETAILS,
    NUMBER,
    NEWEST_FIRST,
    OLDEST_FIRST,
    NEWEST_FIRST_OF_USER,
    OLDEST_FIRST_OF_USER,
    ANY_EXPIRED,
    EXPIRE
);

/// Maximum entries of what one user does through the API; the oldest ones go. Otherwise a client could fill the disk.
const OF_A_CLIENT: i64 = 1000;

/// Maximum entries removed by one step of expiry.
const STEP: i64 = 1000;

const RECORD: Sql = Sql::both(
    "
    INSERT INTO audit (number, at, action, via, operator, address, actor_number, subject_number, other_number,
                       conversation_number, email, details)
    VALUES ((SELECT coalesce(max(number), 0) + 1 FROM audit), $1, $2, $3, $4, $5,
            (SELECT number FROM users WHERE id = $6), (SELECT number FROM users WHERE id = $7),
            (SELECT number FROM users WHERE id = $8), (SELECT number FROM conversations WHERE id = $9), $10, $11)",
);

/// The entry of the registration stays: it is the only one about where the account came from.
const FORGET_OLDEST: Sql = Sql::both(
    "
    DELETE FROM audit WHERE actor_number = (SELECT number FROM users WHERE id = $1) AND number <= (
        SELECT number FROM audit WHERE actor_number = (SELECT number FROM users WHERE id = $1)
        ORDER BY number DESC LIMIT 1 OFFSET $2) AND action <> 'user_registered'",
);

/// Replaces an invited address by its user.
const NAME_INVITED: Sql = Sql::both(
    "
    UPDATE audit SET email = '', subject_number = (SELECT number FROM users WHERE id = $1)
    WHERE email <> '' AND email = $2",
);

/// Removes the addition of a user who is taken back.
const FORGET_ADDED: Sql = Sql::both(
    "
    DELETE FROM audit
    WHERE subject_number = (SELECT number FROM users WHERE id = $1) AND action = 'user_added'",
);

/// Undoes [`NAME_INVITED`]. The next user gets the same number.
const UNNAME_INVITED: Sql = Sql::both(
    "
    UPDATE audit SET subject_number = NULL, email = (SELECT email FROM users WHERE id = $1)
    WHERE subject_number = (SELECT number FROM users WHERE id = $1)",
);

const FORGET_ADDRESSES: Sql =
    Sql::both("UPDATE audit SET address = '' WHERE actor_number = $1 AND address <> ''");

const FORGET_DETAILS: Sql =
    Sql::both("UPDATE audit SET details = '' WHERE subject_number = $1 AND details <> ''");

/// Finds tombstones, too.
const NUMBER: Sql = Sql::both("SELECT number FROM users WHERE id = $1");

/// The text of the statement for a page of entries with this condition in this order.
macro_rules! entries {
    ($($condition:literal),+; $order:literal) => {
        concat!(
            "
    SELECT a.number, a.at, a.action, a.via, a.operator, a.address, a.email AS invited, a.details,
           by_user.id AS actor_id, by_user.email AS actor_email, subject.id AS subject_id,
           subject.email AS subject_email, other.id AS other_id, other.email AS other_email,
           c.id AS conversation_id
    FROM audit a
    LEFT JOIN users by_user ON by_user.number = a.actor_number
    LEFT JOIN users subject ON subject.number = a.subject_number
    LEFT JOIN users other ON other.number = a.other_number
    LEFT JOIN conversations c ON c.number = a.conversation_number
    WHERE ",
            $($condition,)+
            " AND a.at >= $2 ORDER BY a.number ",
            $order,
            " LIMIT $3"
        )
    };
}

/// The same with the condition that an entry names the user of ID $4, also a deleted one, or the invited address $5. Each
/// part has an index.
macro_rules! of_user {
    ($condition:literal; $order:literal) => {
        entries!(
            "a.number IN (
        SELECT number FROM audit WHERE subject_number = (SELECT number FROM users WHERE id = $4)
        UNION ALL SELECT number FROM audit WHERE other_number = (SELECT number FROM users WHERE id = $4)
        UNION ALL SELECT number FROM audit WHERE actor_number = (SELECT number FROM users WHERE id = $4)
        UNION ALL SELECT number FROM audit WHERE email <> '' AND email = $5) AND ",
            $condition;
            $order
        )
    };
}

const NEWEST_FIRST: Sql = Sql::both(entries!("a.number < $1"; "DESC"));
const OLDEST_FIRST: Sql = Sql::both(entries!("a.number > $1"; "ASC"));
const NEWEST_FIRST_OF_USER: Sql = Sql::both(of_user!("a.number < $1"; "DESC"));
const OLDEST_FIRST_OF_USER: Sql = Sql::both(of_user!("a.number > $1"; "ASC"));

const ANY_EXPIRED: Sql = Sql::both("SELECT EXISTS (SELECT 1 FROM audit WHERE at < $1)");

const EXPIRE: Sql = Sql::both(
    "
    DELETE FROM audit WHERE number IN (SELECT number FROM audit WHERE at < $1 ORDER BY at LIMIT $2)",
);

/// A change to be recorded. Its author is [`WriteTx::actor`].
#[derive(Clone, Copy, Default)]
pub(super) struct Event<'a> {
    /// The user whom the change concerns.
    pub(super) user: Option<UserId>,
    /// The other user of a friendship.
    pub(super) other: Option<UserId>,
    pub(super) conversation: Option<ConversationId>,
    /// An address without a user.
    pub(super) invited: Option<&'a Email>,
    /// More about the change. Nothing personal beside what belongs to `user`.
    pub(super) details: &'a str,
}

impl<'a> Event<'a> {
    pub(super) fn about(user: UserId) -> Self {
        Self { user: Some(user), ..Self::default() }
    }

    pub(super) fn between(one: UserId, other: UserId) -> Self {
        Self { user: Some(one), other: Some(other), ..Self::default() }
    }

    pub(super) fn with_details(self, details: &'a str) -> Self {
        Self { details, ..self }
    }
}

/// Adds an entry. Call it while the users and the conversation of the event exist.
pub(super) async fn record(
    tx: &mut WriteTx,
    action: Action,
    event: Event<'_>,
) -> Result<(), Error> {
    let actor = tx.actor().clone();
    let (user, address) = actor.client();
    let address = address.map(|address| address.to_string()).unwrap_or_default();
    let id = |user: &Option<UserId>| user.as_ref().map(ToString::to_string);
    let record = tx.query(RECORD).await?;
    let record = record
        .bind(Clock::system().now().unix())
        .bind(action.as_str())
        .bind(actor.via().as_str())
        .bind(actor.operator())
        .bind(address.as_str())
        .bind(id(&user).as_deref())
        .bind(id(&event.user).as_deref())
        .bind(id(&event.other).as_deref())
        .bind(event.conversation.map(|id| id.to_string()).as_deref())
        .bind(event.invited.map_or("", Email::as_str))
        .bind(event.details);
    record.execute().await.doing("recording a change for the audit log")?;
    if let Some(user) = user {
        let forget = tx.query(FORGET_OLDEST).await?.bind(user.as_str()).bind(OF_A_CLIENT);
        forget.execute().await.doing("removing the oldest entries of the audit log")?;
    }
    Ok(())
}

/// Lets the entries about an invited address name its new user.
pub(super) async fn name_invited(
    tx: &mut WriteTx,
    user: UserId,
    email: &Email,
) -> Result<(), Error> {
    let name = tx.query(NAME_INVITED).await?.bind(user.as_str()).bind(email.as_str());
    name.execute().await.map(drop).doing("naming a user in the audit log")
}

/// Removes the addition of a new user who is taken back. Other entries name the address again.
pub(super) async fn forget_added(tx: &mut WriteTx, user: UserId) -> Result<(), Error> {
    for statement in [FORGET_ADDED, UNNAME_INVITED] {
        let forget = tx.query(statement).await?.bind(user.as_str());
        forget.execute().await.doing("removing a new user from the audit log")?;
    }
    Ok(())
}

/// Removes what tells more of a deleted user than the number, which leads to the tombstone.
pub(super) async fn forget_deleted(tx: &mut WriteTx, number: i64) -> Result<(), Error> {
    for statement in [FORGET_ADDRESSES, FORGET_DETAILS] {
        let forget = tx.query(statement).await?.bind(number);
        forget.execute().await.doing("removing a user from the audit log")?;
    }
    Ok(())
}

/// A change with its actor.
pub(super) struct Acting<C> {
    pub(super) actor: Actor,
    pub(super) change: C,
}

impl<C: WriteOp> WriteOp for Acting<C> {
    type Output = C::Output;
    type Refusal = C::Refusal;

    const IS_FOR_ITS_ANSWER: bool = C::IS_FOR_ITS_ANSWER;

    fn grows(&self) -> bool {
        self.change.grows()
    }

    fn bytes(&self) -> usize {
        self.change.bytes()
    }

    async fn apply(&self, tx: &mut WriteTx) -> Result<C::Output, WriteError<C::Refusal>> {
        tx.set_actor(&self.actor);
        self.change.apply(tx).await
    }
}

/// Records a removal of old messages, which are many changes.
struct NoteRemoval {
    details: String,
}

impl WriteOp for NoteRemoval {
    type Output = ();
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError<Infallible>> {
        let event = Event::default().with_details(&self.details);
        Ok(record(tx, Action::MessagesRemoved, event).await?)
    }
}

struct Expire(Timestamp);

impl WriteOp for Expire {
    type Output = ();
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError<Infallible>> {
        let expire = tx.query(EXPIRE).await?.bind(self.0.unix()).bind(STEP);
        expire.execute().await.doing("removing old entries of the audit log")?;
        Ok(())
    }
}

/// An entry of the log.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct AuditEntry {
    pub(crate) number: i64,
    at: i64,
    pub(crate) action: String,
    pub(crate) via: String,
    pub(crate) operator: String,
    pub(crate) address: String,
    /// The invited address, while it has no user.
    pub(crate) invited: String,
    pub(crate) details: String,
    actor_id: Option<String>,
    actor_email: Option<String>,
    subject_id: Option<String>,
    subject_email: Option<String>,
    other_id: Option<String>,
    other_email: Option<String>,
    pub(crate) conversation_id: Option<String>,
}

/// A user in an entry. The address of a deleted one is empty.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Named<'a> {
    #[serde(rename = "userid")]
    pub(crate) id: &'a str,
    pub(crate) email: &'a str,
}

impl AuditEntry {
    pub(crate) fn date(&self) -> String {
        Timestamp::from_unix(self.at).map_or_else(|| self.at.to_string(), |at| at.to_string())
    }

    /// Returns the user who made the change through the API.
    pub(crate) fn actor(&self) -> Option<Named<'_>> {
        named(self.actor_id.as_deref(), self.actor_email.as_deref())
    }

    /// Returns the user whom the change concerns.
    pub(crate) fn subject(&self) -> Option<Named<'_>> {
        named(self.subject_id.as_deref(), self.subject_email.as_deref())
    }

    /// Returns the other user of a friendship.
    pub(crate) fn other(&self) -> Option<Named<'_>> {
        named(self.other_id.as_deref(), self.other_email.as_deref())
    }
}

fn named<'a>(id: Option<&'a str>, email: Option<&'a str>) -> Option<Named<'a>> {
    Some(Named { id: id?, email: email? })
}

/// A user whose entries to read: one who is or was there, or an invited address.
#[derive(Clone, Debug)]
pub(crate) struct AuditedUser {
    id: UserId,
    email: Option<Email>,
}

impl AuditedUser {
    /// Reads an e-mail address or a user ID.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(Self { id: UserId::named(name)?, email: Email::parse(name) })
    }
}

/// Start and order of a page of entries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AuditStart {
    /// The newest entries first, with lower numbers than this.
    NewestBefore(i64),
    /// The oldest entries first, with higher numbers than this.
    OldestAfter(i64),
}

/// Which entries to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AuditQuery<'a> {
    /// The oldest date.
    pub(crate) since: Option<Timestamp>,
    pub(crate) user: Option<&'a AuditedUser>,
    pub(crate) start: AuditStart,
    /// Maximum number of entries.
    pub(crate) most: u32,
}

impl Store {
    /// Returns a page of entries of the log.
    pub(crate) async fn audit(&self, query: AuditQuery<'_>) -> Result<Vec<AuditEntry>, Error> {
        let AuditQuery { since, user, start, most } = query;
        let (statement, number) = match (start, user) {
            (AuditStart::NewestBefore(number), None) => (NEWEST_FIRST, number),
            (AuditStart::NewestBefore(number), Some(_)) => (NEWEST_FIRST_OF_USER, number),
            (AuditStart::OldestAfter(number), None) => (OLDEST_FIRST, number),
            (AuditStart::OldestAfter(number), Some(_)) => (OLDEST_FIRST_OF_USER, number),
        };
        let mut reads = self.reader().await?;
        let entries = reads.query(statement).bind(number);
        let entries = entries.bind(since.map_or(i64::MIN, Timestamp::unix)).bind(i64::from(most));
        let entries = match user {
            Some(AuditedUser { id, email }) => {
                entries.bind(id.as_str()).bind(email.as_ref().map_or("", Email::as_str))
            }
            None => entries,
        };
        entries.all().await.doing("reading the audit log")
    }

    /// Whether the database has this user, or a tombstone of this ID.
    pub(crate) async fn has_had(&self, user: &AuditedUser) -> Result<bool, Error> {
        let mut reads = self.reader().await?;
        let number = reads.query(NUMBER).bind(user.id.as_str()).optional_value().await;
        let number: Option<i64> = number.doing("looking for a user")?;
        Ok(number.is_some())
    }

    /// Records what retention has removed, unless that is nothing.
    pub(crate) async fn note_removal(&self, removed: &RemovedOf) -> Result<(), Error> {
        if removed.is_empty() {
            return Ok(());
        }
        let mut total = Removed::default();
        for removed in removed.values() {
            total.add(*removed);
        }
        let Removed { messages, emptied, bytes } = total;
        let conversations = removed.len();
        let details = format!(
            "conversations: {conversations}, messages: {messages}, emptied: {emptied}, bytes of data: {bytes}"
        );
        Ok(self.write(NoteRemoval { details }).await?)
    }

    /// Removes up to 1,000 entries from before this date. Returns whether there were any.
    pub(crate) async fn expire_audit(&self, before: Timestamp) -> Result<bool, Error> {
        let any = self.reader().await?.query(ANY_EXPIRED).bind(before.unix()).value().await;
        let any = any.doing("looking for old entries of the audit log")?;
        if any {
            self.write(Expire(before)).await?;
        }
        Ok(any)
    }
}
