//! Friend requests: asking, accepting, declining and taking back.
//!
//! The asking user must not learn whether the addressee exists, has declined, or has blocked the asking user. So every
//! request is stored, whether its addressee exists or not. A request that must not be shown is silent; otherwise it is
//! like any other.

use std::convert::Infallible;

use super::changes::ChangeLog;
use super::error::Doing as _;
use super::friends::end_friendship;
use super::listing::listed;
use super::objects::friend_request_object;
use super::sql::{Sql, Utf8};
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Befriend, Error, Store, WireText, WriteError};
use crate::domain::{
    Approach, Approached, Between, ChangeSet, FriendRequest, Refusal, StationId, Subject, UserId,
};

listed!(REQUESTS, BETWEEN, ASK, SILENCE, TAKE_BACK, TAKE_BACK_SILENT, EXISTS);

/// Maximum incoming requests shown. Other users determine how many there are.
const MOST_SHOWN: u16 = 200;

const REQUESTS: Sql = Sql::both(concat!(
    "SELECT coalesce((
                SELECT string_agg(concat(",
    friend_request_object!("from_id", "nick"),
    "), ',' ORDER BY from_id)
                FROM (SELECT r.from_id, u.nick
                      FROM friend_requests r JOIN users u ON u.id = r.from_id
                      WHERE r.to_id = $1 AND r.is_open AND NOT r.is_silent AND NOT u.is_disabled
                      ORDER BY r.from_id LIMIT $2) AS shown), ''),
            coalesce((
                SELECT string_agg(concat(",
    friend_request_object!("to_id", "''"),
    "), ',' ORDER BY to_id)
                FROM friend_requests WHERE from_id = $1 AND is_open), '')"
));

/// Columns: whether the two are friends; whether the other's open request is silent; whether the user has an open
/// request to the other; number of the user's open requests.
const BETWEEN: Sql = Sql::both(
    "
    SELECT EXISTS (SELECT 1 FROM friends WHERE user_id = $1 AND friend_id = $2),
           (SELECT is_silent FROM friend_requests WHERE from_id = $2 AND to_id = $1 AND is_open),
           EXISTS (SELECT 1 FROM friend_requests WHERE from_id = $1 AND to_id = $2 AND is_open),
           (SELECT count(*) FROM friend_requests WHERE from_id = $1 AND is_open)",
);

/// A silent request stays silent when it is asked again. A user who was deleted a moment ago asks nobody.
const ASK: Sql = Sql::both(
    "
    INSERT INTO friend_requests (from_id, to_id, is_open, is_silent)
    SELECT $1, $2, TRUE,
           EXISTS (SELECT 1 FROM blocks WHERE user_id = $2 AND blocked_id = $1)
    FROM users WHERE id = $1
    ON CONFLICT (from_id, to_id) DO UPDATE SET is_open = TRUE
    RETURNING is_silent",
);

const SILENCE: Sql = Sql::both(
    "
    UPDATE friend_requests SET is_silent = TRUE
    WHERE from_id = $1 AND to_id = $2 AND is_open AND NOT is_silent",
);

const TAKE_BACK: Sql = Sql::both(
    "
    DELETE FROM friend_requests
    WHERE from_id = $1 AND to_id = $2 AND is_open AND NOT is_silent",
);

const TAKE_BACK_SILENT: Sql = Sql::both(
    "
    UPDATE friend_requests SET is_open = FALSE WHERE from_id = $1 AND to_id = $2 AND is_open",
);

const EXISTS: Sql = Sql::both("SELECT EXISTS (SELECT 1 FROM users WHERE id = $1)");

/// A user's open requests, in ascending order of the other user's ID: objects, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Requests {
    /// Requests to the user, with nicks: at most 200, without silent ones.
    pub(crate) incoming: WireText,
    /// Requests by the user, with empty nicks.
    pub(crate) outgoing: WireText,
}

impl Store {
    pub(crate) async fn friend_requests(&self, user: UserId) -> Result<Requests, Error> {
        let mut reads = self.reader().await?;
        let requests = reads.query(REQUESTS).bind(user.as_str()).bind(i64::from(MOST_SHOWN));
        let (Utf8(incoming), Utf8(outgoing)) =
            requests.one().await.doing("listing friend requests")?;
        Ok(Requests { incoming, outgoing })
    }
}

/// Sends a friend request, or accepts the other user's.
#[derive(Clone, Debug)]
pub(crate) struct ApproachFriend {
    pub(crate) approach: Approach,
    pub(crate) user: UserId,
    /// Need not exist.
    pub(crate) other: UserId,
    /// The data needed if the two become friends now, with `user` first.
    pub(crate) befriend: Option<Befriend>,
    /// The calling station, which is not told of the change.
    pub(crate) station: Option<StationId>,
}

impl WriteOp for ApproachFriend {
    type Output = ();
    /// [`Refusal::TooMany`], [`Refusal::TooManyFriends`], and [`Refusal::Outdated`] if they would become friends but
    /// `befriend` is missing or outdated.
    type Refusal = Refusal;

    fn grows(&self) -> bool {
        true
    }

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError> {
        let between = tx.query(BETWEEN).await?.bind(self.user.as_str()).bind(self.other.as_str());
        let (are_friends, theirs_is_silent, has_asked, open_requests): (_, Option<bool>, _, i64) =
            between.one().await.doing("checking a friend request")?;
        let open_requests = u32::try_from(open_requests).unwrap_or(u32::MAX);
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
        let ask = tx.query(ASK).await?.bind(user.as_str()).bind(self.other.as_str());
        let is_silent: Option<bool> =
            ask.optional_value().await.doing("storing a friend request")?;
        let Some(is_silent) = is_silent else { return Ok(()) };
        let mut changes = ChangeSet::default().with(user, Subject::Lists, self.station);
        if !is_silent && exists(tx, self.other).await? {
            changes.add(self.other, Subject::Lists, None);
        }
        ChangeLog::from(changes).record(tx).await
    }
}

/// The user that asked is not notified.
#[derive(Clone, Debug)]
pub(crate) struct DeclineFriend {
    pub(crate) user: UserId,
    pub(crate) other: UserId,
    /// The calling station, which is not told of the change.
    pub(crate) station: Option<StationId>,
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

/// Ends a friendship, or takes back a request. One call may do both.
#[derive(Clone, Debug)]
pub(crate) struct RemoveFriend {
    pub(crate) user: UserId,
    pub(crate) other: UserId,
    /// The calling station, which is not told of the change.
    pub(crate) station: Option<StationId>,
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

/// Returns whether the statement changed a request.
async fn changes_request(
    tx: &mut WriteTx,
    statement: Sql,
    from: UserId,
    to: UserId,
) -> Result<bool, Error> {
    let change = tx.query(statement).await?.bind(from.as_str()).bind(to.as_str());
    Ok(change.execute().await.doing("changing a friend request")? > 0)
}

/// Hides an open request from its addressee. Returns whether it was shown before.
pub(super) async fn silence(tx: &mut WriteTx, from: UserId, to: UserId) -> Result<bool, Error> {
    changes_request(tx, SILENCE, from, to).await
}

async fn exists(tx: &mut WriteTx, user: UserId) -> Result<bool, Error> {
    let exists = tx.query(EXISTS).await?.bind(user.as_str());
    exists.value().await.doing("looking for a user")
}
