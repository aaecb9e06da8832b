//! Stations: bound to a user by a login or the first signed use, and bounded in number.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::id::{StationId, UserId};
use crate::store::{BindStation, Error, Store};

/// How long a station may be taken for bound without looking.
const BOUND_TTL: Duration = Duration::from_secs(5);

/// How old the noted use of a station may become, in seconds, before a newer one is noted.
const TOUCH_AFTER: u64 = 600;

/// The most stations whose use is remembered. A forgotten one costs a read.
const STATIONS: usize = 32_768;

/// The stations in use, in the order of their use, which is noted in the store only every now and then.
pub struct Stations {
    /// The most stations of one user.
    most: u32,
    uses: Cache<(UserId, StationId), Arc<Use>>,
    clock: AtomicU64,
}

struct Use {
    looked_at: Instant,
    /// Later uses have larger numbers.
    last: AtomicU64,
}

impl Stations {
    /// Bounded to so many of one user.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self { most, uses: Cache::new(STATIONS), clock: AtomicU64::new(1) }
    }

    /// A user is here, at this station, which was used most recently. A signed use binds it, if it was not yet.
    ///
    /// # Errors
    ///
    /// [`Error`] where the store failed.
    pub async fn used(
        &self,
        store: &Store,
        user: UserId,
        station: StationId,
        is_signed: bool,
        now: Timestamp,
    ) -> Result<(), Error> {
        let last = self.clock.fetch_add(1, Ordering::Relaxed);
        let known = self.uses.get(&(user, station));
        if let Some(known) = known.filter(|known| known.looked_at.elapsed() < BOUND_TTL) {
            known.last.store(last, Ordering::Relaxed);
            return Ok(());
        }
        let looked_at = Instant::now();
        match store.station_used_at(user, station).await? {
            Some(used_at) if used_at.distance(now) < TOUCH_AFTER => {}
            Some(_) => store.touch_station(user, station, now),
            None if !is_signed => return Ok(()),
            None => self.bind(store, user, station, now).await?,
        }
        let latest = Use { looked_at, last: AtomicU64::new(last) };
        self.uses.insert((user, station), Arc::new(latest));
        Ok(())
    }

    /// The station is no longer bound: its next use must look.
    pub fn forget(&self, user: UserId, station: StationId) {
        self.uses.remove(&(user, station));
    }

    async fn bind(
        &self,
        store: &Store,
        user: UserId,
        station: StationId,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut others = store.stations_of(user).await?;
        others.retain(|other| *other != station);
        // The order of the store is kept among those whose use is not remembered.
        others.sort_by_key(|other| {
            let latest = self.uses.peek(&(user, *other));
            latest.map_or(0, |latest| latest.last.load(Ordering::Relaxed))
        });
        let keep = usize::try_from(self.most - 1).unwrap_or(usize::MAX);
        others.truncate(others.len().saturating_sub(keep));
        for other in &others {
            self.forget(user, *other);
        }
        store.change(BindStation { user, station, now, unbind: others, most: self.most }).await
    }
}
