//! Commit events: what a commit tells the listeners of the users that it affects. They are hints that may be lost. The
//! truth is in the database.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::domain::{Origin, StationId, Subject, UserId};

/// Maximum subjects that an event names for one user. More of them are read in the database.
const SUBJECTS: usize = 32;

/// Users affected by a commit.
#[derive(Clone, Debug)]
pub(crate) enum CommitEvent {
    /// These users, by a commit of this node.
    Here(Arc<HashMap<UserId, News>>),
    /// These users, by a commit of another node.
    Elsewhere(Arc<HashMap<UserId, News>>),
    /// Any user may be affected: another process has written.
    AnyUser,
    /// Another epoch has begun, and all users are to be told everything again.
    NewEpoch,
}

/// News of one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// These changes and no others.
    Changes(Changes),
    /// Whatever there is up to this change number.
    UpTo(i64),
    /// Something that only a read tells, such as another API key, a revoked station, or the availability of a friend.
    Unknown,
}

/// All changes of a user between two change numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Changes {
    /// The number of the newest change before these.
    pub(crate) behind: i64,
    /// The number of the newest of these.
    pub(crate) newest: i64,
    pub(crate) subjects: BTreeMap<Subject, Origin>,
}

impl Changes {
    /// Returns the subjects of which a station is told: it made the others itself.
    pub(crate) fn subjects_for(&self, station: StationId) -> impl Iterator<Item = Subject> {
        let told = self.subjects.iter().filter(move |(_, origin)| origin.concerns(station));
        told.map(|(subject, _)| *subject)
    }

    /// Adds the changes that follow. Returns whether they do.
    fn join(&mut self, next: &Self) -> bool {
        if next.behind != self.newest {
            return false;
        }
        self.newest = next.newest;
        for (subject, origin) in &next.subjects {
            let joined = self.subjects.entry(*subject).or_insert(*origin);
            *joined = joined.then(*origin);
        }
        self.subjects.len() <= SUBJECTS
    }
}

impl News {
    pub(crate) fn of(changes: Changes) -> Self {
        if changes.subjects.len() > SUBJECTS { Self::Unknown } else { Self::Changes(changes) }
    }

    /// Adds later news. Where something between them is missing, only the database tells it.
    pub(crate) fn join(&mut self, next: &Self) {
        let joined = match (&mut *self, next) {
            (Self::Changes(changes), Self::Changes(next)) => changes.join(next),
            (Self::Changes(changes), Self::UpTo(number)) => *number <= changes.newest,
            _ => false,
        };
        if !joined {
            *self = Self::Unknown;
        }
    }

    /// Whether a listener at this station may have something to be told.
    pub(crate) fn concerns(&self, station: StationId) -> bool {
        match self {
            Self::Changes(changes) => changes.subjects_for(station).next().is_some(),
            Self::UpTo(_) | Self::Unknown => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ConversationId, Parse as _};

    fn station(digit: &str) -> StationId {
        StationId::parse(&digit.repeat(32)).unwrap()
    }

    fn conversation(n: usize) -> Subject {
        Subject::Conversation(ConversationId::parse(&format!("{n:032x}")).unwrap())
    }

    fn changes(behind: i64, newest: i64, subjects: &[(Subject, Option<StationId>)]) -> News {
        let subjects = subjects.iter();
        let subjects = subjects
            .map(|(subject, station)| (*subject, Origin { station: *station, is_mixed: false }));
        News::of(Changes { behind, newest, subjects: subjects.collect() })
    }

    fn joined(all: &[News]) -> News {
        let mut first = all[0].clone();
        all[1..].iter().for_each(|next| first.join(next));
        first
    }

    fn subjects(news: &News, at: StationId) -> Vec<Subject> {
        let News::Changes(changes) = news else { panic!("{news:?}") };
        changes.subjects_for(at).collect()
    }

    #[test]
    fn changes_that_follow_each_other_are_joined_and_gaps_are_read() {
        let [one, two] = [1, 2].map(conversation);
        let first = changes(6, 7, &[(one, None)]);
        let second = changes(7, 9, &[(two, None)]);
        let News::Changes(both) = joined(&[first.clone(), second.clone()]) else {
            panic!("joined")
        };
        assert_eq!((both.behind, both.newest), (6, 9));
        assert_eq!(both.subjects.into_keys().collect::<Vec<_>>(), [one, two]);
        let third = changes(9, 10, &[]);
        for gap in [
            [&first, &third],
            [&second, &first],
            [&News::Unknown, &first],
            [&first, &News::Unknown],
        ] {
            assert_eq!(joined(&gap.map(Clone::clone)), News::Unknown);
        }
        assert_eq!(joined(&[second.clone(), News::UpTo(9)]), second);
        assert_eq!(joined(&[second, News::UpTo(10)]), News::Unknown);
    }

    #[test]
    fn a_station_is_told_of_what_it_did_not_do_alone() {
        let [mine, other] = ["a", "b"].map(station);
        let [one, two] = [1, 2].map(conversation);
        let first = changes(0, 1, &[(one, Some(mine)), (two, Some(mine))]);
        let second = changes(1, 2, &[(one, None), (two, Some(mine))]);
        assert!(!first.concerns(mine) && first.concerns(other));
        for order in [
            [first.clone(), second.clone()],
            [changes(0, 1, &[(one, None)]), changes(1, 2, &[(one, Some(mine))])],
        ] {
            let both = joined(&order);
            assert_eq!(subjects(&both, mine), [one]);
        }
        assert_eq!(subjects(&joined(&[first, second]), other), [one, two]);
    }

    #[test]
    fn many_subjects_are_read() {
        let some: Vec<_> = (0..=SUBJECTS).map(|n| (conversation(n), None)).collect();
        assert_eq!(changes(0, 1, &some), News::Unknown);
        let halves = [changes(0, 1, &some[1..]), changes(1, 2, &some[..1])];
        assert!(matches!(halves[0], News::Changes(_)));
        assert_eq!(joined(&halves), News::Unknown);
    }
}
