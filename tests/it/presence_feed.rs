//! Recorded changes of users when friendships and blocks change.

use std::collections::HashMap;
use std::time::Duration;

use chatserver::domain::UserId;
use chatserver::notifications::Inbox;
use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};

use crate::friends::{NONE, incoming};
use crate::message_ids::hash;
use crate::world::{Person, World};

/// Returns the 63-bit hash of the ID of a person's station, as `changes` stores it.
pub fn station_bits(person: &Person) -> i64 {
    hash(person.station.as_str()) & i64::MAX
}

/// A reader of the changes that the database records for users.
pub struct PresenceFeed {
    database: SqliteConnection,
    known: HashMap<UserId, i64>,
}

impl PresenceFeed {
    pub async fn of(world: &World) -> Self {
        let options = SqliteConnectOptions::new().filename(world.database()).read_only(true);
        Self { database: options.connect().await.unwrap(), known: HashMap::new() }
    }

    /// Returns the changes recorded for a person since the last call. A `*` marks those by the person's own station.
    pub async fn new_for(&mut self, person: &Person) -> Vec<String> {
        let known = self.known.entry(person.user).or_default();
        let rows = sqlx::query_as(
            "SELECT CASE x.kind WHEN 1 THEN 'conversation' WHEN 2 THEN 'friend' ELSE 'list' END AS kind,
                    coalesce(c.id, f.id, u.id) AS subject_id, x.number, x.station
             FROM users u JOIN changes x ON x.user_number = u.number
             LEFT JOIN conversations c ON x.kind = 1 AND c.number = x.subject
             LEFT JOIN users f ON x.kind = 2 AND f.number = x.subject
             WHERE u.id = $1 AND x.number > $2 ORDER BY kind, subject_id",
        );
        let rows = rows.bind(person.user.as_str()).bind(*known).fetch_all(&mut self.database);
        let rows: Vec<(String, String, i64, i64)> = rows.await.unwrap();
        *known = rows.iter().map(|row| row.2).max().unwrap_or(*known);
        let named = |(kind, subject, _, station): (String, String, i64, i64)| {
            let own = if station == station_bits(person) { "*" } else { "" };
            format!("{kind} {subject}{own}")
        };
        rows.into_iter().map(named).collect()
    }

    /// Returns the change number of a person: how many transactions concerned this user.
    pub async fn number_of(&mut self, person: &Person) -> i64 {
        let number = sqlx::query_scalar(
            "SELECT n.newest FROM users u JOIN change_numbers n ON n.user_number = u.number
             WHERE u.id = $1",
        );
        let number = number.bind(person.user.as_str()).fetch_optional(&mut self.database);
        number.await.unwrap().unwrap_or(0)
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

#[tokio::test]
async fn each_change_is_noted_for_those_whom_it_concerns() {
    let world = World::start().await;
    let (alice, bob) = (world.person("Alice").await, world.person("Bob").await);
    let mut presence_feed = PresenceFeed::of(&world).await;
    let mut new = async || [presence_feed.new_for(&alice).await, presence_feed.new_for(&bob).await];
    let nothing = Vec::new;
    for _ in 0..2 {
        alice.wants(&bob.email).await.ok();
        assert_eq!(new().await, [vec![own(lists(&alice))], vec![lists(&bob)]]);
        alice.wants(&bob.email).await.ok();
        assert_eq!(new().await, [nothing(), nothing()], "it was asked before");
        alice.removes(bob.user.as_str()).await.ok();
        assert_eq!(new().await, [vec![own(lists(&alice))], vec![lists(&bob)]]);
        alice.removes(bob.user.as_str()).await.ok();
        bob.accepts(&alice).await.ok();
        bob.declines(&alice).await.ok();
        assert_eq!(new().await, [nothing(), nothing()], "there was nothing to change");
    }
    alice.wants(&bob.email).await.ok();
    new().await;
    bob.declines(&alice).await.ok();
    assert_eq!(new().await, [nothing(), vec![own(lists(&bob))]]);
    bob.declines(&alice).await.ok();
    assert_eq!(new().await, [nothing(), nothing()]);
    for _ in 0..2 {
        alice.removes(bob.user.as_str()).await.ok();
        assert_eq!(new().await, [vec![own(lists(&alice))], nothing()]);
        alice.wants(&bob.email).await.ok();
        assert_eq!(new().await, [vec![own(lists(&alice))], nothing()]);
    }
    bob.wants(&alice.email).await.ok();
    let both = |friend: String, lists: String| vec![friend, lists];
    assert_eq!(
        new().await,
        [both(friend(&bob), lists(&alice)), both(own(friend(&alice)), own(lists(&bob)))]
    );
    alice.wants(&bob.email).await.ok();
    alice.accepts(&bob).await.ok();
    assert_eq!(new().await, [nothing(), nothing()]);
    alice.removes(bob.user.as_str()).await.ok();
    assert_eq!(new().await, [vec![own(friend(&bob))], vec![friend(&alice)]]);
    bob.wants(&alice.email).await.ok();
    new().await;
    alice.accepts(&bob).await.ok();
    assert_eq!(
        new().await,
        [both(own(friend(&bob)), own(lists(&alice))), both(friend(&alice), lists(&bob))]
    );
}

#[tokio::test]
async fn what_operators_do_is_noted_for_both() {
    let world = World::start().await;
    let (mut alice, mut bob) = (world.person("Alice").await, world.person("Bob").await);
    alice.wants(&bob.email).await.ok();
    bob.declines(&alice).await.ok();
    let mut presence_feed = PresenceFeed::of(&world).await;
    for person in [&alice, &bob] {
        presence_feed.new_for(person).await;
    }
    world.befriends(&mut alice, &mut bob).await;
    assert_eq!(presence_feed.new_for(&alice).await, [friend(&bob), lists(&alice)]);
    assert_eq!(presence_feed.new_for(&bob).await, [friend(&alice), lists(&bob)]);
    assert_eq!((alice.requests().await, bob.requests().await), (NONE, NONE));
    world.befriends(&mut alice, &mut bob).await;
    assert_eq!(
        (presence_feed.new_for(&alice).await, presence_feed.new_for(&bob).await),
        (vec![], vec![])
    );
    world.parts(&alice, &bob).await;
    assert_eq!(presence_feed.new_for(&alice).await, [friend(&bob)]);
    assert_eq!(presence_feed.new_for(&bob).await, [friend(&alice)]);
    // The declined request has left nothing behind.
    alice.wants(&bob.email).await.ok();
    assert_eq!(bob.requests().await, [incoming(&alice, "Alice"), json!([])]);
}

#[tokio::test]
async fn a_poll_that_is_given_up_takes_nothing_with_it() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let app = world.app();
    let (user, station) = (bob.user, bob.station);
    app.station_used(user, station, true).await.unwrap();
    let inbox = Inbox { store: &app.store, presence_feed: &app.presence_feed, user, station };
    let given_up = tokio::time::timeout(Duration::ZERO, inbox.peek(None)).await;
    assert!(given_up.is_err(), "it waits for the store");
    // The station has a position, so only the in-memory presence feed can name friends.
    app.store.take_number(user).await.unwrap();
    app.store.acknowledge(user, station, 1).await.unwrap();
    assert_eq!(bob.polls(0).await.friends, [alice.user.to_string()]);
}
