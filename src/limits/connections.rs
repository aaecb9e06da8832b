//! Counts the open connections of each client network, up to a maximum.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::client_network;

pub(crate) struct ConnectionCounts {
    /// Maximum of one network; 0 = no limit.
    max: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One open connection of a network, which counts until this is dropped.
pub(crate) struct AddressPermit {
    counts: Arc<ConnectionCounts>,
    network: IpAddr,
}

impl ConnectionCounts {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, open: Mutex::default() }
    }

    /// Returns `None` where the client's network has the maximum.
    pub(crate) fn open(self: &Arc<Self>, client: IpAddr) -> Option<AddressPermit> {
        let network = client_network(client);
        let mut counts = self.counts();
        let open = counts.entry(network).or_insert(0);
        if self.max > 0 && *open >= self.max {
            return None;
        }
        *open += 1;
        Some(AddressPermit { counts: Arc::clone(self), network })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut counts = self.counts.counts();
        if let Some(open) = counts.get_mut(&self.network) {
            *open -= 1;
            if *open == 0 {
                counts.remove(&self.network);
            }
        }
    }
}
