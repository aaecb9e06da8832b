//! Presence at several nodes: this node writes what has changed at it, and counts users who are reachable elsewhere.

use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Here, Presence, Users};
use crate::domain::{Availability, UserId};
use crate::store::{self, Elsewhere, Exchanged, HereAtNode, Store};

/// Interval between two exchanges. A friend at another node hears of a change after up to two of them.
const EXCHANGE_EVERY: Duration = Duration::from_millis(400);

/// State of a user at another node, as that one has told it.
pub(super) struct AtNode {
    node: i64,
    listens: bool,
    until: Instant,
    choices: i64,
    /// Whether the node has ended, or its lease.
    has_ended: bool,
}

impl AtNode {
    pub(super) fn is_reachable(&self) -> bool {
        self.listens || Instant::now() < self.until
    }
}

/// State of a user at this node, as it was told to the others.
pub(super) struct Told {
    listens: bool,
    until: Instant,
    choices: i64,
}

/// Exchanges presence with other nodes until `ended` does, and then once more: a choice that was made here last is not lost.
/// Returns at once where there are no other nodes.
pub(crate) async fn exchange(store: &Store, presence: &Presence, ended: impl Future<Output = ()>) {
    let Some(mut exchange) = store.presence_exchange(presence.timeout) else { return };
    let mut ended = pin!(ended);
    let mut is_last = false;
    loop {
        let here = presence.to_tell();
        match exchange.exchange(&here).await {
            Ok(Exchanged::Read(elsewhere)) => {
                presence.told(&here);
                presence.hear(&elsewhere);
            }
            Ok(Exchanged::Forgotten) => {
                presence.start_anew();
                continue;
            }
            Err(error) => tracing::debug!(%error, "exchanging presence with other nodes failed"),
        }
        if is_last {
            return;
        }
        is_last = tokio::select! {
            () = sleep(EXCHANGE_EVERY) => false,
            () = &mut ended => true,
        };
    }
}

impl Presence {
    /// Returns the friends of a user who are reachable at any node.
    ///
    /// Other nodes are read from the database and not from memory: who is told of a change may ask at a node that has not
    /// heard of it yet.
    pub(crate) async fn reachable_friends(
        &self,
        store: &Store,
        user: UserId,
        friends: impl Iterator<Item = UserId>,
    ) -> Result<HashSet<UserId>, store::Error> {
        let elsewhere = store.reachable_friends(user, self.timeout).await?;
        let users = self.users();
        let is_here = |friend: &UserId| {
            users.here.get(friend).is_some_and(|here| here.is_reachable_here(self.timeout))
        };
        Ok(friends.filter(is_here).chain(elsewhere).collect())
    }

    /// Returns what is to be told to other nodes.
    fn to_tell(&self) -> Vec<HereAtNode> {
        let users = self.users();
        let here = users.here.iter();
        here.filter_map(|(user, here)| here.to_tell(*user, self.timeout)).collect()
    }

    fn told(&self, told: &[HereAtNode]) {
        let mut users = self.users();
        for HereAtNode { user, listens, reachable_for, choices } in told {
            if let Some(here) = users.here.get_mut(user) {
                let until = Instant::now() + *reachable_for;
                here.told = Some(Told { listens: *listens, until, choices: *choices });
            }
        }
    }

    /// Tells everything again. A friend who asked at another node meanwhile saw users of this one as offline.
    fn start_anew(&self) {
        let mut users = self.users();
        let Users { here, changed } = &mut *users;
        for (user, here) in here {
            here.told = None;
            here.elsewhere.clear();
            here.doubt();
            changed.insert(*user);
        }
    }

    /// Takes what other nodes tell. Queues the users whose friends may see a change.
    fn hear(&self, elsewhere: &Elsewhere) {
        let mut users = self.users();
        let Users { here, changed } = &mut *users;
        for (user, here) in here {
            if here.outlive(&elsewhere.nodes, self.timeout) {
                here.doubt();
                changed.insert(*user);
            }
        }
        for (node, at) in &elsewhere.users {
            if at.listens || !at.reachable_for.is_zero() {
                users.change(at.user, self.timeout, |here| here.hear(*node, at));
            } else if users.here.contains_key(&at.user) {
                users.change(at.user, self.timeout, |here| here.lose(*node, at.choices));
            }
        }
    }
}

impl Here {
    /// Whether other nodes know that this user is reachable at this one, or is not. A choice is read from the database at
    /// any node, so friends may be told of it before other nodes are.
    pub(super) fn is_known(&self, timeout: Duration) -> bool {
        let told = self.told.as_ref();
        let is_told_reachable =
            told.is_some_and(|told| told.listens || Instant::now() < told.until);
        is_told_reachable == self.is_reachable_here(timeout)
    }

    fn is_told(&self, timeout: Duration) -> bool {
        let (listens, until) = self.at_this_node(timeout);
        match &self.told {
            // Without a listener, the time is told again once a quarter of it has passed.
            Some(told) => {
                told.listens == listens
                    && told.choices == self.choices
                    && (listens || until.saturating_duration_since(told.until) <= timeout / 4)
            }
            None => !self.is_reachable_here(timeout),
        }
    }

    fn to_tell(&self, user: UserId, timeout: Duration) -> Option<HereAtNode> {
        if self.is_told(timeout) {
            return None;
        }
        let (listens, until) = self.at_this_node(timeout);
        let reachable_for = until.saturating_duration_since(Instant::now());
        Some(HereAtNode { user, listens, reachable_for, choices: self.choices })
    }

    /// Returns whether the user has an open listener at this node, and until when the last sign of life counts.
    fn at_this_node(&self, timeout: Duration) -> (bool, Instant) {
        let until = self.last_sign.map(|sign| sign + timeout);
        (self.listeners > 0, until.unwrap_or_else(Instant::now))
    }

    /// Has friends told again. Where they were told that the user is offline, they are told of another availability only.
    fn doubt(&mut self) {
        self.was_else |= self.shown != Availability::Offline;
    }

    /// Takes what a node tells. Returns whether the user may have made another choice there.
    fn hear(&mut self, node: i64, at: &HereAtNode) -> bool {
        let HereAtNode { listens, choices, .. } = *at;
        let until = Instant::now() + at.reachable_for;
        if let Some(known) = self.elsewhere.iter_mut().find(|known| known.node == node) {
            let has_chosen = known.choices != choices;
            *known = AtNode { listens, until, choices, ..*known };
            return has_chosen;
        }
        self.elsewhere.push(AtNode { node, listens, until, choices, has_ended: false });
        choices > 0
    }

    /// Forgets the user at a node that was left. Returns whether the user had made another choice there.
    fn lose(&mut self, node: i64, choices: i64) -> bool {
        let known = self.elsewhere.iter().position(|known| known.node == node);
        known.is_some_and(|known| self.elsewhere.swap_remove(known).choices != choices)
    }

    /// Counts the listeners at nodes that have ended as if they had closed now. Returns whether a node has ended since the
    /// last call: it may not have told the user's last choice.
    fn outlive(&mut self, nodes: &[i64], timeout: Duration) -> bool {
        let mut has_lost = false;
        for at in &mut self.elsewhere {
            let has_ended = !nodes.contains(&at.node);
            has_lost |= has_ended && !at.has_ended;
            at.has_ended = has_ended;
            if at.listens && has_ended {
                at.listens = false;
                at.until = Instant::now() + timeout;
            }
        }
        self.elsewhere.retain(AtNode::is_reachable);
        has_lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_at_a_node_that_the_user_has_left_is_noticed() {
        let presence = Presence::new(Duration::from_mins(2), true);
        let user = UserId::named("alice@example.com").unwrap();
        let hears = |node, listens, choices| {
            presence.users().changed.clear();
            let at = HereAtNode { user, listens, reachable_for: Duration::ZERO, choices };
            presence.hear(&Elsewhere { nodes: vec![1, 2], users: vec![(node, at)] });
            presence.users().changed.contains(&user)
        };
        assert!(hears(1, true, 0), "she comes");
        assert!(!hears(2, true, 0), "and is at another node, too");
        assert!(!hears(1, true, 0), "nothing has changed");
        assert!(hears(1, false, 1), "she has chosen, and left the node");
        assert!(!hears(1, false, 1), "that is known");
    }
}
