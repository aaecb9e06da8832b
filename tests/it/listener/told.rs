//! News from commits: a listener that misses none is told without a read of the store. Its position is saved a moment later.

use std::collections::BTreeSet;

use crate::harness::person::Person;
use crate::harness::process::Workplace;
use crate::harness::world::{World, until};

const MESSAGES: usize = 20;

#[tokio::test]
async fn a_listener_that_is_up_to_date_is_told_without_a_read() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let here = [bob.conversation.as_str().to_owned()];
    let mut phone = bob.listens_from_now_on().await;
    let mut laptop = bob.elsewhere().listens_from_now_on().await;
    alice.sends("hi").await;
    phone.is_told_of_conversations().await;
    laptop.is_told_of_conversations().await;
    let before = server.listener_reads().await;
    for n in 0..MESSAGES {
        // The phone's own message is news for the laptop alone, and the phone misses nothing by it.
        bob.sends(&format!("mine {n}")).await;
        assert_eq!(laptop.is_told_of_conversations().await, here);
        alice.sends(&format!("hers {n}")).await;
        assert_eq!(phone.is_told_of_conversations().await, here);
        assert_eq!(laptop.is_told_of_conversations().await, here);
    }
    // The availability of a friend costs a read, and so may the look of PostgreSQL's nodes at each second.
    let read = server.listener_reads().await - before;
    assert!(read <= MESSAGES / 4, "{read} reads for {} events", 3 * MESSAGES);
}

/// Returns whether the station has acknowledged everything, by the database.
async fn is_saved(place: &Workplace, person: &Person) -> bool {
    let query = format!(
        "SELECT count(*) FROM stations s JOIN users u ON u.id = s.user_id
         JOIN change_numbers n ON n.user_number = u.number
         WHERE u.id = '{}' AND s.station_id = '{}' AND s.position = n.newest",
        person.user,
        person.station.as_str()
    );
    place.opens_database().await.number(&query).await == 1
}

#[tokio::test]
async fn what_a_listener_acknowledges_is_saved_a_moment_later_and_before_a_stop() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let mut listener = bob.listens_from_now_on().await;
    alice.sends("one").await;
    listener.is_told_of_conversations().await;
    until("the position is saved", async || is_saved(&place, &bob).await).await;
    alice.sends("two").await;
    listener.is_told_of_conversations().await;
    listener.is_heard().await;
    server.stops(&place).await;
    assert!(is_saved(&place, &bob).await);
}

/// They are more than the 32 that a commit event names, so the listener reads some of them.
#[tokio::test]
async fn many_conversations_that_change_before_an_acknowledgement_are_all_told() {
    let world = World::start().await;
    let mut bob = world.person("Bob").await;
    let mut friends = Vec::new();
    for n in 0..40 {
        let mut friend = world.person(&format!("Friend-{n}")).await;
        world.befriends(&mut friend, &mut bob).await;
        friends.push(friend);
    }
    let mut listener = bob.listens_from_now_on().await;
    for friend in &friends {
        friend.sends("hi").await;
    }
    let all: BTreeSet<_> = friends.iter().map(|friend| friend.conversation.clone()).collect();
    let mut told = BTreeSet::new();
    while told != all {
        told.extend(listener.is_told_of_conversations().await);
    }
}
