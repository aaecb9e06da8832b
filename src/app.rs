//! Shared state that requests are answered from: settings, store, caches, rates and budgets.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::availability::Presence;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::{StationId, Timestamp, UserId};
use crate::error::Error;
use crate::freshness::Freshness;
use crate::limits::{
    AddressPermit, BoundLog, ConnectionCounts, MemoryBudget, MemoryPermit, MemoryUse, Owner, Rates,
    client_network,
};
use crate::live::Hub;
use crate::notifications::{Inbox, Positions, PresenceFeed};
use crate::shutdown::Shutdown;
use crate::signature::Verifier;
use crate::stations::Stations;
use crate::store::{self, LIGHT_PAGE_BYTES, Store};
use crate::telemetry::History;

/// Shared state of all requests, built once at startup.
pub struct App {
    pub(crate) config: Config,
    /// The database. A handler calls it directly where one call does the work.
    pub store: Store,
    pub(crate) clock: Clock,
    freshness: Freshness,
    /// URL by which clients reach the server; login announces it.
    pub(crate) public_url: Url,
    pub(crate) verifier: Verifier,
    /// Recently used stations, and the limit for each user.
    pub stations: Arc<Stations>,
    /// Users who are reachable, and what they show.
    pub presence: Arc<Presence>,
    /// Availability changes of friends that stations have not been told yet. In memory only.
    pub presence_feed: PresenceFeed,
    /// Positions that listeners have acknowledged and that the store does not have yet.
    pub(crate) positions: Arc<Positions>,
    pub(crate) hub: Arc<Hub>,
    /// Rate limit for each user: fresh signed requests, logins and subscriptions.
    pub(crate) rates: Rates<UserId>,
    /// Rate limit for each user: signed requests without a timestamp. A captured one is never stale, so its replays
    /// must not use up the rate of all other requests.
    pub(crate) undated_rates: Rates<UserId>,
    /// Rate limit for each client network: failures to authenticate or to send a fresh request.
    pub(crate) failures: Rates<IpAddr>,
    pub(crate) connections: Arc<ConnectionCounts>,
    pub(crate) memory: Arc<MemoryBudget>,
    pub(crate) bounds: BoundLog,
    /// Metrics of the last hour; empty without an admin page.
    pub(crate) history: History,
    /// Tells tasks that the server is stopping, then closing.
    pub shutdown: Shutdown,
}

impl App {
    pub(crate) fn new(config: Config, clock: Clock, store: Store, public_url: Url) -> Self {
        let (http, limits) = (&config.http, &config.limits);
        let (rate, burst) = (limits.requests_per_second.get(), limits.requests_burst.get());
        let hub = Arc::new(Hub::new(http.listeners.size(), http.listeners_per_user.size()));
        let positions = Arc::new(Positions::default());
        let most = limits.stations_per_user.get();
        let stations = Stations::new(most, Arc::clone(&hub), Arc::clone(&positions));
        let skew = config.auth.clock_skew_seconds.get().into();
        let freshness = Freshness::new(skew, store.epoch().began_at, clock.now());
        let presence = Presence::new(config.presence.timeout_seconds.duration(), store.has_nodes());
        Self {
            store,
            freshness,
            public_url,
            verifier: Verifier::default(),
            stations: Arc::new(stations),
            presence: Arc::new(presence),
            presence_feed: PresenceFeed::new(limits.stations_per_user.size(), clock.now()),
            positions,
            hub,
            rates: Rates::per_second(rate, burst),
            undated_rates: Rates::per_second(rate, burst),
            failures: Rates::per_minute(limits.failures_per_minute.get()),
            connections: Arc::new(ConnectionCounts::new(limits.connections_per_address.size())),
            memory: Arc::new(MemoryBudget::new(limits.buffered_bytes.size())),
            bounds: BoundLog::default(),
            history: History::default(),
            shutdown: Shutdown::default(),
            clock,
            config,
        }
    }

    /// Records a signed use of a station in the background, which binds the station to the user. The answer neither
    /// waits for that nor depends on it.
    pub(crate) fn station_used_meanwhile(self: &Arc<Self>, user: UserId, station: StationId) {
        let Some(pending) = self.stations.begin(user, station) else { return };
        let (app, now) = (Arc::clone(self), self.clock.now());
        self.stations.tasks().spawn(async move { pending.note(&app.store, now).await });
    }

    /// Records a use of a station and waits for it, for requests that need the station bound. A signed use binds it to
    /// the user.
    ///
    /// # Errors
    ///
    /// [`store::Error`] where the store failed.
    pub async fn station_used(
        &self,
        user: UserId,
        station: StationId,
        is_signed: bool,
    ) -> Result<(), store::Error> {
        self.stations.used(&self.store, user, station, is_signed, self.clock.now()).await
    }

    /// Returns what is pending for a station.
    #[must_use]
    pub fn inbox(&self, user: UserId, station: StationId) -> Inbox<'_> {
        let Self { store, presence_feed, positions, .. } = self;
        Inbox { store, presence_feed, positions, user, station }
    }

    /// Refuses a stale timestamp, see [`Freshness::check`].
    pub(crate) fn refuse_stale(&self, timestamp: Timestamp) -> Result<(), Error> {
        self.freshness.check(timestamp, self.clock.now())
    }

    /// Forgets what is cached of users, and takes the present epoch: another process may have changed both.
    pub(crate) fn forget_cached(&self) {
        self.verifier.forget_all();
        self.freshness.enter(self.store.epoch().began_at, self.clock.now());
    }

    /// Counts a fresh, authenticated request against its user's rate. [`Error::RateLimited`] above the limit.
    pub(crate) fn charge(&self, user: UserId) -> Result<(), Error> {
        let counted = self.rates.count(&user);
        counted.map_err(|retry_after| Error::RateLimited { retry_after })
    }

    /// Counts an authenticated request without a timestamp against its user's separate rate: it may be a replay.
    /// [`Error::RateLimited`] above the limit.
    pub(crate) fn charge_undated(&self, user: UserId) -> Result<(), Error> {
        let counted = self.undated_rates.count(&user);
        counted.map_err(|retry_after| Error::RateLimited { retry_after })
    }

    /// Counts a refusal that precedes authentication or the freshness check against the client's network. Returns the
    /// refusal, or [`Error::RateLimited`] above the limit.
    pub(crate) fn count_failure(&self, client: Option<IpAddr>, error: Error) -> Error {
        let is_the_clients = matches!(
            error,
            Error::InvalidSignature(_)
                | Error::InvalidCredentials
                | Error::InvalidInvitation
                | Error::BadRequest(_)
                | Error::NotJson(_)
                | Error::InvalidField { .. }
                | Error::TimestampOutOfRange { .. }
                | Error::SignedBeforeRestore { .. }
        );
        if !is_the_clients {
            return error;
        }
        let Some(client) = client else { return error };
        match self.failures.count(&client_network(client)) {
            Ok(()) => error,
            Err(retry_after) => Error::RateLimited { retry_after },
        }
    }

    /// Counts an open connection against its client's network, until the permit is dropped. [`Error::RateLimited`]
    /// where the network has `limits.connections_per_address` open already.
    pub(crate) fn count_connection(&self, client: IpAddr) -> Result<AddressPermit, Error> {
        self.connections.open(client).ok_or_else(|| {
            self.bounds.hit("limits.connections_per_address");
            Error::RateLimited { retry_after: Duration::from_secs(1) }
        })
    }

    /// Resizes a memory permit to this many bytes. [`Error::Crowded`] where the memory budget has no room for them at
    /// the moment.
    pub(crate) fn resize(&self, permit: &mut MemoryPermit, bytes: usize) -> Result<(), Error> {
        if permit.resize(bytes) {
            return Ok(());
        }
        self.bounds.hit("limits.buffered_bytes");
        Err(Error::Crowded)
    }

    /// Admits a read with a large answer: takes its memory before the answer is made, and charges its user one request
    /// for each 128 KiB. Refuses with [`Error::RateLimited`] or [`Error::Crowded`].
    pub(crate) fn admit_large_read(
        &self,
        owner: Owner,
        bytes: usize,
    ) -> Result<MemoryPermit, Error> {
        let mut permit = self.memory.permit(owner, MemoryUse::Answer);
        self.resize(&mut permit, bytes)?;
        self.charge_for_size(owner, bytes)?;
        Ok(permit)
    }

    /// Admits an answer that is already made, such as a list: takes its memory now, and charges its user one request
    /// for each 128 KiB. Refuses with [`Error::RateLimited`] or [`Error::Crowded`].
    pub(crate) fn admit_finished_answer(
        &self,
        owner: Owner,
        bytes: usize,
    ) -> Result<MemoryPermit, Error> {
        let mut permit = self.memory.permit(owner, MemoryUse::MadeAnswer);
        self.resize(&mut permit, bytes)?;
        self.charge_for_size(owner, bytes)?;
        Ok(permit)
    }

    fn charge_for_size(&self, owner: Owner, bytes: usize) -> Result<(), Error> {
        let requests = u32::try_from(bytes / LIGHT_PAGE_BYTES).ok().and_then(NonZeroU32::new);
        if let (Some(user), Some(requests)) = (owner.user, requests) {
            let counted = self.rates.count_many(&user, requests);
            counted.map_err(|retry_after| Error::RateLimited { retry_after })?;
        }
        Ok(())
    }

    /// Charges the memory of a received body to its user. [`Error::Crowded`] above the user's share of the budget.
    pub(crate) fn charge_body(&self, permit: &mut MemoryPermit, user: UserId) -> Result<(), Error> {
        if permit.charge_to(user) {
            return Ok(());
        }
        self.bounds.hit("limits.buffered_bytes");
        Err(Error::Crowded)
    }
}
