//! Several servers on one PostgreSQL database: whichever of them a client asks, it notices nothing.

mod balanced;
mod cable;
mod losing;
mod presence;
mod revoked;
mod turns;

use std::sync::Arc;

use futures_util::future::join_all;
use losing::Nodes;
use serde_json::json;

use crate::devices;
use crate::harness::person::{Person, Prepared, message};
use crate::harness::postgres::PostgresDatabase;
use crate::harness::process::Workplace;
use crate::harness::world::{World, until};

/// Starts two nodes. `None` where the machine has no PostgreSQL.
async fn two(settings: &[(&str, &str)]) -> Option<[World; 2]> {
    let world = World::on_postgres(PostgresDatabase::migrated()?, settings).await;
    let beside = world.beside(settings).await?;
    Some([world, beside])
}

#[test]
fn copies_kept_by_notifications_survive_nodes_and_the_database() {
    devices::copies_equal_downloads_after_crashes();
}

/// Returns a place for commands on the database of a node.
fn commands(world: &World) -> Workplace {
    Workplace::on(Arc::clone(world.server()))
}

#[tokio::test]
async fn a_listener_at_one_node_hears_of_a_message_at_another() {
    let Some([one, other]) = two(&[]).await else { return };
    let (alice, bob) = one.alice_and_bob().await;
    let mut listener = bob.moves_to(&other).listens_from_now_on().await;
    for n in 0..3 {
        let id = alice.sends(&n.to_string()).await;
        assert_eq!(listener.takes().await.conversations, [bob.conversation.as_str()]);
        assert!(bob.moves_to(&other).downloads().await.message_ids().contains(&id));
    }
}

#[tokio::test]
async fn a_listener_is_told_of_what_another_node_commits_without_a_read() {
    const MESSAGES: usize = 20;
    let Some(database) = PostgresDatabase::migrated() else { return };
    let nodes = Nodes::start(&Arc::new(database), 2).await;
    let [alice, bob] = nodes.pairs(1).remove(0);
    let there = &nodes.servers[1];
    let mut listener = bob.asks_at(there.address).listens_from_now_on().await;
    alice.sends("hi").await;
    listener.is_told_of_conversations().await;
    let before = there.listener_reads().await;
    for n in 0..MESSAGES {
        alice.sends(&n.to_string()).await;
        assert_eq!(listener.is_told_of_conversations().await, [bob.conversation.as_str()]);
    }
    // The look of each second may see a change first.
    let read = there.listener_reads().await - before;
    assert!(read <= MESSAGES / 4, "{read} reads for {MESSAGES} events");
}

/// A node that is killed after its commit tells no one. The row of the user's newest change stands for that here.
#[tokio::test]
async fn a_change_that_no_node_tells_of_is_found_all_the_same() {
    let Some([one, other]) = two(&[]).await else { return };
    let (alice, bob) = one.alice_and_bob().await;
    alice.sends("hi").await;
    let mut listener = bob.moves_to(&other).listens_from_now_on().await;
    one.server().runs(
        "UPDATE change_numbers SET newest = newest + 1;
         UPDATE changes c SET number = n.newest, other_number = n.newest, station = 0
         FROM change_numbers n WHERE n.user_number = c.user_number AND c.kind = 1",
    );
    assert_eq!(listener.takes().await.conversations, [bob.conversation.as_str()]);
}

#[tokio::test]
async fn friends_at_another_node_see_who_comes_chooses_and_goes() {
    let Some([one, other]) = two(&[("presence.timeout_seconds", "3")]).await else { return };
    let (alice, bob) = one.alice_and_bob().await;
    let bob = bob.moves_to(&other);
    let mut listener = bob.listens_from_now_on().await;
    for (action, seen) in [("useravailable", "available"), ("userbusy", "busy")] {
        alice.chooses(action).await.ok();
        listener.is_told_of(&[&alice]).await;
        assert_eq!(bob.sees_as(&alice).await, seen, "at once, at the node that told");
        assert_eq!(bob.moves_to(&one).sees_as(&alice).await, seen, "and at the other one");
    }
    listener.is_told_of(&[&alice]).await;
    bob.comes_to_see(&alice, "offline").await;
}

#[tokio::test]
async fn a_request_is_applied_once_whichever_node_gets_it_again() {
    let Some([one, other]) = two(&[]).await else { return };
    let (alice, bob) = one.alice_and_bob().await;
    let mute = alice.prepares(
        "chatconversation",
        "mute",
        &json!({ "conversationid": alice.conversation }),
    );
    mute.sent().await.ok();
    let elsewhere = alice.moves_to(&other);
    elsewhere.repeats(&mute).sent().await.refused(409, "replayed");
    // A poll that has nothing to tell changes nothing, and its signature is taken all the same.
    let bob_elsewhere = bob.moves_to(&other);
    bob_elsewhere.is_notified().await;
    bob.is_notified().await;
    let poll = bob.prepares_poll();
    poll.sent().await.ok();
    let signatures = "SELECT count(*) FROM replays";
    until("the poll is recorded", async || one.number(signatures).await >= 3).await;
    alice.sends("hi").await;
    let mut again = poll;
    again.url = bob_elsewhere.url("chatnotification");
    let replayed = again.sent().await.ok();
    assert_eq!(replayed["conversationchangedof"], json!([bob.conversation]));
    assert_eq!(bob.is_notified().await.conversations, [bob.conversation.as_str()]);
}

#[tokio::test]
async fn a_message_sent_again_at_another_node_is_stored_once() {
    let Some([one, other]) = two(&[]).await else { return };
    let (alice, bob) = one.alice_and_bob().await;
    let instance = alice.instance().await;
    let hello = message("hello", &alice.date());
    let mut sending = Vec::new();
    for _ in 0..8 {
        for world in [&one, &other] {
            sending.push(alice.moves_to(world).prepares_add(&instance, &hello));
        }
    }
    let sent = join_all(sending.iter().map(Prepared::sent)).await;
    for answer in sent {
        answer.ok();
    }
    assert_eq!(bob.moves_to(&other).reads().await, ["hello"]);
}

#[tokio::test]
async fn what_a_command_changes_acts_at_every_node() {
    let Some([one, other]) = two(&[]).await else { return };
    let (alice, _bob) = one.alice_and_bob().await;
    let at_both: [Person; 2] = [alice.clone(), alice.elsewhere().moves_to(&other)];
    let mut listeners = Vec::new();
    for person in &at_both {
        listeners.push(person.listens_from_now_on().await);
        person.lists().await;
    }
    commands(&one).tells(&["user", "disable", &alice.email]);
    for listener in &mut listeners {
        assert_eq!(listener.is_closed().await, Some(4003));
    }
    for person in &at_both {
        let list = person.prepares("chatconversation", "list", &json!({}));
        list.sent().await.refused(401, "invalid_signature");
    }
}

#[tokio::test]
async fn a_new_epoch_is_told_at_every_node_and_refuses_what_was_signed_before() {
    let Some([one, other]) = two(&[]).await else { return };
    let (alice, bob) = one.alice_and_bob().await;
    alice.sends("hi").await;
    let bob = bob.moves_to(&other);
    let mut listener = bob.listens_from_now_on().await;
    let before = bob.polls(0).await.sequence;
    let signed = bob.prepares("chatconversation", "list", &json!({}));
    let told = commands(&one).tells(&["epoch", "new"]);
    let event = listener.hears().await.unwrap();
    assert_eq!(event["epoch"], told["epoch"]);
    assert_eq!(event["conversationchangedof"], json!([bob.conversation]), "everything again");
    signed.sent().await.refused(401, "timestamp_out_of_range");
    for world in [&one, &other] {
        let person = bob.moves_to(world);
        until("the node has noticed, and takes what is signed since", async || {
            world.clock.advances(1);
            let poll = person.prepares("chatnotification", "download", &json!({ "ack": 0 }));
            poll.sent().await.json()["epoch"] == told["epoch"]
        })
        .await;
    }
    let again = bob.polls(before).await;
    assert_ne!(again.sequence, before);
}
