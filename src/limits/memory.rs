//! Memory for request bodies and answers on their way, and who may hold how much of it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::client_network;
use crate::id::UserId;

/// Bodies and answers of at most this many bytes are not counted: the number of connections bounds them.
const UNCOUNTED: usize = 16 * 1024;

/// Bodies, and answers that are admitted before they are made, are large above this. Large ones leave a quarter of the budget to the
/// others, so that many clients which don't read their large answers keep nobody from a list.
const LARGE: usize = 128 * 1024;

/// A user may hold one in so many bytes of the budget.
const USERS_SHARE: usize = 8;

/// The network of a client address may hold one in so many.
const NETWORKS_SHARE: usize = 2;

/// A number of bytes that bodies and answers take from before they grow. A user holds at most 1/8 of it and a client
/// network at most 1/2, but each at least one body or answer, however large. Those above 128 KiB leave 1/4 of it to others.
pub struct MemoryBudget {
    bytes: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    bytes: usize,
    by_user: HashMap<UserId, usize>,
    by_network: HashMap<IpAddr, usize>,
}

/// Who holds memory, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Owner {
    /// The user who signed.
    pub user: Option<UserId>,
    /// The client's address.
    pub client: Option<IpAddr>,
}

/// A part of the budget, given back when this is dropped.
pub struct MemoryPermit {
    budget: Arc<MemoryBudget>,
    user: Option<UserId>,
    network: Option<IpAddr>,
    bytes: usize,
    /// Whether it may take the last quarter of the budget, however large it is.
    may_take_all: bool,
}

impl MemoryBudget {
    /// A budget of this many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { bytes, held: Mutex::default() }
    }

    /// A permit of this owner that holds nothing yet.
    #[must_use]
    pub fn permit(self: &Arc<Self>, owner: Owner) -> MemoryPermit {
        let network = owner.client.map(client_network);
        let (budget, user) = (Arc::clone(self), owner.user);
        MemoryPermit { budget, user, network, bytes: 0, may_take_all: false }
    }

    /// The same for an answer that is already made, such as a list.
    #[must_use]
    pub fn permit_for_made(self: &Arc<Self>, owner: Owner) -> MemoryPermit {
        let mut permit = self.permit(owner);
        permit.may_take_all = true;
        permit
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryPermit {
    /// Makes the permit one for so many bytes; `false` where they are not to be had, and nothing has changed.
    /// More than the whole budget takes the whole budget, so that nothing is refused for ever.
    #[must_use]
    pub fn resize(&mut self, bytes: usize) -> bool {
        let bytes = if bytes <= UNCOUNTED { 0 } else { bytes.min(self.budget.bytes) };
        if bytes == self.bytes {
            return true;
        }
        let mut held = self.budget.held();
        if bytes > self.bytes && !self.may_hold(&held, bytes) {
            return false;
        }
        held.replace(self.user, self.network, self.bytes, bytes);
        drop(held);
        self.bytes = bytes;
        true
    }

    /// Puts it on the account of a user, who is known only once a body has come; `false` where it is beyond that user's share,
    /// and nothing has changed.
    #[must_use]
    pub fn charge_to(&mut self, user: UserId) -> bool {
        if self.bytes == 0 {
            self.user = Some(user);
            return true;
        }
        let mut held = self.budget.held();
        let others = held.by_user.get(&user).copied().unwrap_or(0);
        if others > 0 && others + self.bytes > self.budget.bytes / USERS_SHARE {
            return false;
        }
        held.replace(self.user, self.network, self.bytes, 0);
        held.replace(Some(user), self.network, 0, self.bytes);
        drop(held);
        self.user = Some(user);
        true
    }

    /// Whether the budget and both shares have room for this permit to hold so many bytes.
    fn may_hold(&self, held: &Held, bytes: usize) -> bool {
        let total = self.budget.bytes;
        let leaves_room = bytes > LARGE && !self.may_take_all;
        let most = if leaves_room { total - total / 4 } else { total };
        let others_of = |held: Option<&usize>| held.map_or(0, |held| held - self.bytes);
        let fits = |others: usize, share: usize| others == 0 || others + bytes <= total / share;
        let of_user = self.user.and_then(|user| held.by_user.get(&user));
        let of_network = self.network.and_then(|network| held.by_network.get(&network));
        let others = held.bytes - self.bytes;
        (others == 0 || others + bytes <= most)
            && fits(others_of(of_user), USERS_SHARE)
            && fits(others_of(of_network), NETWORKS_SHARE)
    }
}

impl Held {
    fn replace(
        &mut self,
        user: Option<UserId>,
        network: Option<IpAddr>,
        before: usize,
        after: usize,
    ) {
        self.bytes = self.bytes - before + after;
        if let Some(user) = user {
            replace(&mut self.by_user, user, before, after);
        }
        if let Some(network) = network {
            replace(&mut self.by_network, network, before, after);
        }
    }
}

fn replace<K: Copy + std::hash::Hash + Eq>(
    held: &mut HashMap<K, usize>,
    key: K,
    before: usize,
    after: usize,
) {
    let bytes = held.entry(key).or_insert(0);
    *bytes = *bytes - before + after;
    if *bytes == 0 {
        held.remove(&key);
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        // Most hold nothing: they need not wait for the lock.
        if self.bytes > 0 {
            self.budget.held().replace(self.user, self.network, self.bytes, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Parse as _;

    const MIB: usize = 1024 * 1024;

    fn budget() -> Arc<MemoryBudget> {
        Arc::new(MemoryBudget::new(64 * MIB))
    }

    fn take(budget: &Arc<MemoryBudget>, owner: Owner, bytes: usize) -> Option<MemoryPermit> {
        let mut permit = budget.permit(owner);
        permit.resize(bytes).then_some(permit)
    }

    fn owner(user: u8, client: &str) -> Owner {
        let user = UserId::parse(&format!("{user:032x}")).unwrap();
        Owner { user: Some(user), client: Some(client.parse().unwrap()) }
    }

    #[test]
    fn a_user_holds_an_eighth_and_at_least_one_answer() {
        let budget = budget();
        let alice = owner(1, "192.0.2.1");
        let first = take(&budget, alice, 6 * MIB).unwrap();
        assert!(take(&budget, alice, 3 * MIB).is_none(), "above 8 MiB");
        assert!(take(&budget, alice, 2 * MIB).is_some());
        assert!(take(&budget, owner(2, "192.0.2.1"), 6 * MIB).is_some(), "others have their own");
        drop(first);
        assert!(take(&budget, alice, 20 * MIB).is_some(), "a single large one fits");
    }

    #[test]
    fn a_network_holds_half() {
        let budget = budget();
        let held: Vec<_> =
            (0..4).map(|user| take(&budget, owner(user, "2001:db8::1"), 8 * MIB)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(take(&budget, owner(9, "2001:db8::2"), 8 * MIB).is_none(), "the same /64");
        assert!(take(&budget, owner(9, "2001:db8:0:1::2"), 8 * MIB).is_some());
    }

    #[test]
    fn small_ones_are_not_counted_and_the_largest_takes_all() {
        let budget = budget();
        assert!(take(&budget, Owner::default(), 48 * MIB).is_some());
        let large = take(&budget, Owner::default(), 40 * MIB).unwrap();
        assert!(take(&budget, Owner::default(), 9 * MIB).is_none(), "a quarter is kept for others");
        assert!(take(&budget, Owner::default(), LARGE).is_some());
        let mut list = budget.permit_for_made(Owner::default());
        assert!(list.resize(9 * MIB), "a list may take that quarter");
        drop(list);
        drop(large);
        let all = take(&budget, Owner::default(), 100 * MIB).unwrap();
        assert!(take(&budget, Owner::default(), UNCOUNTED + 1).is_none());
        assert!(take(&budget, Owner::default(), UNCOUNTED).is_some());
        drop(all);
        assert!(take(&budget, Owner::default(), UNCOUNTED + 1).is_some());
    }

    #[test]
    fn a_permit_grows_and_shrinks() {
        let budget = budget();
        let alice = owner(1, "192.0.2.1");
        let mut permit = budget.permit(alice);
        assert!(permit.resize(MIB) && permit.resize(8 * MIB) && permit.resize(44 * MIB));
        assert!(take(&budget, owner(2, "198.51.100.1"), 5 * MIB).is_none());
        assert!(permit.resize(MIB));
        assert!(take(&budget, owner(2, "198.51.100.1"), 5 * MIB).is_some());
        drop(permit);
        assert_eq!(budget.held().bytes, 0);
        assert!(budget.held().by_user.is_empty() && budget.held().by_network.is_empty());
    }

    #[test]
    fn a_body_is_put_on_its_users_account_once_that_is_known() {
        let budget = budget();
        let anyone = |client: &str| Owner { user: None, client: Some(client.parse().unwrap()) };
        let alice = UserId::parse(&format!("{:032x}", 1)).unwrap();
        let mut first = take(&budget, anyone("192.0.2.1"), 6 * MIB).unwrap();
        let mut second = take(&budget, anyone("198.51.100.1"), 3 * MIB).unwrap();
        assert!(first.charge_to(alice));
        assert!(!second.charge_to(alice), "above 8 MiB");
        drop(first);
        assert!(second.charge_to(alice));
        assert!(take(&budget, owner(1, "203.0.113.1"), 6 * MIB).is_none(), "it counts");
        drop(second);
        assert_eq!(budget.held().bytes, 0);
        assert!(budget.held().by_user.is_empty() && budget.held().by_network.is_empty());
    }
}
