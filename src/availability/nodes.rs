//! Presence at several nodes: this node writes what has changed at it, and counts users who are reachable elsewhere.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Here, Presence};
use crate::domain::UserId;
use crate::store::{self, Elsewhere, Exchanged, HereAtNode, Store};

/// Interval between two exchanges. A friend at another node hears of a change after up to two of them.
const EXCHANGE_EVERY: Duration = Duration::from_millis(400);

/// State of a user at another node, as that one has told it.
pub(super) struct AtNode {
    node: i64,
    listens: bool,
    until: Instant,
    choices: i64,
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

/// Exchanges presence with other nodes until the future is dropped. Ends at once on a database in a file.
pub(crate) async fn exchange(store: &Store, presence: &Presence) {
    let Some(mut exchange) = store.presence_exchange(presence.timeout) else { return };
    loop {
        let here = presence.to_tell();
        match exchange.exchange(&here).await {
            Ok(Exchanged::Read(elsewhere)) => {
                presence.told(&here);
                presence.hear(&elsewhere);
            }
            Ok(Exchanged::Forgotten) => presence.start_anew(),
            Err(error) => tracing::debug!(%error, "exchanging presence with other nodes failed"),
        }
        sleep(EXCHANGE_EVERY).await;
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

    /// Forgets what was told and heard. All nodes tell it again.
    fn start_anew(&self) {
        for here in self.users().here.values_mut() {
            here.told = None;
            here.elsewhere.clear();
        }
    }

    /// Takes what other nodes tell. Queues the users whose friends may see a change.
    fn hear(&self, elsewhere: &Elsewhere) {
        let mut users = self.users();
        for here in users.here.values_mut() {
            here.outlive(&elsewhere.nodes, self.timeout);
        }
        for (node, at) in &elsewhere.users {
            if at.listens || !at.reachable_for.is_zero() {
                users.change(at.user, self.timeout, |here| here.hear(*node, at));
            } else if users.here.contains_key(&at.user) {
                users.change(at.user, self.timeout, |here| {
                    here.elsewhere.retain(|known| known.node != *node);
                    false
                });
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

    /// Takes what a node tells. Returns whether the user may have made another choice there.
    fn hear(&mut self, node: i64, at: &HereAtNode) -> bool {
        let HereAtNode { listens, choices, .. } = *at;
        let heard = AtNode { node, listens, until: Instant::now() + at.reachable_for, choices };
        if let Some(known) = self.elsewhere.iter_mut().find(|known| known.node == node) {
            return std::mem::replace(known, heard).choices != choices;
        }
        self.elsewhere.push(heard);
        choices > 0
    }

    /// Counts the listeners at nodes that have ended as if they had closed now.
    fn outlive(&mut self, nodes: &[i64], timeout: Duration) {
        for at in &mut self.elsewhere {
            if at.listens && !nodes.contains(&at.node) {
                at.listens = false;
                at.until = Instant::now() + timeout;
            }
        }
        self.elsewhere.retain(AtNode::is_reachable);
    }
}
