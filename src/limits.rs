//! Limits of one caller: rates for each user or client network, open connections, and memory.

mod bounds;
mod connections;
mod memory;

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, NotUntil, Quota};
use quick_cache::sync::Cache;

pub(crate) use bounds::BoundLog;
pub(crate) use connections::{AddressPermit, ConnectionCounts};
pub(crate) use memory::{MemoryBudget, MemoryPermit, MemoryUse, Owner};

/// Maximum callers with a rate. An evicted caller starts again with a full quota.
const CALLERS: usize = 16_384;

/// Rate limit for each caller, in a table of bounded size.
pub(crate) struct Rates<K> {
    quota: Option<Quota>,
    callers: Cache<K, Arc<DefaultDirectRateLimiter>>,
}

impl<K: Hash + Eq + Clone> Rates<K> {
    /// Allows `rate` requests a second and a burst of `burst`. A rate of 0 is no limit.
    pub(crate) fn per_second(rate: u32, burst: u32) -> Self {
        let quota = NonZeroU32::new(rate).map(Quota::per_second);
        let burst = NonZeroU32::new(burst);
        Self::new(quota.map(|quota| burst.map_or(quota, |burst| quota.allow_burst(burst))))
    }

    /// Allows `rate` requests a minute, and as many in a burst. A rate of 0 is no limit.
    pub(crate) fn per_minute(rate: u32) -> Self {
        Self::new(NonZeroU32::new(rate).map(Quota::per_minute))
    }

    fn new(quota: Option<Quota>) -> Self {
        Self { quota, callers: Cache::new(CALLERS) }
    }

    /// Counts one request of this caller. The error is the time to wait until the caller is within the rate again.
    pub(crate) fn count(&self, caller: &K) -> Result<(), Duration> {
        self.count_many(caller, NonZeroU32::MIN)
    }

    /// Counts several requests of this caller at once, but at most half of the burst: no request is too large for ever.
    /// The error is the same as of [`Self::count`].
    pub(crate) fn count_many(&self, caller: &K, count: NonZeroU32) -> Result<(), Duration> {
        let Some(quota) = self.quota else {
            return Ok(());
        };
        let limiter = self.callers.get_or_insert_with(caller, || {
            Ok::<_, std::convert::Infallible>(Arc::new(DefaultDirectRateLimiter::direct(quota)))
        });
        let Ok(limiter) = limiter;
        let wait = |until: NotUntil<_>| until.wait_time_from(DefaultClock::default().now());
        let most = NonZeroU32::new(quota.burst_size().get() / 2).unwrap_or(NonZeroU32::MIN);
        let checked = limiter.check_n(count.min(most));
        checked.map_or(Ok(()), |checked| checked.map_err(wait))
    }
}

/// Returns the network that limits of one client apply to: the address, or for IPv6 its /64, which one subscriber
/// commonly gets (RFC 6177).
pub(crate) fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}
