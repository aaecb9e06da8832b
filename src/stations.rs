//! Stations: bound to a user by a login or the first signed use, and bounded in number.
//!
//! A request does not wait for the record of its station's use: a background task writes it. A signed notification or
//! a subscription needs the station itself, so it waits until the station is bound.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::domain::{StationId, Timestamp, UserId};
use crate::live::Hub;
use crate::notifications::Positions;
use crate::store::{BindStation, Error, Store};

/// How long a station counts as bound without a read of the store.
const BOUND_TTL: Duration = Duration::from_secs(5);

/// Maximum age of the recorded use of a station, in seconds; an older one is replaced by the current use.
pub(crate) const TOUCH_AFTER: u64 = 600;

/// Maximum stations whose use is remembered. A forgotten one costs a read.
const STATIONS: usize = 32_768;

/// Maximum uses being recorded in the background: a quarter of the writer's queue. Further uses are dropped; the
/// station's next use is recorded instead.
const IN_BACKGROUND: usize = 1024;

/// The stations in use, ordered by their latest use. Memory holds the order; the store records a use at most every
/// 10 minutes.
pub struct Stations {
    /// Maximum stations of one user.
    most: u32,
    hub: Arc<Hub>,
    positions: Arc<Positions>,
    uses: Cache<(UserId, StationId), Arc<Use>>,
    clock: AtomicU64,
    /// Uses being recorded in the background. Each token is cancelled when its [`PendingUse`] is dropped.
    pending: Mutex<HashMap<(UserId, StationId), CancellationToken>>,
    tasks: TaskTracker,
}

struct Use {
    looked_at: Instant,
    /// Counts up: later uses have larger numbers.
    last: AtomicU64,
}

/// A use being recorded in the background. Dropping it wakes the tasks that wait for the station.
pub(crate) struct PendingUse {
    stations: Arc<Stations>,
    user: UserId,
    station: StationId,
    last: u64,
    _done: DropGuard,
}

impl Stations {
    /// Bounds each user to `most` stations. Stations that the hub lists as listening are unbound last.
    pub(crate) fn new(most: u32, hub: Arc<Hub>, positions: Arc<Positions>) -> Self {
        Self {
            most,
            hub,
            positions,
            uses: Cache::new(STATIONS),
            clock: AtomicU64::new(1),
            pending: Mutex::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Records that a user uses this station, which becomes the most recently used one. A signed use binds an unbound
    /// station.
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
        let last = self.next_use();
        if self.is_known(user, station, last) {
            return Ok(());
        }
        self.note(store, (user, station), last, is_signed, now).await
    }

    /// Begins to record a signed use in the background. Returns `None` where the station was seen bound a moment ago,
    /// where its use is already being recorded, and at the maximum of background uses.
    pub(crate) fn begin(self: &Arc<Self>, user: UserId, station: StationId) -> Option<PendingUse> {
        let last = self.next_use();
        if self.is_known(user, station, last) {
            return None;
        }
        let mut pending = self.pending();
        if pending.len() >= IN_BACKGROUND || pending.contains_key(&(user, station)) {
            return None;
        }
        let done = CancellationToken::new();
        pending.insert((user, station), done.clone());
        Some(PendingUse {
            stations: Arc::clone(self),
            user,
            station,
            last,
            _done: done.drop_guard(),
        })
    }

    /// Waits until no use of this station is being recorded, for any user.
    pub(crate) async fn settled(&self, station: StationId) {
        let pending: Vec<_> = {
            let pending = self.pending();
            let here = pending.iter().filter(|((_, at), _)| *at == station);
            here.map(|(_, done)| done.clone()).collect()
        };
        for done in pending {
            done.cancelled().await;
        }
    }

    /// Tracks the tasks that record uses in the background.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Waits until all uses that have begun are recorded. A use that begins meanwhile may delay it.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Notes in memory only that a bound station was used.
    pub(crate) fn heard(&self, user: UserId, station: StationId) {
        let last = self.next_use();
        if let Some(known) = self.uses.get(&(user, station)) {
            known.last.fetch_max(last, Ordering::Relaxed);
        }
    }

    /// Forgets that the station is bound, so its next use reads the store.
    pub(crate) fn forget(&self, user: UserId, station: StationId) {
        self.uses.remove(&(user, station));
    }

    /// Unbinds a station of a user, and returns whether it was bound. Its next signed use binds it anew.
    pub(crate) async fn revoke(
        &self,
        store: &Store,
        user: UserId,
        station: StationId,
    ) -> Result<bool, Error> {
        let revoked = store.unbind_station(user, station).await?;
        self.forget(user, station);
        self.positions.forget(user, station);
        Ok(revoked)
    }

    fn next_use(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns whether the station was seen bound less than [`BOUND_TTL`] ago. If so, this use becomes its latest.
    fn is_known(&self, user: UserId, station: StationId, last: u64) -> bool {
        let known = self.uses.get(&(user, station));
        let known = known.filter(|known| known.looked_at.elapsed() < BOUND_TTL);
        known.map(|known| known.last.fetch_max(last, Ordering::Relaxed)).is_some()
    }

    async fn note(
        &self,
        store: &Store,
        (user, station): (UserId, StationId),
        last: u64,
        is_signed: bool,
        now: Timestamp,
    ) -> Result<(), Error> {
        let looked_at = Instant::now();
        match store.station_used_at(user, station).await? {
            Some(used_at) if used_at.distance(now) < TOUCH_AFTER => {}
            Some(_) => store.touch_station(user, station, now),
            None if !is_signed => return Ok(()),
            None => self.bind(store, user, station, now).await?,
        }
        let known = self.uses.peek(&(user, station));
        let last = known.map_or(last, |known| known.last.load(Ordering::Relaxed).max(last));
        let latest = Use { looked_at, last: AtomicU64::new(last) };
        self.uses.insert((user, station), Arc::new(latest));
        Ok(())
    }

    async fn bind(
        &self,
        store: &Store,
        user: UserId,
        station: StationId,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut others = store.stations_of(user).await?;
        let listening = self.hub.stations_of(user);
        // Other tasks change these keys during the sort, so each is read once. Stations whose use is not remembered
        // keep the store's order.
        others.sort_by_cached_key(|other| {
            let latest = self.uses.peek(&(user, *other));
            let last = latest.map_or(0, |latest| latest.last.load(Ordering::Relaxed));
            (listening.contains(other), last)
        });
        let bind = BindStation { user, station, now, gives_way: others, most: self.most };
        for evicted in store.write(bind).await? {
            self.forget(user, evicted);
            self.positions.forget(user, evicted);
        }
        // A station that is bound anew is told everything, whatever it acknowledged before it was revoked.
        self.positions.forget(user, station);
        Ok(())
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<(UserId, StationId), CancellationToken>> {
        // A panic leaves no half-made change behind this lock.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingUse {
    /// Records the use. No request waits for it, so a failure is only logged.
    pub(crate) async fn note(self, store: &Store, now: Timestamp) {
        let key = (self.user, self.station);
        match self.stations.note(store, key, self.last, true, now).await {
            // A shutdown drops uses that have not begun, and the writer has already warned of a full queue. The next
            // use of the station is recorded.
            Ok(()) | Err(Error::Closed | Error::QueueFull) => {}
            Err(error) => tracing::warn!(%error, "binding a station failed"),
        }
    }
}

impl Drop for PendingUse {
    fn drop(&mut self) {
        self.stations.pending().remove(&(self.user, self.station));
    }
}
