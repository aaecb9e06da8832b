//! Requests for friendship: asking, accepting, declining, and taking back.
//!
//! Who asks must not learn whether the addressee exists, has declined, or has blocked the asker. So a request
//! is kept whoever it is for, and one that is not to be shown is silent and otherwise like any other.

use super::changes::ChangeLog;
use super::error::Doing as _;
use super::friends::end_friendship;
use super::objects::friend_request_object;
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Befriend, Error, Store, WireText};
use crate::domain::{
    Approach, Approached, Between, ChangeSet, FriendRequest, Refusal, StationId, Subject, UserId,
};
use crate::store::WriteError;
use std::convert::Infallible;

/// The most incoming requests that are shown: how many there are is up to others.
const MOST_SHOWN: u16 = 200;

const REQUESTS: &str = concat!(
    "SELECT coalesce((
                SELECT string_agg(concat(",
    friend_request_object!("from_id", "nick"),
    "), ',' ORDER BY from_id)
                FROM (SELECT r.from_id, u.nick
                      FROM friend_requests r JOIN users u ON u.id = r.from_id
                      WHERE r.to_id = $1 AND r.is_open AND NOT r.is_silent
                      ORDER BY r.from_id LIMIT $2) AS shown), ''),
            coalesce((
                SELECT string_agg(concat(",
    friend_request_object!("to_id", "''"),
    "), ',' ORDER BY to_id)
                FROM friend_requests WHERE from_id = $1 AND is_open), '')"
);

/// Whether the two are friends, whether the other's open request is silent, whether there is one of the
/// user's own, and how many of these there are in all.
const BETWEEN: &str = "
    SELECT EXISTS (SELECT 1 FROM friends WHERE user_id = $1 AND friend_id = $2),
           (SELECT is_silent FROM friend_requests WHERE from_id = $2 AND to_id = $1 AND is_open),
           EXISTS (SELECT 1 FROM friend_requests WHERE from_id = $1 AND to_id = $2 AND is_open),
           (SELECT count(*) FROM friend_requests WHERE from_id = $1 AND is_open)";

/// What was silent stays silent.
const ASK: &str = "
    INSERT INTO friend_requests (from_id, to_id, is_open, is_silent)
    VALUES ($1, $2, TRUE,
            EXISTS (SELECT 1 FROM blocks WHERE user_id = $2 AND blocked_id = $1))
    ON CONFLICT (from_id, to_id) DO UPDATE SET is_open = TRUE
    RETURNING is_silent";

const SILENCE: &str = "
    UPDATE friend_requests SET is_silent = TRUE
    WHERE from_id = $1 AND to_id = $2 AND is_open AND NOT is_silent";

const TAKE_BACK: &str = "
    DELETE FROM friend_requests
    WHERE from_id = $1 AND to_id = $2 AND is_open AND NOT is_silent";

const TAKE_BACK_SILENT: &str = "
    UPDATE friend_requests SET is_open = FALSE WHERE from_id = $1 AND to_id = $2 AND is_open";

const EXISTS: &str = "SELECT EXISTS (SELECT 1 FROM users WHERE id = $1)";

/// The open requests of a user, in ascending order of the ids: objects, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requests {
    /// Who has asked the user, with nicks.
    pub incoming: WireText,
    /// Whom the user has asked, without.
    pub outgoing: WireText,
}

impl Store {
    /// The open requests of a user.
    ///
    /// # Errors
    ///
    /// [`Error`] where they could not be read.
    pub async fn friend_requests(&self, user: UserId) -> Result<Requests, Error> {
        let requests =
            sqlx::query_as(REQUESTS).bind(user.as_str().to_owned()).bind(i64::from(MOST_SHOWN));
        let requests = requests.fetch_one(&mut *self.reader().await?).await;
        let (incoming, outgoing) = requests.doing("listing friend requests")?;
        Ok(Requests { incoming, outgoing })
    }
}

/// Asks a user for friendship, or accepts what that user has asked.
#[derive(Clone, Debug)]
pub struct ApproachFriend {
    /// How.
    pub approach: Approach,
    /// The user who asks or accepts.
    pub user: UserId,
    /// The other user, who need not exist.
    pub other: UserId,
    /// What it takes if they become friends now; the user stands first in it.
    pub befriend: Option<Befriend>,
    /// The station of the change, which is not told of it.
    pub station: Option<StationId>,
}

impl WriteOp for ApproachFriend {
    type Output = ();
    /// [`Refusal::TooMany`], [`Refusal::TooManyFriends`], and [`Refusal::Outdated`] where they would become friends and
    /// `befriend` is not what that takes now.
    type Refusal = Refusal;

    fn grows(&self) -> bool {
        true
    }

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError> {
        let between = sqlx::query_as(BETWEEN).bind(self.user.as_str()).bind(self.other.as_str());
        let between = between.fetch_one(tx.connection().await?).await;
        let (are_friends, theirs_is_silent, has_asked, open_requests): (_, Option<bool>, _, _) =
            between.doing("judging a friend request")?;
        let theirs = theirs_is_silent
            .map(|is_silent| if is_silent { FriendRequest::Silent } else { FriendRequest::Shown });
        let between = Between { are_friends, theirs, has_asked, open_requests };
        match self.approach.decide(between)? {
            Approached::Nothing => {}
            Approached::Ask => self.ask(tx).await?,
            Approached::Befriend => {
                let befriend = self.befriend.as_ref().ok_or(Refusal::Outdated)?;
                befriend.make(tx, self.station).await?;
            }
        }
        Ok(())
    }
}

impl ApproachFriend {
    async fn ask(&self, tx: &mut WriteTx) -> Result<(), Error> {
        let user = self.user;
        let ask = sqlx::query_scalar(ASK).bind(user.as_str()).bind(self.other.as_str());
        let is_silent: bool =
            ask.fetch_one(tx.connection().await?).await.doing("storing a friend request")?;
        let mut changes = ChangeSet::default().with(user, Subject::Lists, self.station);
        if !is_silent && exists(tx, self.other).await? {
            changes.add(self.other, Subject::Lists, None);
        }
        ChangeLog::from(changes).record(tx).await
    }
}

/// Declines what another user has asked, who is not told of it.
#[derive(Clone, Debug)]
pub struct DeclineFriend {
    /// The user who declines.
    pub user: UserId,
    /// The user who has asked.
    pub other: UserId,
    /// The station of the change, which is not told of it.
    pub station: Option<StationId>,
}

impl WriteOp for DeclineFriend {
    type Output = ();
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError<Infallible>> {
        if silence(tx, self.other, self.user).await? {
            let changes = ChangeSet::default().with(self.user, Subject::Lists, self.station);
            ChangeLog::from(changes).record(tx).await?;
        }
        Ok(())
    }
}

/// Ends a friendship, or takes back what was asked for one.
#[derive(Clone, Debug)]
pub struct RemoveFriend {
    /// The user who ends it.
    pub user: UserId,
    /// The friend, or the user who was asked.
    pub other: UserId,
    /// The station of the change, which is not told of it.
    pub station: Option<StationId>,
}

impl WriteOp for RemoveFriend {
    type Output = ();
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError<Infallible>> {
        let user = self.user;
        let mut changes = ChangeSet::default();
        if end_friendship(tx, user, self.other).await? {
            changes = ChangeSet::end_of_friendship(user, self.other, self.station);
        }
        if changes_request(tx, TAKE_BACK, user, self.other).await? {
            changes.add(user, Subject::Lists, self.station);
            if exists(tx, self.other).await? {
                changes.add(self.other, Subject::Lists, None);
            }
        } else if changes_request(tx, TAKE_BACK_SILENT, user, self.other).await? {
            changes.add(user, Subject::Lists, self.station);
        }
        ChangeLog::from(changes).record(tx).await?;
        Ok(())
    }
}

/// Whether there was a request for this statement to change.
async fn changes_request(
    tx: &mut WriteTx,
    statement: &'static str,
    from: UserId,
    to: UserId,
) -> Result<bool, Error> {
    let change = sqlx::query(statement).bind(from.as_str()).bind(to.as_str());
    let change = change.execute(tx.connection().await?).await.doing("changing a friend request")?;
    Ok(change.rows_affected() > 0)
}

/// Shows a request to its addressee no more; whether it was shown.
pub(super) async fn silence(tx: &mut WriteTx, from: UserId, to: UserId) -> Result<bool, Error> {
    changes_request(tx, SILENCE, from, to).await
}

async fn exists(tx: &mut WriteTx, user: UserId) -> Result<bool, Error> {
    let exists = sqlx::query_scalar(EXISTS).bind(user.as_str());
    exists.fetch_one(tx.connection().await?).await.doing("looking for a user")
}
