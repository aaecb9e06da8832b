//! Stations that end at one node while they listen at another.

use std::sync::Arc;

use super::losing::Nodes;
use super::two;
use crate::harness::postgres::PostgresDatabase;
use crate::harness::world::until;

/// A node that is killed after its commit tells no one. A change by hand stands for that here.
#[tokio::test]
async fn a_listener_ends_though_no_node_says_that_its_station_was_revoked() {
    let Some([one, other]) = two(&[]).await else { return };
    let (alice, bob) = one.alice_and_bob().await;
    let mut listener = bob.moves_to(&other).listens_from_now_on().await;
    alice.sends("hi").await;
    listener.is_told_of_conversations().await;
    let station = bob.station.as_str();
    one.server().runs(&format!("DELETE FROM stations WHERE station_id = '{station}'"));
    assert_eq!(listener.is_closed().await, Some(4003));
}

#[tokio::test]
async fn a_station_that_is_bound_anew_at_another_node_is_told_everything() {
    let Some([one, other]) = two(&[]).await else { return };
    let (alice, bob) = one.alice_and_bob().await;
    let mut listener = bob.moves_to(&other).listens_from_now_on().await;
    let mut last = alice.moves_to(&other).listens_from_now_on().await;
    alice.elsewhere().sends("hi").await;
    listener.is_told_of_conversations().await;
    // The position is acknowledged and not saved yet.
    listener.is_heard().await;
    assert!(one.app().store.unbind_station(bob.user, bob.station).await.unwrap());
    assert_eq!(listener.is_closed().await, Some(4003));
    bob.polls(0).await;
    // A later acknowledgement at the other node is saved, and with it all that were made before.
    last.is_told_of_conversations().await;
    let saved = format!(
        "SELECT count(*) FROM stations WHERE station_id = '{}' AND position > 0",
        alice.station.as_str()
    );
    let mut database = super::commands(&one).opens_database().await;
    until("it is saved", async || database.number(&saved).await == 1).await;
    let everything = bob.polls(0).await;
    assert_eq!(everything.lists, [bob.user.to_string()]);
    assert_eq!(everything.conversations, [bob.conversation.as_str()]);
}

/// A lock makes the read as slow as a database that hangs. What is new meanwhile does not replace it.
#[tokio::test]
async fn a_listener_whose_read_times_out_reads_again() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let database = Arc::new(database);
    let nodes = Nodes::start(&database, 2).await;
    let [alice, bob] = nodes.pairs(1).remove(0);
    let there = &nodes.servers[1];
    let mut listener = bob.asks_at(there.address).listens_from_now_on().await;
    alice.sends("hi").await;
    listener.is_told_of_conversations().await;
    let mut other = nodes.places[0].opens_database().await;
    other.runs("BEGIN; LOCK TABLE stations IN ACCESS EXCLUSIVE MODE").await;
    let before = there.listener_reads().await;
    nodes.places[0].tells(&["user", "rotate-key", &bob.email]);
    until("a read was given up", async || there.listener_reads().await >= before + 2).await;
    other.unlocks().await;
    alice.sends("after").await;
    assert_eq!(listener.is_closed().await, Some(4003));
}
