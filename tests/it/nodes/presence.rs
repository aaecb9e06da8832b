//! Presence at several nodes: friends are told of what they may have seen otherwise, whatever became of a node or the
//! database.

use std::sync::Arc;

use super::losing::Nodes;
use super::two;
use crate::harness::person::Person;
use crate::harness::postgres::PostgresDatabase;
use crate::harness::process::{Process, Workplace};
use crate::harness::world::World;
use crate::harness::ws_client::WsClient;

impl WsClient {
    /// Takes notifications of this friend until the person then sees the friend with this availability.
    async fn is_told_that(&mut self, person: &Person, friend: &Person, as_what: &str) {
        loop {
            self.is_told_of(&[friend]).await;
            if person.sees_as(friend).await == as_what {
                return;
            }
        }
    }
}

/// The crash empties the table of who is reachable. Until each node has filled it again, a friend who asks at another node
/// sees its users as offline.
#[tokio::test]
async fn after_a_crash_of_the_database_friends_are_told_of_everyone_again() {
    let Some(database) = PostgresDatabase::on_a_server_of_its_own() else { return };
    let one = World::on_postgres(database, &[]).await;
    let (alice, bob) = one.alice_and_bob().await;
    alice.chooses("useravailable").await.ok();
    one.has_told_friends().await;
    let mut listener = bob.listens_from_now_on().await;
    listener.hears_nothing().await;
    one.server().server_crashes();
    one.server().server_starts();
    listener.is_told_that(&bob, &alice, "available").await;
}

#[tokio::test]
async fn a_choice_at_a_node_that_stops_at_once_is_told_at_the_others() {
    let Some([one, other]) = two(&[]).await else { return };
    let (alice, bob) = one.alice_and_bob().await;
    let mut listener = bob.listens_from_now_on().await;
    assert!(!one.app().presence.is_reachable(alice.user), "she was nowhere yet");
    alice.moves_to(&other).chooses("userbusy").await.ok();
    other.ends().await;
    listener.is_told_that(&bob, &alice, "busy").await;
}

#[tokio::test]
async fn a_choice_at_a_node_that_is_killed_at_once_is_told_at_the_others() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let mut nodes = Nodes::start(&Arc::new(database), 2).await;
    let mut pairs = nodes.pairs(2);
    let ([marker, friend], [alice, bob]) = (pairs.remove(1), pairs.remove(0));
    let alice = alice.asks_at(nodes.servers[1].address);
    alice.chooses("useravailable").await.ok();
    bob.comes_to_see(&alice, "available").await;
    marker.is_told_of_thrice(&friend).await;
    let mut listener = bob.listens_from_now_on().await;
    alice.chooses("userbusy").await.ok();
    nodes.servers.remove(1).dies().await;
    listener.is_told_that(&bob, &alice, "busy").await;
}

/// The node stands still for longer than what others read again of the table.
#[tokio::test]
async fn users_of_a_node_that_stood_still_come_back_with_it() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let database = Arc::new(database);
    let places = [(); 2].map(|()| Workplace::on(Arc::clone(&database)));
    let briefly = [("CHATSERVER_PRESENCE__TIMEOUT_SECONDS", "3")];
    let [one, other]: [Process; 2] =
        [places[0].serves(&briefly).await, places[1].serves(&briefly).await];
    let (alice, bob) = places[0].alice_and_bob(&one);
    let alice = alice.asks_at(other.address);
    alice.chooses("useravailable").await.ok();
    let _listens = alice.listens().await;
    bob.comes_to_see(&alice, "available").await;
    let mut listener = bob.listens_from_now_on().await;
    other.signal("STOP");
    listener.is_told_that(&bob, &alice, "offline").await;
    other.signal("CONT");
    listener.is_told_that(&bob, &alice, "available").await;
}
