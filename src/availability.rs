//! Availability: the user's own choice, which is stored, and whether the user is reachable, which each node knows in
//! memory and tells the others. Friends are told of changes at most once a second for each user.

mod nodes;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::domain::{Availability, UserId};
use crate::live::Hub;
use crate::notifications::PresenceFeed;
use crate::store::{self, News, OncePerSignature, SetAvailability, Store, WriteError};
use crate::users::Caller;
pub(crate) use nodes::exchange;
use nodes::{AtNode, Told};

/// Minimum time between two notifications of friends about the same user.
const QUIET: Duration = Duration::from_secs(1);

/// Interval for telling friends of changed users.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Interval for finding users who are no longer reachable.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

pub struct Presence {
    /// How long a user without an open listener stays reachable after a sign of life.
    timeout: Duration,
    /// Whether other nodes are told before friends are.
    has_nodes: bool,
    users: Mutex<Users>,
}

#[derive(Default)]
struct Users {
    /// Users who are reachable, or whom friends may still see as reachable.
    here: HashMap<UserId, Here>,
    /// Users whose friends may have to be told.
    changed: HashSet<UserId>,
}

struct Here {
    /// The last sign of life at this node.
    last_sign: Option<Instant>,
    /// Open listeners at this node.
    listeners: usize,
    /// Nodes at which the user is reachable, too.
    elsewhere: Vec<AtNode>,
    /// Counts choices of an availability at this node.
    choices: i64,
    /// `None` where other nodes know nothing of the user at this one.
    told: Option<Told>,
    /// The availability that friends were last told, initially offline.
    shown: Availability,
    shown_at: Option<Instant>,
    /// Whether the user has become reachable since `shown`: friends may have seen the chosen availability.
    has_come: bool,
    /// Whether friends may have seen an availability other than `shown` since.
    was_else: bool,
}

impl Here {
    fn is_reachable(&self, timeout: Duration) -> bool {
        self.is_reachable_here(timeout) || self.elsewhere.iter().any(AtNode::is_reachable)
    }

    fn is_reachable_here(&self, timeout: Duration) -> bool {
        self.listeners > 0 || self.last_sign.is_some_and(|sign| sign.elapsed() < timeout)
    }
}

impl Presence {
    pub(crate) fn new(timeout: Duration, has_nodes: bool) -> Self {
        Self { timeout, has_nodes, users: Mutex::default() }
    }

    pub(crate) fn record_sign(&self, user: UserId) {
        self.users().record_sign(user, self.timeout);
    }

    /// Counts an open listener of a user until the guard is dropped. Opening and closing are signs of life.
    pub(crate) fn listens(self: &Arc<Self>, user: UserId) -> Listens {
        let mut users = self.users();
        users.record_sign(user, self.timeout);
        if let Some(here) = users.here.get_mut(&user) {
            here.listeners += 1;
        }
        Listens { presence: Arc::clone(self), user }
    }

    /// Whether a user has an open listener or gave a sign of life within the timeout.
    pub fn is_reachable(&self, user: UserId) -> bool {
        self.users().here.get(&user).is_some_and(|here| here.is_reachable(self.timeout))
    }

    /// Queues a user who has made a choice. Friends are told even of a choice that was reverted, because they may have
    /// read it in between.
    fn chose(&self, user: UserId, before: Availability, now: Availability) {
        let mut users = self.users();
        users.changed.insert(user);
        if let Some(here) = users.here.get_mut(&user) {
            here.was_else |= here.shown != before || here.shown != now;
            here.choices += 1;
        }
    }

    /// Queues a user again after telling friends failed.
    fn failed(&self, user: UserId) {
        let mut users = self.users();
        users.changed.insert(user);
        if let Some(here) = users.here.get_mut(&user) {
            here.was_else = true;
        }
    }

    /// Forgets a user who was deleted.
    fn forget(&self, user: UserId) {
        self.users().here.remove(&user);
    }

    /// Queues all users who are no longer reachable.
    fn sweep(&self) {
        let mut users = self.users();
        let Users { here, changed } = &mut *users;
        let lapsed = here.iter().filter(|(_, here)| !here.is_reachable(self.timeout));
        changed.extend(lapsed.map(|(user, _)| *user));
    }

    /// Takes the queued users whose friends were not told within the last [`QUIET`].
    fn due(&self) -> Vec<UserId> {
        let mut users = self.users();
        let Users { here, changed } = &mut *users;
        let is_due = |user: &UserId| {
            here.get(user).is_none_or(|here| {
                let is_quiet = here.shown_at.is_none_or(|shown_at| shown_at.elapsed() >= QUIET);
                // A friend who is told may ask at any node.
                is_quiet && (!self.has_nodes || here.is_known(self.timeout))
            })
        };
        changed.extract_if(|user| is_due(user)).collect()
    }

    /// Computes what friends see from the user's choice. Returns whether that is a change for them, and records it as
    /// told.
    fn shows(&self, user: UserId, chosen: Availability) -> bool {
        let mut users = self.users();
        let Some(here) = users.here.get_mut(&user) else {
            return false;
        };
        let is_reachable = here.is_reachable(self.timeout);
        let seen = if is_reachable { chosen } else { Availability::Offline };
        let was_else = std::mem::take(&mut here.was_else);
        let was_chosen = std::mem::take(&mut here.has_come) && here.shown != chosen;
        let is_change = here.shown != seen || was_else || was_chosen;
        if is_change {
            here.shown = seen;
            here.shown_at = Some(Instant::now());
        }
        // Departed users are kept briefly to debounce reconnects.
        if !is_reachable && !is_change {
            users.here.remove(&user);
        }
        is_change
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        // A panic leaves no half-made change behind, so a poisoned lock is safe to use.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Users {
    fn record_sign(&mut self, user: UserId, timeout: Duration) {
        self.change(user, timeout, |here| {
            here.last_sign = Some(Instant::now());
            false
        });
    }

    /// Changes what is known of a user, who may become reachable by that. `change` returns whether friends may see
    /// another availability in any case.
    fn change(&mut self, user: UserId, timeout: Duration, change: impl FnOnce(&mut Here) -> bool) {
        let here = self.here.entry(user).or_insert(Here {
            last_sign: None,
            listeners: 0,
            elsewhere: Vec::new(),
            choices: 0,
            told: None,
            shown: Availability::Offline,
            shown_at: None,
            has_come: false,
            was_else: false,
        });
        let was_here = here.is_reachable(timeout);
        let has_chosen = change(here);
        let has_come = !was_here && here.is_reachable(timeout);
        here.has_come |= has_come;
        here.was_else |= has_chosen || has_come && here.shown != Availability::Offline;
        if has_come || has_chosen {
            self.changed.insert(user);
        }
    }
}

/// An open listener of a user; it counts until this is dropped.
pub(crate) struct Listens {
    presence: Arc<Presence>,
    user: UserId,
}

impl Drop for Listens {
    fn drop(&mut self) {
        if let Some(here) = self.presence.users().here.get_mut(&self.user) {
            here.listeners -= 1;
            here.last_sign = Some(Instant::now());
        }
    }
}

/// Stores the availability that the caller chooses, and queues telling friends. Refuses with
/// [`Refusal::Replayed`](crate::domain::Refusal::Replayed).
pub(crate) async fn choose(
    store: &Store,
    presence: &Presence,
    caller: &Caller,
    availability: Availability,
) -> Result<(), WriteError> {
    let change = SetAvailability { user: caller.user, availability };
    let before = store.write(OncePerSignature { replay: caller.replay, change }).await?;
    presence.chose(caller.user, before, availability);
    Ok(())
}

/// Tells friends of availability changes and wakes their listeners. Runs until the future is dropped.
pub(crate) async fn tell_friends(
    store: &Store,
    presence: &Presence,
    feed: &PresenceFeed,
    hub: &Hub,
) {
    let mut swept_at = Instant::now();
    loop {
        sleep(LOOK_EVERY).await;
        if swept_at.elapsed() >= SWEEP_EVERY {
            presence.sweep();
            swept_at = Instant::now();
        }
        for user in presence.due() {
            match friends_to_tell(store, presence, user).await {
                Ok(friends) => {
                    for friend in friends {
                        feed.changed(friend, user);
                        hub.tell(friend, &News::Unknown);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "notifying friends of an availability failed");
                    presence.failed(user);
                }
            }
        }
    }
}

/// Returns no friends where nothing has changed for them.
async fn friends_to_tell(
    store: &Store,
    presence: &Presence,
    user: UserId,
) -> Result<Vec<UserId>, store::Error> {
    let Some(seen_by) = store.seen_by(user).await? else {
        presence.forget(user);
        return Ok(Vec::new());
    };
    if !presence.shows(user, seen_by.chosen) {
        return Ok(Vec::new());
    }
    // A user may have become a friend since the first read and seen the earlier state, so read the friends again.
    let seen_by = store.seen_by(user).await?;
    Ok(seen_by.map_or_else(Vec::new, |seen_by| seen_by.friends))
}
