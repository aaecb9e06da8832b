//! Acknowledged delivery: a notification is repeated until the client acknowledges it.

use chatserver::domain::{Email, Parse as _, StationId, Timestamp, UserId};
use chatserver::notifications::Sequence;
use chatserver::store::Epoch;
use serde_json::json;

use super::{bob_and_friends, nothing, of, unnumbered};
use crate::harness::notification::Notification;
use crate::harness::world::{World, until};

#[tokio::test]
async fn a_notification_is_repeated_until_it_is_acknowledged() {
    let world = World::start().await;
    let (bob, friends) = bob_and_friends(&world, &["Alice", "Carol", "Dave"]).await;
    let [alice, carol, dave] = [0, 1, 2].map(|friend| friends[friend].conversation.as_str());
    let first = bob.polls(0).await;
    assert_eq!(bob.polls(0).await, first);
    assert_eq!(unnumbered(bob.polls(first.sequence).await), nothing());

    friends[0].sends("one").await;
    let one = bob.polls(first.sequence).await;
    assert_eq!(unnumbered(one.clone()), of(&[alice]));
    assert!(one.sequence > first.sequence);
    assert_eq!(bob.polls(first.sequence).await, one);
    friends[1].sends("two").await;
    let two = bob.polls(first.sequence).await;
    assert_eq!(unnumbered(two.clone()), of(&[alice, carol]));
    assert!(two.sequence > one.sequence);
    // An older acknowledgement covers changes up to its number.
    let rest = bob.polls(one.sequence).await;
    assert_eq!(rest, Notification { sequence: two.sequence, ..of(&[carol]) });
    assert_eq!(bob.polls(first.sequence).await, rest, "and is not taken back");
    friends[2].sends("three").await;
    let three = bob.polls(two.sequence).await;
    assert_eq!(unnumbered(three.clone()), of(&[dave]), "what came later is not covered");
    friends[0].sends("four").await;
    friends[2].sends("five").await;
    assert_eq!(unnumbered(bob.polls(three.sequence).await), of(&[alice, dave]));
    let last = bob.polls(0).await;
    assert_eq!(
        unnumbered(bob.polls(last.sequence).await),
        nothing(),
        "a later one covers all before"
    );
    for acknowledged in [0, first.sequence, three.sequence, last.sequence] {
        let told = bob.polls(acknowledged).await;
        assert_eq!(told, Notification { sequence: last.sequence, ..nothing() });
    }
}

#[tokio::test]
async fn a_reply_ends_with_its_sequence_number() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let sequence = bob.polls(0).await.sequence;
    alice.sends("hi").await;
    let poll = bob.prepares("chatnotification", "download", &json!({ "ack": sequence }));
    let (answer, again) = (poll.sent().await, poll.sent().await);
    let number = answer.json()["sequence"].as_u64().unwrap();
    let expected = format!(
        r#"{{"status":"OK","errormessage":"","friendavailabilitesof":[],"conversationchangedof":["{}"],"conversationlistchangedof":[],"sequence":{number},"epoch":"{}"}}"#,
        bob.conversation,
        world.app().store.epoch().id
    );
    assert_eq!(answer.text, expected);
    assert_eq!(answer.text, again.text, "the same bytes may be sent again");
    assert!(number < 1 << 53, "every client can hold it");
}

#[tokio::test]
async fn a_sequence_number_that_was_never_sent_is_ignored() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let first = bob.polls(0).await;
    bob.polls(first.sequence).await;
    alice.sends("hi").await;
    let elsewhere = bob.elsewhere().polls(0).await.sequence;
    let others = alice.polls(0).await.sequence;
    let told = bob.polls(first.sequence).await;
    assert!(elsewhere != told.sequence && others != told.sequence);
    let next = told.sequence + 1;
    for never in [
        0,
        1,
        2,
        told.sequence - 1,
        next,
        elsewhere,
        others,
        1 << 53,
        i64::MAX.cast_unsigned(),
        u64::MAX,
    ] {
        assert_eq!(bob.polls(never).await, told, "{never}");
    }
    for number in 0..200 {
        assert_eq!(bob.polls(number * 1_000_000).await, told, "{number} million");
    }
    assert_eq!(unnumbered(bob.polls(told.sequence).await), nothing());
}

#[test]
fn sequence_numbers_stay_below_2_to_the_53rd() {
    let epoch = |id: &str| Epoch { id: id.to_owned(), began_at: Timestamp::from_unix(0).unwrap() };
    let (first, second) = (epoch("00000000000000aa"), epoch("00000000000000ab"));
    let user = UserId::of(&Email::parse("alice@example.com").unwrap());
    for station in 0..100 {
        let station = StationId::parse(&format!("{station:032x}")).unwrap();
        for largest in [(1 << 53) - 1, 1 << 53, i64::MAX.cast_unsigned(), u64::MAX] {
            assert_eq!(Sequence::from_client(largest).number(&first, user, station), None);
        }
        for number in [7, 9_007_199_252] {
            let sent = Sequence::of(&first, number, user, station);
            assert!(sent.get() < 1 << 53);
            let said = Sequence::from_client(sent.get().cast_unsigned());
            assert_eq!(said.number(&first, user, station), Some(number));
            assert_eq!(said.number(&second, user, station), None, "it was sent in another epoch");
        }
        // Beyond this bound a client is notified again and again, and loses nothing.
        for number in [9_007_199_253, i64::MAX] {
            let sent = Sequence::of(&first, number, user, station);
            assert!(sent.get() < 1 << 53, "{sent:?}");
            assert_eq!(
                Sequence::from_client(sent.get().cast_unsigned()).number(&first, user, station),
                None
            );
        }
    }
}

#[tokio::test]
async fn a_malformed_sequence_number_is_refused() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    bob.is_notified().await;
    alice.sends("hi").await;
    for malformed in
        [json!(-1), json!(1.5), json!("1"), json!(""), json!(true), json!([1]), json!({})]
    {
        let poll = bob.prepares("chatnotification", "download", &json!({ "ack": malformed }));
        let refused = poll.sent().await.refused(400, "invalid_field");
        assert!(refused["errormessage"].as_str().unwrap().contains("ack"), "{refused}");
    }
    assert_eq!(bob.is_notified().await, of(&[&bob.conversation]), "a refusal moves nothing");
}

#[tokio::test]
async fn a_station_can_poll_and_listen_in_turn() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut listener = bob.listens().await;
    let first = listener.is_told().await;
    assert_eq!(bob.polls(0).await, first, "both tell the same");
    assert_eq!(unnumbered(bob.polls(first.sequence).await), nothing());
    drop(listener);
    let mut listener = bob.listens().await;
    listener.hears_nothing().await;
    alice.sends("one").await;
    let one = listener.is_told().await;
    alice.sends("two").await;
    let two = bob.polls(one.sequence).await;
    assert!(two.sequence > one.sequence);
    assert_eq!(unnumbered(two.clone()), of(&[&bob.conversation]));
    listener.acknowledges(&two).await;
    until("it is acknowledged", async || bob.polls(0).await.is_empty()).await;
    drop(listener);
    let mut listener = bob.listens().await;
    listener.hears_nothing().await;
    alice.sends("three").await;
    let three = listener.is_told().await;
    assert_eq!(bob.is_notified().await, of(&[&bob.conversation]));
    drop(listener);
    assert_eq!(bob.polls(0).await, Notification { sequence: three.sequence, ..nothing() });
    bob.listens().await.hears_nothing().await;
}

#[tokio::test]
async fn sequence_numbers_never_decrease() {
    let world = World::start().await;
    let (mut alice, mut bob) = world.alice_and_bob().await;
    let mut numbers = vec![bob.polls(0).await.sequence];
    let mut world = world;
    for round in 0..3 {
        alice.sends("hi").await;
        let mut listener = bob.listens().await;
        numbers.push(listener.is_told().await.sequence);
        numbers.push(bob.polls(0).await.sequence);
        bob.elsewhere().does("mute", json!({})).await.ok();
        let told = bob.polls(0).await;
        numbers.push(told.sequence);
        if round == 1 {
            bob.polls(told.sequence).await;
        }
        // A listener must end before the server does.
        drop(listener);
        world = world.restarts(&[]).await;
        (alice, bob) = (alice.moves_to(&world), bob.moves_to(&world));
        numbers.push(bob.polls(numbers[0]).await.sequence);
        bob.is_notified().await;
        numbers.push(bob.polls(0).await.sequence);
    }
    assert!(numbers.is_sorted(), "{numbers:?}");
}

#[tokio::test]
async fn positions_of_stations_survive_a_restart() {
    let world = World::start().await;
    let (bob, friends) = bob_and_friends(&world, &["Alice", "Carol"]).await;
    let elsewhere = bob.elsewhere();
    bob.is_notified().await;
    let first = elsewhere.polls(0).await;
    elsewhere.polls(first.sequence).await;
    friends[0].sends("one").await;
    let one = elsewhere.polls(first.sequence).await;

    let world = world.restarts(&[]).await;
    let (bob, elsewhere) = (bob.moves_to(&world), elsewhere.moves_to(&world));
    let mut all: Vec<_> = friends.iter().map(|friend| friend.user.to_string()).collect();
    all.sort();
    let alice = friends[0].conversation.as_str();
    let all_friends = Notification { friends: all, ..nothing() };
    assert_eq!(
        bob.is_notified().await,
        Notification { conversations: vec![alice.to_owned()], ..all_friends.clone() }
    );
    assert_eq!(bob.is_notified().await, nothing());
    // The acknowledgement counts across the restart. After a restart each friend is named once, until that is
    // acknowledged too.
    let after = elsewhere.polls(one.sequence).await;
    assert_eq!(unnumbered(after.clone()), all_friends);
    assert_eq!(elsewhere.polls(one.sequence).await, after);
    assert_eq!(unnumbered(elsewhere.polls(after.sequence).await), nothing());
    friends[1].moves_to(&world).sends("two").await;
    assert_eq!(bob.is_notified().await, of(&[&friends[1].conversation]));
}
