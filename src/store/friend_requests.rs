//! Requests for friendship: asking, accepting, declining, and taking back.
//!
//! Who asks must not learn whether the addressee exists, has declined, or has blocked the asker. So a request
//! is kept whoever it is for, and one that is not to be shown is silent and otherwise like any other.

use super::changes::{ChangeLog, Subject};
use super::error::Doing as _;
use super::friends::{end_friendship, friendship_ended};
use super::queue::Change;
use super::replays::Once;
use super::write_tx::WriteTx;
use super::{Befriend, Befriended, Error, Store, WireText};
use crate::domain::{Replay, StationId, UserId};

/// The most open requests of one user: more than anybody waits for, and few enough that nobody fills the
/// database or tries addresses in bulk.
pub const MOST_OPEN_REQUESTS: u16 = 200;

/// The most incoming requests that are shown: how many there are is up to others.
const MOST_SHOWN: u16 = 200;

const REQUESTS: &str = r#"
    SELECT coalesce((
               SELECT string_agg('{"userid":"' || from_id || '","nick":' || json_quote(nick) || '}',
                                 ',' ORDER BY from_id)
               FROM (SELECT r.from_id, u.nick
                     FROM friend_requests r JOIN users u ON u.id = r.from_id
                     WHERE r.to_id = $1 AND r.is_open AND NOT r.is_silent
                     ORDER BY r.from_id LIMIT $2) AS shown), ''),
           coalesce((
               SELECT string_agg('{"userid":"' || to_id || '","nick":""}', ',' ORDER BY to_id)
               FROM friend_requests WHERE from_id = $1 AND is_open), '')"#;

/// Whether the two are friends, whether the other's open request is silent, whether there is one of the
/// user's own, and how many of these there are in all.
const STANDING: &str = "
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

const FORGET: &str = "
    DELETE FROM friend_requests
    WHERE (from_id = $1 AND to_id = $2) OR (from_id = $2 AND to_id = $1)";

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

/// How one becomes a friend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approach {
    /// By asking, or where the other one has asked by accepting.
    Add,
    /// By accepting what the other one has asked and the user is shown.
    Accept,
}

/// Asks somebody for friendship, or accepts what somebody has asked.
#[derive(Clone, Debug)]
pub struct ApproachFriend {
    /// How.
    pub approach: Approach,
    /// Whom, whether or not there is such a user.
    pub other: UserId,
    /// What it takes if they become friends now; the user stands first in it.
    pub befriend: Option<Befriend>,
    /// Where: that station is not told of it.
    pub station: Option<StationId>,
    /// Who does it, and the signature that may not do so again.
    pub replay: Replay,
}

/// What became of an approach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approached {
    /// It is carried out; perhaps there was nothing to change.
    Done,
    /// It was carried out before.
    Replayed,
    /// The user has [`MOST_OPEN_REQUESTS`].
    TooMany,
    /// One of the two has `most` friends: the request stays open.
    TooManyFriends {
        /// Maximum friends of one user.
        most: u32,
    },
    /// They would become friends: come again with what it takes, as it is now.
    NeedsKeys,
}

impl Change for ApproachFriend {
    type Outcome = Approached;

    fn grows(&self) -> bool {
        true
    }

    async fn apply(&self, tx: &mut WriteTx) -> Result<Approached, Error> {
        if self.replay.is_known(tx).await? {
            return Ok(Approached::Replayed);
        }
        let standing = sqlx::query_as(STANDING)
            .bind(self.replay.user.as_str())
            .bind(self.other.as_str())
            .fetch_one(tx.connection().await?);
        let (are_friends, theirs_is_silent, mine_is_open, open): (bool, Option<bool>, bool, i64) =
            standing.await.doing("judging a friend request")?;
        match (self.approach, theirs_is_silent) {
            _ if are_friends => {}
            (Approach::Add, Some(_)) | (Approach::Accept, Some(false)) => {
                let Some(befriend) = &self.befriend else { return Ok(Approached::NeedsKeys) };
                match befriend.make(tx, self.station).await? {
                    Befriended::Friends => {}
                    Befriended::NickChanged => return Ok(Approached::NeedsKeys),
                    Befriended::TooMany { most, .. } => {
                        return Ok(Approached::TooManyFriends { most });
                    }
                }
            }
            (Approach::Accept, _) => {}
            (Approach::Add, None) if mine_is_open => {}
            (Approach::Add, None) if open >= i64::from(MOST_OPEN_REQUESTS) => {
                return Ok(Approached::TooMany);
            }
            (Approach::Add, None) => self.ask(tx).await?,
        }
        self.replay.record(tx);
        Ok(Approached::Done)
    }
}

impl ApproachFriend {
    async fn ask(&self, tx: &mut WriteTx) -> Result<(), Error> {
        let user = self.replay.user;
        let ask = sqlx::query_scalar(ASK).bind(user.as_str()).bind(self.other.as_str());
        let is_silent: bool =
            ask.fetch_one(tx.connection().await?).await.doing("storing a friend request")?;
        let mut changes = ChangeLog::default().with(user, Subject::Lists, self.station);
        if !is_silent && exists(tx, self.other).await? {
            changes.add(self.other, Subject::Lists, None);
        }
        changes.note(tx).await
    }
}

/// Declines what somebody has asked, of which that one is told nothing.
#[derive(Clone, Debug)]
pub struct DeclineFriend {
    /// Who has asked.
    pub other: UserId,
    /// Where it is declined: that station is not told of it.
    pub station: Option<StationId>,
    /// Who declines, and the signature that may not do so again.
    pub replay: Replay,
}

impl Change for DeclineFriend {
    type Outcome = Once;

    async fn apply(&self, tx: &mut WriteTx) -> Result<Once, Error> {
        if self.replay.is_known(tx).await? {
            return Ok(Once::Replayed);
        }
        let user = self.replay.user;
        if silence(tx, self.other, user).await? {
            ChangeLog::default().with(user, Subject::Lists, self.station).note(tx).await?;
        }
        self.replay.record(tx);
        Ok(Once::Done)
    }
}

/// Ends a friendship, or takes back what was asked for one.
#[derive(Clone, Debug)]
pub struct RemoveFriend {
    /// The friend, or who was asked.
    pub other: UserId,
    /// Where: that station is not told of it.
    pub station: Option<StationId>,
    /// Who does it, and the signature that may not do so again.
    pub replay: Replay,
}

impl Change for RemoveFriend {
    type Outcome = Once;

    async fn apply(&self, tx: &mut WriteTx) -> Result<Once, Error> {
        if self.replay.is_known(tx).await? {
            return Ok(Once::Replayed);
        }
        let user = self.replay.user;
        let mut changes = ChangeLog::default();
        if end_friendship(tx, user, self.other).await? {
            changes = friendship_ended(user, self.other, self.station);
        }
        if changes_request(tx, TAKE_BACK, user, self.other).await? {
            changes.add(user, Subject::Lists, self.station);
            if exists(tx, self.other).await? {
                changes.add(self.other, Subject::Lists, None);
            }
        } else if changes_request(tx, TAKE_BACK_SILENT, user, self.other).await? {
            changes.add(user, Subject::Lists, self.station);
        }
        changes.note(tx).await?;
        self.replay.record(tx);
        Ok(Once::Done)
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

/// Forgets what two users have asked each other.
pub(super) async fn forget(tx: &mut WriteTx, one: UserId, other: UserId) -> Result<(), Error> {
    changes_request(tx, FORGET, one, other).await.map(drop)
}

async fn exists(tx: &mut WriteTx, user: UserId) -> Result<bool, Error> {
    let exists = sqlx::query_scalar(EXISTS).bind(user.as_str());
    exists.fetch_one(tx.connection().await?).await.doing("looking for a user")
}
