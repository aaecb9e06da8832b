//! The users that a transaction affects, and what it changes for them.

use std::collections::{BTreeMap, HashMap};

use super::commit_event::{Changes, News};
use super::listing::listed;
use super::many_rows::Column::Integer;
use super::many_rows::{ManyRows, ROWS};
use super::write_tx::WriteTx;
use crate::domain::{Origin, Subject, UserId};

listed!(NEWEST);

/// One row, since each row of SQLite's is a hand-over from its thread.
static NEWEST: ManyRows = ManyRows::new(
    "SELECT string_agg(concat(n.user_number, ' ', n.newest), ',')
     FROM ({rows}) AS named JOIN change_numbers n ON n.user_number = named.column1",
    &[Integer],
);

#[derive(Default)]
pub(super) struct Affected {
    users: HashMap<UserId, Effect>,
    /// How many change numbers the transaction takes, by the user's number.
    taken: HashMap<i64, i64>,
}

enum Effect {
    /// Subjects that changed for the user with this number, joined over all changes of the batch.
    Changes(i64, BTreeMap<Subject, Origin>),
    Unknown,
}

impl Affected {
    /// Adds a change of a user who has this number.
    pub(super) fn change(&mut self, user: UserId, number: i64, subject: Subject, origin: Origin) {
        let effect = self.users.entry(user);
        let effect = effect.or_insert_with(|| Effect::Changes(number, BTreeMap::new()));
        let Effect::Changes(_, subjects) = effect else { return };
        let known = subjects.entry(subject).or_insert(origin);
        *known = known.then(origin);
    }

    /// Marks a user as affected by something that is no numbered change.
    pub(super) fn mark_unknown(&mut self, user: UserId) {
        self.users.insert(user, Effect::Unknown);
    }

    /// Counts a change number that the transaction takes for each of these users.
    pub(super) fn take_numbers(&mut self, users: &[i64]) {
        for user in users {
            *self.taken.entry(*user).or_default() += 1;
        }
    }

    /// Selects the newest change numbers, at the end of the transaction.
    pub(super) fn select_numbers(&self, tx: &mut WriteTx) {
        let numbers: Vec<_> = self.users.values().filter_map(Effect::user_number).collect();
        for numbers in numbers.chunks(ROWS) {
            tx.defer(&NEWEST, numbers, |number, values| {
                values.add(*number);
            });
        }
    }

    /// Returns what the committed transaction has changed for each user, by the numbers that it has selected.
    pub(super) fn news(self, selected: &[String]) -> HashMap<UserId, News> {
        let Self { users, taken } = self;
        let newest: HashMap<_, _> =
            selected.iter().flat_map(|text| text.split(',')).filter_map(pair).collect();
        let news = users.into_iter().map(|(user, effect)| {
            let news = match effect {
                Effect::Changes(number, subjects) => changes(number, subjects, &newest, &taken),
                Effect::Unknown => None,
            };
            (user, news.unwrap_or(News::Unknown))
        });
        news.collect()
    }
}

impl Effect {
    fn user_number(&self) -> Option<i64> {
        match self {
            Self::Changes(number, _) => Some(*number),
            Self::Unknown => None,
        }
    }
}

fn changes(
    user: i64,
    subjects: BTreeMap<Subject, Origin>,
    newest: &HashMap<i64, i64>,
    taken: &HashMap<i64, i64>,
) -> Option<News> {
    let newest = *newest.get(&user)?;
    Some(News::of(Changes { behind: newest - taken.get(&user)?, newest, subjects }))
}

/// Reads two numbers with a space between them.
fn pair(text: &str) -> Option<(i64, i64)> {
    let (one, other) = text.split_once(' ')?;
    Some((one.parse().ok()?, other.parse().ok()?))
}
