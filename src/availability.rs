//! Availability: what a user has chosen to be seen as, and whether the user can be reached, which is known in
//! memory alone. Friends are told of what changes for them, at most once a second for each user.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::domain::{Availability, UserId};
use crate::live::Hub;
use crate::notifications::PresenceFeed;
use crate::store::{self, OncePerSignature, SetAvailability, Store, WriteError};
use crate::users::Caller;

/// How long friends are not told of a user's next change.
const QUIET: Duration = Duration::from_secs(1);

/// How often to look for users of whom friends are to be told.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often to look for users who can no longer be reached.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Who can be reached.
pub struct Presence {
    /// How long a user without an open listener is reachable after a sign of life.
    timeout: Duration,
    users: Mutex<Users>,
}

#[derive(Default)]
struct Users {
    /// Those who can be reached, or are still shown so.
    here: HashMap<UserId, Here>,
    /// Those of whom friends may have to be told.
    changed: HashSet<UserId>,
}

struct Here {
    last_sign: Instant,
    listeners: usize,
    /// What friends were last told, and when.
    shown: Availability,
    shown_at: Option<Instant>,
    /// Whether the user has come since, so that friends may have seen the choice.
    has_come: bool,
    /// Whether friends may have seen anything else since.
    was_else: bool,
}

impl Here {
    fn is_reachable(&self, timeout: Duration) -> bool {
        self.listeners > 0 || self.last_sign.elapsed() < timeout
    }
}

impl Presence {
    /// Takes a user for unreachable this long after the last sign of life.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, users: Mutex::default() }
    }

    /// A user has shown a sign of life.
    pub fn sign(&self, user: UserId) {
        self.users().sign(user, self.timeout);
    }

    /// A user listens, until this is dropped.
    #[must_use]
    pub fn listens(self: &Arc<Self>, user: UserId) -> Listens {
        let mut users = self.users();
        users.sign(user, self.timeout);
        if let Some(here) = users.here.get_mut(&user) {
            here.listeners += 1;
        }
        Listens { presence: Arc::clone(self), user }
    }

    /// Whether a user can be reached.
    #[must_use]
    pub fn is_reachable(&self, user: UserId) -> bool {
        self.users().here.get(&user).is_some_and(|here| here.is_reachable(self.timeout))
    }

    /// A user has chosen, so that friends may have to be told: even of what was chosen in passing, for whoever has
    /// looked in the meantime.
    fn chose(&self, user: UserId, before: Availability, now: Availability) {
        let mut users = self.users();
        users.changed.insert(user);
        if let Some(here) = users.here.get_mut(&user) {
            here.was_else |= here.shown != before || here.shown != now;
        }
    }

    /// Friends of a user have still to be told.
    fn failed(&self, user: UserId) {
        let mut users = self.users();
        users.changed.insert(user);
        if let Some(here) = users.here.get_mut(&user) {
            here.was_else = true;
        }
    }

    /// Looks for users who can no longer be reached.
    fn sweep(&self) {
        let mut users = self.users();
        let Users { here, changed } = &mut *users;
        let lapsed = here.iter().filter(|(_, here)| !here.is_reachable(self.timeout));
        changed.extend(lapsed.map(|(user, _)| *user));
    }

    /// Users of whom friends may have to be told by now.
    fn due(&self) -> Vec<UserId> {
        let mut users = self.users();
        let Users { here, changed } = &mut *users;
        let is_due = |user: &UserId| {
            let shown_at = here.get(user).and_then(|here| here.shown_at);
            shown_at.is_none_or(|shown_at| shown_at.elapsed() >= QUIET)
        };
        changed.extract_if(|user| is_due(user)).collect()
    }

    /// Takes a choice for what friends see from now on, and says whether that is a change for them.
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
        // Who has just gone stays for a while: coming back at once is a flap, too.
        if !is_reachable && !is_change {
            users.here.remove(&user);
        }
        is_change
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        // Whoever panicked has left nothing half done.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Users {
    fn sign(&mut self, user: UserId, timeout: Duration) {
        let was_here = self.here.get(&user).is_some_and(|here| here.is_reachable(timeout));
        if !was_here {
            self.changed.insert(user);
        }
        let now = Instant::now();
        let here = self.here.entry(user).or_insert(Here {
            last_sign: now,
            listeners: 0,
            shown: Availability::Offline,
            shown_at: None,
            has_come: false,
            was_else: false,
        });
        here.has_come |= !was_here;
        here.was_else |= !was_here && here.shown != Availability::Offline;
        here.last_sign = now;
    }
}

/// A user listens.
pub struct Listens {
    presence: Arc<Presence>,
    user: UserId,
}

impl Drop for Listens {
    fn drop(&mut self) {
        if let Some(here) = self.presence.users().here.get_mut(&self.user) {
            here.listeners -= 1;
            here.last_sign = Instant::now();
        }
    }
}

/// Chooses what the caller is seen as.
///
/// # Errors
///
/// [`Refusal::Replayed`](crate::domain::Refusal::Replayed), and where the store failed.
pub async fn choose(
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

/// Tells friends of what changes, until this is dropped.
pub async fn tell_friends(store: &Store, presence: &Presence, feed: &PresenceFeed, hub: &Hub) {
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
                        hub.wake(friend, None);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "telling friends of an availability failed");
                    presence.failed(user);
                }
            }
        }
    }
}

/// The friends for whom a user has changed.
async fn friends_to_tell(
    store: &Store,
    presence: &Presence,
    user: UserId,
) -> Result<Vec<UserId>, store::Error> {
    let Some(seen_by) = store.seen_by(user).await? else { return Ok(Vec::new()) };
    if !presence.shows(user, seen_by.chosen) {
        return Ok(Vec::new());
    }
    // A user who has become a friend meanwhile may have seen the state before, so friends are read once more.
    let seen_by = store.seen_by(user).await?;
    Ok(seen_by.map_or_else(Vec::new, |seen_by| seen_by.friends))
}
