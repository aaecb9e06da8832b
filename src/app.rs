//! What requests are answered with.

use std::net::{IpAddr, SocketAddr};
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
use crate::notifications::PresenceFeed;
use crate::shutdown::Shutdown;
use crate::signature::Verifier;
use crate::stations::Stations;
use crate::store::{self, LIGHT_PAGE_BYTES, Store};

/// Everything that a request needs, put together once.
pub struct App {
    /// The settings.
    pub config: Config,
    /// The database.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Refuses old timestamps.
    freshness: Freshness,
    /// The URL by which clients reach the server.
    pub public_url: Url,
    /// Says whether signatures are right.
    pub verifier: Verifier,
    /// The stations in use.
    pub stations: Arc<Stations>,
    /// Who can be reached.
    pub presence: Arc<Presence>,
    /// Of whose availability stations are still to be told.
    pub presence_feed: PresenceFeed,
    /// Who listens.
    pub hub: Arc<Hub>,
    /// Fresh requests of each user, logins and subscriptions.
    pub rates: Rates<UserId>,
    /// Signed requests without a timestamp: a captured one is never stale, so that its replays must not use up the
    /// rate of all others.
    pub undated_rates: Rates<UserId>,
    /// Failures of each client address to show who it is, and that its request is fresh.
    pub failures: Rates<IpAddr>,
    /// Open connections of each client network.
    pub connections: Arc<ConnectionCounts>,
    /// Memory for bodies and answers on their way.
    pub memory: Arc<MemoryBudget>,
    /// Warns that a bound was hit.
    pub bounds: BoundLog,
    /// The way down.
    pub shutdown: Shutdown,
}

impl App {
    /// Puts it together for a server that listens on this address.
    #[must_use]
    pub fn new(config: Config, clock: Clock, store: Store, address: SocketAddr) -> Self {
        let (http, limits) = (&config.http, &config.limits);
        let (rate, burst) = (limits.requests_per_second.get(), limits.requests_burst.get());
        let hub = Arc::new(Hub::new(http.listeners.size(), http.listeners_per_user.size()));
        let stations = Stations::new(limits.stations_per_user.get(), Arc::clone(&hub));
        let skew = config.auth.clock_skew_seconds.get().into();
        let freshness = Freshness::new(skew, store.epoch().began_at, clock.now());
        Self {
            store,
            freshness,
            public_url: config.http.public_url.or_listening_on(address),
            verifier: Verifier::default(),
            stations: Arc::new(stations),
            presence: Arc::new(Presence::new(config.presence.timeout_seconds.duration())),
            presence_feed: PresenceFeed::new(limits.stations_per_user.size(), clock.now()),
            hub,
            rates: Rates::per_second(rate, burst),
            undated_rates: Rates::per_second(rate, burst),
            failures: Rates::per_minute(limits.failures_per_minute.get()),
            connections: Arc::new(ConnectionCounts::new(limits.connections_per_address.size())),
            memory: Arc::new(MemoryBudget::new(limits.buffered_bytes.size())),
            bounds: BoundLog::default(),
            shutdown: Shutdown::default(),
            clock,
            config,
        }
    }

    /// Notes in the background that what was carried out was a signed use of its station, which binds it to the user.
    /// The answer neither waits for that nor depends on it.
    pub fn station_used_meanwhile(self: &Arc<Self>, user: UserId, station: StationId) {
        let Some(pending) = self.stations.begin(user, station) else { return };
        let (app, now) = (Arc::clone(self), self.clock.now());
        self.stations.tasks().spawn(async move { pending.note(&app.store, now).await });
    }

    /// Notes that a station was used, for what needs it bound. A signed use binds it to the user.
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

    /// Refuses what was made too long ago, by a clock that is too far ahead, or before the database was restored.
    ///
    /// # Errors
    ///
    /// [`Error::TimestampOutOfRange`], [`Error::SignedBeforeRestore`].
    pub fn refuse_stale(&self, timestamp: Timestamp) -> Result<(), Error> {
        self.freshness.check(timestamp, self.clock.now())
    }

    /// Counts something that is known to be a user's own and fresh against that user.
    ///
    /// # Errors
    ///
    /// [`Error::RateLimited`].
    pub fn charge(&self, user: UserId) -> Result<(), Error> {
        let counted = self.rates.count(&user);
        counted.map_err(|retry_after| Error::RateLimited { retry_after })
    }

    /// Counts a request that is known to be a user's own, but not to be fresh.
    ///
    /// # Errors
    ///
    /// [`Error::RateLimited`].
    pub fn charge_undated(&self, user: UserId) -> Result<(), Error> {
        let counted = self.undated_rates.count(&user);
        counted.map_err(|retry_after| Error::RateLimited { retry_after })
    }

    /// Counts a refusal that came before the client had shown who it is and that its request is fresh. Returns
    /// the refusal, or [`Error::RateLimited`] above the limit of the address.
    pub fn count_failure(&self, client: Option<IpAddr>, error: Error) -> Error {
        let is_the_clients = matches!(
            error,
            Error::InvalidSignature(_)
                | Error::InvalidCredentials
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

    /// Counts an open connection of a client.
    ///
    /// # Errors
    ///
    /// [`Error::RateLimited`] where its network has `limits.connections_per_address`.
    pub fn count_connection(&self, client: IpAddr) -> Result<AddressPermit, Error> {
        self.connections.open(client).ok_or_else(|| {
            self.bounds.hit("limits.connections_per_address");
            Error::RateLimited { retry_after: Duration::from_secs(1) }
        })
    }

    /// Makes a permit of the memory budget one for so many bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Crowded`] where they are not to be had at the moment.
    pub fn resize(&self, permit: &mut MemoryPermit, bytes: usize) -> Result<(), Error> {
        if permit.resize(bytes) {
            return Ok(());
        }
        self.bounds.hit("limits.buffered_bytes");
        Err(Error::Crowded)
    }

    /// Admits a read whose answer takes many bytes: it counts as one request of its user for every 128 KiB, and takes
    /// its memory before it is made.
    ///
    /// # Errors
    ///
    /// [`Error::RateLimited`], [`Error::Crowded`].
    pub fn admit_large_read(&self, owner: Owner, bytes: usize) -> Result<MemoryPermit, Error> {
        let mut permit = self.memory.permit(owner, MemoryUse::Answer);
        self.resize(&mut permit, bytes)?;
        self.charge_for_size(owner, bytes)?;
        Ok(permit)
    }

    /// Admits an answer that is already made, such as a list: it is charged in the same way, and takes its memory now.
    ///
    /// # Errors
    ///
    /// [`Error::RateLimited`], [`Error::Crowded`].
    pub fn admit_made(&self, owner: Owner, bytes: usize) -> Result<MemoryPermit, Error> {
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

    /// Puts the memory that a body takes on the account of its user.
    ///
    /// # Errors
    ///
    /// [`Error::Crowded`] where the user's share is taken.
    pub fn charge_body(&self, permit: &mut MemoryPermit, user: UserId) -> Result<(), Error> {
        if permit.charge_to(user) {
            return Ok(());
        }
        self.bounds.hit("limits.buffered_bytes");
        Err(Error::Crowded)
    }
}
