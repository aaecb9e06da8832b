//! Stations: bound to a user by a login or the first signed use, and bounded in number.
//!
//! A request that was carried out is answered at once: that it was a use of its station is noted in the background. What needs
//! the station itself, a signed notification or a subscription, waits for it to be bound.

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
use crate::store::{BindStation, Error, Store};

/// How long a station may be taken for bound without looking.
const BOUND_TTL: Duration = Duration::from_secs(5);

/// How old the noted use of a station may become, in seconds, before a newer one is noted.
pub(crate) const TOUCH_AFTER: u64 = 600;

/// Maximum stations whose use is remembered. A forgotten one costs a read.
const STATIONS: usize = 32_768;

/// Maximum uses that are being noted in the background, a quarter of the writer's queue. A further one is dropped: the
/// station's next use is noted.
const IN_BACKGROUND: usize = 1024;

/// The stations in use, in the order of their use, which is noted in the store only every now and then.
pub struct Stations {
    /// Maximum stations of one user.
    most: u32,
    hub: Arc<Hub>,
    uses: Cache<(UserId, StationId), Arc<Use>>,
    clock: AtomicU64,
    /// Uses that are being noted in the background.
    pending: Mutex<HashMap<(UserId, StationId), CancellationToken>>,
    tasks: TaskTracker,
}

struct Use {
    looked_at: Instant,
    /// Later uses have larger numbers.
    last: AtomicU64,
}

/// A use that is being noted in the background. Dropping it wakes those who wait for the station.
pub(crate) struct PendingUse {
    stations: Arc<Stations>,
    user: UserId,
    station: StationId,
    last: u64,
    _done: DropGuard,
}

impl Stations {
    /// At most `most` stations of one user; those that the hub knows as listening give way last.
    #[must_use]
    pub fn new(most: u32, hub: Arc<Hub>) -> Self {
        Self {
            most,
            hub,
            uses: Cache::new(STATIONS),
            clock: AtomicU64::new(1),
            pending: Mutex::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Notes that a user uses this station, which becomes the most recently used one. A signed use binds it, if it was not yet.
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

    /// Begins to note a signed use in the background. `None` where there is nothing to note, where that is being done already, and
    /// where too many others are.
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

    /// Waits until no use of this station is being noted, whoever its user is.
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

    /// The tasks that note uses in the background.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Waits until all uses that have begun are noted. A use that begins meanwhile may delay it.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Notes in memory alone that a bound station was used.
    pub(crate) fn heard(&self, user: UserId, station: StationId) {
        let last = self.next_use();
        if let Some(known) = self.uses.get(&(user, station)) {
            known.last.fetch_max(last, Ordering::Relaxed);
        }
    }

    /// The station is no longer bound: its next use must look.
    pub fn forget(&self, user: UserId, station: StationId) {
        self.uses.remove(&(user, station));
    }

    fn next_use(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether the station was seen bound a moment ago; then this use is the last one.
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
        // The keys change while this sorts: each is read once. The order of the store is kept among those whose use is
        // not remembered.
        others.sort_by_cached_key(|other| {
            let latest = self.uses.peek(&(user, *other));
            let last = latest.map_or(0, |latest| latest.last.load(Ordering::Relaxed));
            (listening.contains(other), last)
        });
        let bind = BindStation { user, station, now, gives_way: others, most: self.most };
        for other in store.write(bind).await? {
            self.forget(user, other);
        }
        Ok(())
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<(UserId, StationId), CancellationToken>> {
        // Whoever panicked has left nothing half done.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingUse {
    /// Notes it. Nobody waits for this, so a failure is logged.
    pub(crate) async fn note(self, store: &Store, now: Timestamp) {
        let key = (self.user, self.station);
        match self.stations.note(store, key, self.last, true, now).await {
            // A stop drops what has not been begun, and the writer has warned of a full queue; the next use of the station
            // is noted.
            Ok(()) | Err(Error::Closed | Error::QueueFull) => {}
            Err(error) => tracing::warn!(%error, "a station can't be bound"),
        }
    }
}

impl Drop for PendingUse {
    fn drop(&mut self) {
        self.stations.pending().remove(&(self.user, self.station));
    }
}
