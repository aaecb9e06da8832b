//! The changes that the database records for each user.

use std::collections::HashMap;

use chatserver::domain::UserId;

use super::database::{Database, hash};
use super::person::Person;
use super::world::World;

/// Returns the 63-bit hash of the ID of a person's station, as `changes` stores it.
pub fn station_bits(person: &Person) -> i64 {
    hash(person.station.as_str()) & i64::MAX
}

/// Reads the changes that the database records for users.
pub struct ChangeLog {
    database: Database,
    known: HashMap<UserId, i64>,
}

impl ChangeLog {
    pub async fn of(world: &World) -> Self {
        let database = world.opens_database().await;
        Self { database, known: HashMap::new() }
    }

    /// Returns the changes recorded for a person since the last call. A `*` marks those by the person's own station.
    pub async fn new_for(&mut self, person: &Person) -> Vec<String> {
        let known = self.known.entry(person.user).or_default();
        let rows = format!(
            "SELECT CASE x.kind WHEN 1 THEN 'conversation' WHEN 2 THEN 'friend' ELSE 'list' END AS kind,
                    coalesce(c.id, f.id, u.id) AS subject_id, x.number, x.station
             FROM users u JOIN changes x ON x.user_number = u.number
             LEFT JOIN conversations c ON x.kind = 1 AND c.number = x.subject
             LEFT JOIN users f ON x.kind = 2 AND f.number = x.subject
             WHERE u.id = '{}' AND x.number > {known} ORDER BY kind, subject_id",
            person.user
        );
        let rows: Vec<(String, String, i64, i64)> = self.database.rows(&rows).await;
        *known = rows.iter().map(|row| row.2).max().unwrap_or(*known);
        let named = |(kind, subject, _, station): (String, String, i64, i64)| {
            let own = if station == station_bits(person) { "*" } else { "" };
            format!("{kind} {subject}{own}")
        };
        rows.into_iter().map(named).collect()
    }

    /// Returns the change number of a person: how many transactions concerned this user.
    pub async fn number_of(&mut self, person: &Person) -> i64 {
        let number = format!(
            "SELECT coalesce(max(n.newest), 0) FROM users u JOIN change_numbers n ON n.user_number = u.number
             WHERE u.id = '{}'",
            person.user
        );
        self.database.number(&number).await
    }
}

pub fn lists(person: &Person) -> String {
    format!("list {}", person.user)
}

pub fn friend(person: &Person) -> String {
    format!("friend {}", person.user)
}

/// Marks a change as made by the person's own station.
pub fn own(hint: String) -> String {
    hint + "*"
}
