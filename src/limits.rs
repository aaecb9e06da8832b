//! How much one caller may do, by rates for each user or address, and how much all may do at once.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota};
use quick_cache::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most callers that are counted. One that is pushed out begins anew.
const CALLERS: usize = 16_384;

/// A rate for each caller, in a table of bounded size.
pub struct Rates<K> {
    quota: Option<Quota>,
    callers: Cache<K, Arc<DefaultDirectRateLimiter>>,
}

impl<K: Hash + Eq + Clone> Rates<K> {
    /// So many a second, with so many saved up; 0 a second is no limit.
    #[must_use]
    pub fn per_second(rate: u32, burst: u32) -> Self {
        let quota = NonZeroU32::new(rate).map(Quota::per_second);
        let burst = NonZeroU32::new(burst);
        Self::new(quota.map(|quota| burst.map_or(quota, |burst| quota.allow_burst(burst))))
    }

    /// So many a minute; 0 is no limit.
    #[must_use]
    pub fn per_minute(rate: u32) -> Self {
        Self::new(NonZeroU32::new(rate).map(Quota::per_minute))
    }

    fn new(quota: Option<Quota>) -> Self {
        Self { quota, callers: Cache::new(CALLERS) }
    }

    /// Counts one for this caller.
    ///
    /// # Errors
    ///
    /// The time after which the caller is within the rate again.
    pub fn count(&self, caller: &K) -> Result<(), Duration> {
        let Some(quota) = self.quota else {
            return Ok(());
        };
        let limiter = self.callers.get_or_insert_with(caller, || {
            Ok::<_, std::convert::Infallible>(Arc::new(DefaultDirectRateLimiter::direct(quota)))
        });
        let Ok(limiter) = limiter;
        let clock = DefaultClock::default();
        limiter.check().map_err(|not_until| not_until.wait_time_from(clock.now()))
    }
}

/// What is at most this large is not counted: the number of connections bounds it.
const SMALL: usize = 16 * 1024;

/// The unit of [`Room`], in bytes.
const UNIT: usize = 1024;

/// Memory for bodies and answers that are on their way, however slowly.
pub struct Room {
    free: Arc<Semaphore>,
    units: u32,
}

/// A part of the room, given back when this is dropped.
pub struct Reserved {
    _units: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Room for so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX);
        Self { free: Arc::new(Semaphore::new(bytes / UNIT)), units }
    }

    /// Takes room for so many bytes, or `None` where there is not enough. One that is larger than all of it
    /// takes all of it, so that nothing is refused for ever.
    #[must_use]
    pub fn reserve(&self, bytes: usize) -> Option<Reserved> {
        if bytes <= SMALL {
            return Some(Reserved { _units: None });
        }
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.units);
        let units = Arc::clone(&self.free).try_acquire_many_owned(units).ok()?;
        Some(Reserved { _units: Some(units) })
    }
}

/// The network that failures are counted for: the address, or for IPv6 its /64, which is what one
/// subscriber commonly gets (RFC 6177).
#[must_use]
pub fn failure_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}
