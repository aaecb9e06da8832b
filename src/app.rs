//! What requests are answered with.

use std::net::{IpAddr, SocketAddr};

use url::Url;

use crate::clock::Clock;
use crate::config::Config;
use crate::id::UserId;
use crate::limits::{Rates, Room};
use crate::shutdown::Shutdown;
use crate::signature::Verifier;
use crate::store::Store;

/// Everything that a request needs, put together once.
pub struct App {
    /// The settings.
    pub config: Config,
    /// The database.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// The URL by which clients reach the server.
    pub public_url: Url,
    /// Says whether signatures are right.
    pub verifier: Verifier,
    /// Signed requests of each user.
    pub rates: Rates<UserId>,
    /// Failures of each client address to show who it is.
    pub failures: Rates<IpAddr>,
    /// Memory for bodies and answers on their way.
    pub room: Room,
    /// The way down.
    pub shutdown: Shutdown,
}

impl App {
    /// Puts it together for a server that listens on this address.
    #[must_use]
    pub fn new(config: Config, clock: Clock, store: Store, address: SocketAddr) -> Self {
        let limits = &config.limits;
        let (rate, burst) = (limits.requests_per_second.get(), limits.requests_burst.get());
        Self {
            store,
            clock,
            public_url: config.http.public_url.or_listening_on(address),
            verifier: Verifier::default(),
            rates: Rates::per_second(rate, burst),
            failures: Rates::per_minute(limits.failures_per_minute.get()),
            room: Room::new(limits.buffered_bytes.size()),
            shutdown: Shutdown::default(),
            config,
        }
    }
}
