//! Stations: the devices of users. Each user has a bounded number of them.

use std::collections::HashMap;
use std::convert::Infallible;

use sqlx::FromRow;

use super::audit::{self, Event};
use super::error::Doing as _;
use super::listing::listed;
use super::sql::{Connection, Sql};
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Store, WriteError, stored};
use crate::audit::Action;
use crate::domain::{Email, StationId, Timestamp, UserId};

listed!(USED_AT, STATIONS_OF, STATIONS, USERS_AT, BIND, TOUCH, UNBIND);

const USED_AT: Sql =
    Sql::both("SELECT used_at FROM stations WHERE user_id = $1 AND station_id = $2");

/// Least recently used first.
const STATIONS_OF: Sql = Sql::both(
    "
    SELECT station_id FROM stations WHERE user_id = $1 ORDER BY used_at, bound_at, station_id",
);

const STATIONS: Sql = Sql::both(
    "
    SELECT u.email, s.station_id, s.bound_at, s.used_at
    FROM stations s JOIN users u ON u.id = s.user_id
    WHERE s.user_id = coalesce($1, s.user_id) ORDER BY u.email, s.used_at DESC, s.station_id",
);

/// Two rows are enough to show that the station has more than one user.
const USERS_AT: Sql = Sql::both(
    "
    SELECT s.user_id FROM stations s JOIN users u ON u.id = s.user_id
    WHERE s.station_id = $1 AND s.user_id = coalesce($2, s.user_id) AND NOT u.is_disabled
    ORDER BY s.user_id LIMIT 2",
);

/// Binds nothing to a user who was deleted a moment ago.
const BIND: Sql = Sql::both(
    "
    INSERT INTO stations (user_id, station_id, bound_at, used_at)
    SELECT id, $2, $3, $3 FROM users WHERE id = $1
    ON CONFLICT (user_id, station_id) DO UPDATE SET used_at = excluded.used_at",
);

const TOUCH: Sql =
    Sql::both("UPDATE stations SET used_at = $3 WHERE user_id = $1 AND station_id = $2");

const UNBIND: Sql = Sql::both("DELETE FROM stations WHERE user_id = $1 AND station_id = $2");

/// A station as the command line shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Station {
    pub(crate) email: Email,
    /// The station's id, which is a secret.
    pub id: StationId,
    /// Time of the first use.
    pub(crate) bound_at: Timestamp,
    /// Time of the last use, to within some minutes.
    pub used_at: Timestamp,
}

#[derive(FromRow)]
struct StationRow {
    email: String,
    station_id: String,
    bound_at: i64,
    used_at: i64,
}

/// Binds a station to a user, and unbinds the user's excess stations.
#[derive(Clone, Debug)]
pub(crate) struct BindStation {
    pub(crate) user: UserId,
    pub(crate) station: StationId,
    pub(crate) now: Timestamp,
    /// The user's other stations in eviction order. A station that is missing here is newer, and is evicted last.
    pub(crate) gives_way: Vec<StationId>,
    /// Maximum stations of the user. The excess is evicted.
    pub(crate) most: u32,
}

impl BindStation {
    /// Returns which of the user's present stations are evicted.
    fn excess(&self, mut stations: Vec<StationId>) -> Vec<StationId> {
        let order: HashMap<_, _> = self.gives_way.iter().zip(0..).collect();
        stations.retain(|station| *station != self.station);
        stations.sort_by_key(|station| order.get(station).copied().unwrap_or(usize::MAX));
        let keep = usize::try_from(self.most - 1).unwrap_or(usize::MAX);
        stations.truncate(stations.len().saturating_sub(keep));
        stations
    }
}

impl WriteOp for BindStation {
    /// The evicted stations.
    type Output = Vec<StationId>;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<Vec<StationId>, WriteError<Infallible>> {
        let bind = tx.query(BIND).await?.bind(self.user.as_str()).bind(self.station.as_str());
        bind.bind(self.now.unix()).execute().await.doing("binding a station")?;
        let excess = self.excess(stations_of(tx.connection().await?, self.user).await?);
        for station in &excess {
            unbind(tx, self.user, *station).await?;
        }
        // Wakes all of the user's listeners, so that each finds out whether its station was evicted.
        tx.affected.mark_unknown(self.user);
        Ok(excess)
    }
}

async fn stations_of(connection: &mut Connection, user: UserId) -> Result<Vec<StationId>, Error> {
    let ids = connection.query(STATIONS_OF).bind(user.as_str());
    let ids: Vec<String> = ids.values().await.doing("listing stations")?;
    ids.iter().map(|id| stored(id)).collect()
}

async fn unbind(tx: &mut WriteTx, user: UserId, station: StationId) -> Result<bool, Error> {
    let unbind = tx.query(UNBIND).await?.bind(user.as_str()).bind(station.as_str());
    let unbound = unbind.execute().await.doing("unbinding a station")?;
    tx.affected.mark_unknown(user);
    Ok(unbound > 0)
}

struct UnbindStation {
    user: UserId,
    station: StationId,
}

impl WriteOp for UnbindStation {
    type Output = bool;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<bool, WriteError<Infallible>> {
        let unbound = unbind(tx, self.user, self.station).await?;
        if unbound {
            // Without the station's ID, with which anyone can read its notifications.
            audit::record(tx, Action::StationRevoked, Event::about(self.user)).await?;
        }
        Ok(unbound)
    }
}

struct TouchStation {
    user: UserId,
    station: StationId,
    now: Timestamp,
}

impl WriteOp for TouchStation {
    type Output = ();
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError<Infallible>> {
        let touch = tx.query(TOUCH).await?.bind(self.user.as_str()).bind(self.station.as_str());
        touch.bind(self.now.unix()).execute().await.doing("recording the use of a station")?;
        Ok(())
    }
}

impl Store {
    /// `None` if the station is not bound to the user.
    pub(crate) async fn station_used_at(
        &self,
        user: UserId,
        station: StationId,
    ) -> Result<Option<Timestamp>, Error> {
        let mut reads = self.reader().await?;
        let used_at = reads.query(USED_AT).bind(user.as_str()).bind(station.as_str());
        let used_at: Option<i64> = used_at.optional_value().await.doing("reading a station")?;
        Ok(used_at.and_then(Timestamp::from_unix))
    }

    /// Returns the user's stations by recorded use, least recently used first.
    ///
    /// # Errors
    ///
    /// [`Error`] if the store failed.
    pub async fn stations_of(&self, user: UserId) -> Result<Vec<StationId>, Error> {
        stations_of(&mut *self.reader().await?, user).await
    }

    /// Returns all stations of one user or of all users, by address, most recently used first.
    ///
    /// # Errors
    ///
    /// [`Error`] if the store failed.
    pub async fn stations(&self, user: Option<UserId>) -> Result<Vec<Station>, Error> {
        let mut reads = self.reader().await?;
        let rows = reads.query(STATIONS).bind(user.as_ref().map(UserId::as_str));
        let rows: Vec<StationRow> = rows.all().await.doing("listing stations")?;
        rows.into_iter().map(StationRow::station).collect()
    }

    /// Returns the enabled users who have bound this station, at most two. With `user`, only that user is considered.
    pub(crate) async fn users_at(
        &self,
        station: StationId,
        user: Option<UserId>,
    ) -> Result<Vec<UserId>, Error> {
        let mut reads = self.reader().await?;
        let users = reads.query(USERS_AT).bind(station.as_str());
        let users = users.bind(user.as_ref().map(UserId::as_str)).values().await;
        let users: Vec<String> = users.doing("reading the users of a station")?;
        users.iter().map(|user| stored(user)).collect()
    }

    /// Records the use of a station without waiting for the commit. Skipped while the writer's queue is at least half
    /// full.
    pub(crate) fn touch_station(&self, user: UserId, station: StationId, now: Timestamp) {
        self.writer.offer(TouchStation { user, station, now });
    }

    /// Unbinds a station of a user, and returns whether it was bound. Its next signed use binds it anew.
    ///
    /// # Errors
    ///
    /// [`Error`] if the store failed.
    pub async fn unbind_station(&self, user: UserId, station: StationId) -> Result<bool, Error> {
        Ok(self.write(UnbindStation { user, station }).await?)
    }
}

impl StationRow {
    fn station(self) -> Result<Station, Error> {
        let date = |seconds| {
            let date = Timestamp::from_unix(seconds);
            let error = || sqlx::Error::Decode("a column does not hold a date".into());
            date.ok_or_else(error).doing("decoding a stored value")
        };
        Ok(Station {
            email: Email::from_stored(self.email),
            id: stored(&self.station_id)?,
            bound_at: date(self.bound_at)?,
            used_at: date(self.used_at)?,
        })
    }
}
