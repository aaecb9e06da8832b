//! Change set: which users a transaction concerns, and in what. A station is told what to read again, not what
//! happened, so changes are coalesced to one for each user and subject.

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

impl Origin {
    /// Returns the origin of a subject that was changed once more.
    pub(crate) fn then(self, next: Self) -> Self {
        let is_mixed = self.is_mixed || next.is_mixed || self.station != next.station;
        Self { station: next.station, is_mixed }
    }

    /// Whether a station is told of the subject: it did not make all of the changes itself.
    pub(crate) fn concerns(&self, station: StationId) -> bool {
        self.is_mixed || self.station != Some(station)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChangeSet(BTreeMap<(UserId, Subject), Origin>);

impl ChangeSet {
    /// `station` is the user's own station that made the change, if any did.
    pub(crate) fn add(&mut self, user: UserId, subject: Subject, station: Option<StationId>) {
        let once = Origin { station, is_mixed: false };
        let origin = self.0.entry((user, subject)).or_insert(once);
        *origin = origin.then(once);
    }

    pub(crate) fn with(
        mut self,
        user: UserId,
        subject: Subject,
        station: Option<StationId>,
    ) -> Self {
        self.add(user, subject, station);
        self
    }

    /// `one` has ended the friendship, at `station` if any.
    pub(crate) fn end_of_friendship(
        one: UserId,
        other: UserId,
        station: Option<StationId>,
    ) -> Self {
        let changes = Self::default().with(one, Subject::Friend(other), station);
        changes.with(other, Subject::Friend(one), None)
    }

    /// `station` is the station of `one` that made the change, if any did.
    pub(crate) fn new_friendship(one: UserId, other: UserId, station: Option<StationId>) -> Self {
        let changes = Self::end_of_friendship(one, other, station);
        changes.with(one, Subject::Lists, station).with(other, Subject::Lists, None)
    }

    /// In order of the users, so that a caller can group the changes by user.
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
    fn changes_of_one_subject_coalesce_and_keep_the_newest_station() {
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
            // An earlier change from elsewhere is not forgotten.
            let back = mixed.with(alice, Subject::Lists, station("1"));
            assert_eq!(origin(&back), Origin { station: station("1"), is_mixed: true });
        }
    }

    #[test]
    fn a_new_friendship_is_recorded_for_both_users_and_skips_one_station() {
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
