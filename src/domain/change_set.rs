//! Change set: which users a transaction concerns, and in what.

use std::collections::BTreeMap;

use super::{ConversationId, StationId, UserId};

/// The part of a user's view that may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// Messages, reports or the user's own properties of a conversation.
    Conversation(ConversationId),
    /// A friend's nick or visibility, or the friendship itself.
    Friend(UserId),
    /// The user's conversations, friend requests or blocks.
    Lists,
}

/// The origin of the changes of one subject, for one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The user's own station that made the newest change, which is not told of it. `None` for changes that others
    /// made.
    pub(crate) station: Option<StationId>,
    /// Whether an earlier change was made elsewhere.
    pub(crate) is_mixed: bool,
}

/// The changes of one transaction, coalesced to one for each user and subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChangeSet(BTreeMap<(UserId, Subject), Origin>);

impl ChangeSet {
    /// Adds a change for this user. `station` is the user's own station that made it, if any did.
    pub(crate) fn add(&mut self, user: UserId, subject: Subject, station: Option<StationId>) {
        let origin = self.0.entry((user, subject)).or_insert(Origin { station, is_mixed: false });
        *origin = Origin { station, is_mixed: origin.is_mixed || origin.station != station };
    }

    /// Adds a change like [`ChangeSet::add`], and returns the set.
    pub(crate) fn with(
        mut self,
        user: UserId,
        subject: Subject,
        station: Option<StationId>,
    ) -> Self {
        self.add(user, subject, station);
        self
    }

    /// Returns the changes for two users whose friendship the first one has ended. `station` is the first user's, if
    /// any.
    pub(crate) fn end_of_friendship(
        one: UserId,
        other: UserId,
        station: Option<StationId>,
    ) -> Self {
        let changes = Self::default().with(one, Subject::Friend(other), station);
        changes.with(other, Subject::Friend(one), None)
    }

    /// Returns the changes for two users who have become friends. `station` is the first user's, if any.
    pub(crate) fn new_friendship(one: UserId, other: UserId, station: Option<StationId>) -> Self {
        let changes = Self::end_of_friendship(one, other, station);
        changes.with(one, Subject::Lists, station).with(other, Subject::Lists, None)
    }

    /// Returns the changes, ordered by user.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (UserId, Subject, Origin)> {
        self.0.iter().map(|((user, subject), origin)| (*user, *subject, *origin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Parse as _;

    fn user(digit: &str) -> UserId {
        UserId::parse(&digit.repeat(32)).unwrap()
    }

    fn station(digit: &str) -> Option<StationId> {
        StationId::parse(&digit.repeat(32))
    }

    #[test]
    fn changes_of_one_subject_are_one_and_their_station_is_the_newest() {
        let alice = user("a");
        let once = ChangeSet::default().with(alice, Subject::Lists, station("1"));
        let origin = |changes: &ChangeSet| changes.iter().next().unwrap().2;
        assert_eq!(origin(&once), Origin { station: station("1"), is_mixed: false });
        let twice = once.clone().with(alice, Subject::Lists, station("1"));
        assert_eq!(twice, once);
        for elsewhere in [station("2"), None] {
            let mixed = once.clone().with(alice, Subject::Lists, elsewhere);
            assert_eq!(mixed.iter().count(), 1);
            assert_eq!(origin(&mixed), Origin { station: elsewhere, is_mixed: true });
            // Once another station is to be told, it stays so.
            let back = mixed.with(alice, Subject::Lists, station("1"));
            assert_eq!(origin(&back), Origin { station: station("1"), is_mixed: true });
        }
    }

    #[test]
    fn both_friends_are_told_and_only_one_station_is_left_out() {
        let (alice, bob) = (user("a"), user("b"));
        let told: Vec<_> = ChangeSet::new_friendship(alice, bob, station("1")).iter().collect();
        let made = Origin { station: station("1"), is_mixed: false };
        let elsewhere = Origin { station: None, is_mixed: false };
        assert_eq!(
            told,
            [
                (alice, Subject::Friend(bob), made),
                (alice, Subject::Lists, made),
                (bob, Subject::Friend(alice), elsewhere),
                (bob, Subject::Lists, elsewhere),
            ]
        );
    }
}
