//! Memory budget for request bodies and answers on their way, with a share for each user and client network.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::client_network;
use crate::domain::UserId;

/// A number of bytes that heads, bodies and answers reserve before they grow. A user holds at most 1/8 of it and a
/// client network at most 1/2. Each may hold at least one body or answer, however large. [`MemoryUse`] has further
/// rules.
pub(crate) struct MemoryBudget {
    bytes: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    bytes: usize,
    by_account: HashMap<Account, usize>,
}

/// A user or a network, each of which has a share of the budget.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Account {
    User(UserId),
    Network(IpAddr),
    /// Heads and unverified bodies from a network. Bodies of its verified users don't count here, because they must
    /// not keep out the next user behind the same address.
    ArrivingFrom(IpAddr),
}

impl Account {
    /// Returns the accounts to which a permit's bytes are charged.
    fn all(user: Option<UserId>, network: Option<IpAddr>, purpose: MemoryUse) -> [Option<Self>; 3] {
        let arriving = network.filter(|_| purpose == MemoryUse::Arriving);
        [user.map(Self::User), network.map(Self::Network), arriving.map(Self::ArrivingFrom)]
    }

    /// Returns the divisor of the budget that yields the maximum bytes of this account.
    fn share(self) -> usize {
        match self {
            Self::User(_) | Self::ArrivingFrom(_) => 8,
            Self::Network(_) => 2,
        }
    }
}

/// The user and client that hold memory, as far as they are known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Owner {
    pub(crate) user: Option<UserId>,
    pub(crate) client: Option<IpAddr>,
}

/// The use of a permit, which decides how much of the budget it leaves to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemoryUse {
    /// A head, or a body whose signature is not verified yet. Leaves a quarter of the budget to other uses. A
    /// client network holds at most 1/8 of the budget this way.
    Arriving,
    /// The body of a verified user. Above 128 KiB it leaves a quarter of the budget to others.
    Body,
    /// An answer that is admitted before it is made. Above 128 KiB it leaves a quarter of the budget to others. So
    /// clients that don't read their large answers can't block small ones and lists.
    Answer,
    /// An answer that is already made, such as a list. It may use the whole budget.
    MadeAnswer,
}

impl MemoryUse {
    /// Returns the maximum bytes that are not counted; the number of connections bounds these.
    fn uncounted(self) -> usize {
        match self {
            Self::Arriving | Self::Body => 4 * 1024,
            Self::Answer | Self::MadeAnswer => 16 * 1024,
        }
    }

    fn leaves_a_quarter(self, bytes: usize) -> bool {
        match self {
            Self::Arriving => true,
            Self::Body | Self::Answer => bytes > 128 * 1024,
            Self::MadeAnswer => false,
        }
    }
}

/// A part of the budget, given back on drop.
pub(crate) struct MemoryPermit {
    budget: Arc<MemoryBudget>,
    user: Option<UserId>,
    network: Option<IpAddr>,
    bytes: usize,
    purpose: MemoryUse,
}

impl MemoryBudget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { bytes, held: Mutex::default() }
    }

    /// Returns a permit of this owner that holds no bytes yet.
    pub(crate) fn permit(self: &Arc<Self>, owner: Owner, purpose: MemoryUse) -> MemoryPermit {
        let network = owner.client.map(client_network);
        MemoryPermit { budget: Arc::clone(self), user: owner.user, network, bytes: 0, purpose }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryPermit {
    /// Grows or shrinks the permit to this many bytes. Returns `false`, and changes nothing, where the budget or a
    /// share has no room. A size above the whole budget takes the whole budget, so that no request is refused for
    /// ever.
    pub(crate) fn resize(&mut self, bytes: usize) -> bool {
        let is_counted = bytes > self.purpose.uncounted();
        let bytes = if is_counted { bytes.min(self.budget.bytes) } else { 0 };
        if bytes == self.bytes {
            return true;
        }
        let mut held = self.budget.held();
        if bytes > self.bytes && !self.may_hold(&held, bytes) {
            return false;
        }
        held.replace(self.accounts(), self.bytes, bytes);
        drop(held);
        self.bytes = bytes;
        true
    }

    /// Charges a received body to its verified user. Returns `false`, and changes nothing, where it exceeds that
    /// user's share.
    pub(crate) fn charge_to(&mut self, user: UserId) -> bool {
        // Most bodies are small and hold no bytes, so they skip the lock.
        if self.bytes > 0 {
            let mut held = self.budget.held();
            let account = Account::User(user);
            let others = held.of(account);
            if others > 0 && others + self.bytes > self.budget.bytes / account.share() {
                return false;
            }
            held.replace(self.accounts(), self.bytes, 0);
            held.replace(Account::all(Some(user), self.network, MemoryUse::Body), 0, self.bytes);
        }
        (self.user, self.purpose) = (Some(user), MemoryUse::Body);
        true
    }

    fn accounts(&self) -> [Option<Account>; 3] {
        Account::all(self.user, self.network, self.purpose)
    }

    /// Returns whether the budget and all shares have room for this permit to hold so many bytes.
    fn may_hold(&self, held: &Held, bytes: usize) -> bool {
        let total = self.budget.bytes;
        let leaves_a_quarter = self.purpose.leaves_a_quarter(bytes);
        let most = if leaves_a_quarter { total - total / 4 } else { total };
        let others = held.bytes - self.bytes;
        (others == 0 || others + bytes <= most)
            && self.accounts().into_iter().flatten().all(|account| {
                let others = held.of(account) - self.bytes;
                others == 0 || others + bytes <= total / account.share()
            })
    }
}

impl Held {
    fn of(&self, account: Account) -> usize {
        self.by_account.get(&account).copied().unwrap_or(0)
    }

    fn replace(&mut self, accounts: [Option<Account>; 3], before: usize, after: usize) {
        self.bytes = self.bytes - before + after;
        for account in accounts.into_iter().flatten() {
            let bytes = self.by_account.entry(account).or_insert(0);
            *bytes = *bytes - before + after;
            if *bytes == 0 {
                self.by_account.remove(&account);
            }
        }
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        // Most permits hold no bytes, so they skip the lock.
        if self.bytes > 0 {
            self.budget.held().replace(self.accounts(), self.bytes, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Parse as _;

    const MIB: usize = 1024 * 1024;

    fn budget() -> Arc<MemoryBudget> {
        Arc::new(MemoryBudget::new(64 * MIB))
    }

    fn take(budget: &Arc<MemoryBudget>, owner: Owner, bytes: usize) -> Option<MemoryPermit> {
        take_for(budget, owner, MemoryUse::Answer, bytes)
    }

    fn take_for(
        budget: &Arc<MemoryBudget>,
        owner: Owner,
        purpose: MemoryUse,
        bytes: usize,
    ) -> Option<MemoryPermit> {
        let mut permit = budget.permit(owner, purpose);
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
    fn a_network_holds_at_most_half() {
        let budget = budget();
        let held: Vec<_> =
            (0..4).map(|user| take(&budget, owner(user, "2001:db8::1"), 8 * MIB)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(take(&budget, owner(9, "2001:db8::2"), 8 * MIB).is_none(), "the same /64");
        assert!(take(&budget, owner(9, "2001:db8:0:1::2"), 8 * MIB).is_some());
    }

    #[test]
    fn small_answers_always_fit_and_the_largest_takes_the_whole_budget() {
        let budget = budget();
        assert!(take(&budget, Owner::default(), 48 * MIB).is_some());
        let large = take(&budget, Owner::default(), 40 * MIB).unwrap();
        assert!(take(&budget, Owner::default(), 9 * MIB).is_none(), "a quarter is kept for others");
        assert!(take(&budget, Owner::default(), 128 * 1024).is_some());
        let list = take_for(&budget, Owner::default(), MemoryUse::MadeAnswer, 9 * MIB);
        assert!(list.is_some(), "a list may take that quarter");
        let arriving = take_for(&budget, Owner::default(), MemoryUse::Arriving, 9 * MIB);
        assert!(arriving.is_none(), "what arrives may not");
        drop(list);
        drop(large);
        let all = take(&budget, Owner::default(), 100 * MIB).unwrap();
        assert!(take(&budget, Owner::default(), 16 * 1024 + 1).is_none());
        assert!(take(&budget, Owner::default(), 16 * 1024).is_some());
        assert!(take_for(&budget, Owner::default(), MemoryUse::Arriving, 4 * 1024 + 1).is_none());
        assert!(take_for(&budget, Owner::default(), MemoryUse::Arriving, 4 * 1024).is_some());
        drop(all);
        assert!(take(&budget, Owner::default(), 16 * 1024 + 1).is_some());
    }

    #[test]
    fn a_permit_grows_and_shrinks() {
        let budget = budget();
        let alice = owner(1, "192.0.2.1");
        let mut permit = budget.permit(alice, MemoryUse::Answer);
        assert!(permit.resize(MIB) && permit.resize(8 * MIB) && permit.resize(44 * MIB));
        assert!(take(&budget, owner(2, "198.51.100.1"), 5 * MIB).is_none());
        assert!(permit.resize(MIB));
        assert!(take(&budget, owner(2, "198.51.100.1"), 5 * MIB).is_some());
        drop(permit);
        assert_eq!(budget.held().bytes, 0);
        assert!(budget.held().by_account.is_empty());
    }

    #[test]
    fn a_body_counts_for_its_user_once_the_user_is_known() {
        let budget = budget();
        let anyone = |client: &str| Owner { user: None, client: Some(client.parse().unwrap()) };
        let alice = UserId::parse(&format!("{:032x}", 1)).unwrap();
        let arriving =
            |client, bytes| take_for(&budget, anyone(client), MemoryUse::Arriving, bytes);
        let mut first = arriving("192.0.2.1", 6 * MIB).unwrap();
        assert!(arriving("192.0.2.1", 3 * MIB).is_none(), "a network has an eighth until then");
        let mut second = arriving("198.51.100.1", 3 * MIB).unwrap();
        assert!(first.charge_to(alice));
        assert!(!second.charge_to(alice), "above 8 MiB");
        drop(first);
        assert!(second.charge_to(alice));
        assert!(take(&budget, owner(1, "203.0.113.1"), 6 * MIB).is_none(), "it counts");
        drop(second);
        assert_eq!(budget.held().bytes, 0);
        assert!(budget.held().by_account.is_empty());
    }
}
