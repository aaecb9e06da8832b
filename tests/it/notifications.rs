//! Notifications over HTTP, in the documented form and with acknowledgements.

mod acknowledged;
mod repeated;

use serde_json::json;

use crate::harness::database::Database;
use crate::harness::notification::Notification;
use crate::harness::person::Person;
use crate::harness::world::{World, until};

/// Returns a notification that names these conversations only.
fn of(conversations: &[&str]) -> Notification {
    let mut conversations: Vec<_> = conversations.iter().map(ToString::to_string).collect();
    conversations.sort();
    Notification { sequence: 0, friends: Vec::new(), conversations, lists: Vec::new() }
}

fn nothing() -> Notification {
    of(&[])
}

/// Returns the notification with its sequence number set to 0.
fn unnumbered(told: Notification) -> Notification {
    Notification { sequence: 0, ..told }
}

/// A database connection that detects writes by others.
struct Observer(Database);

impl Observer {
    async fn of(world: &World) -> Self {
        Self(Database::opens_read_only(&world.database()).await)
    }

    /// Returns a number that changes with each commit by another connection.
    async fn version(&mut self) -> i64 {
        self.0.number("PRAGMA data_version").await
    }
}

/// Returns Bob and his friends. He has a conversation with each.
async fn bob_and_friends(world: &World, nicks: &[&str]) -> (Person, Vec<Person>) {
    let mut bob = world.person("Bob").await;
    let mut friends = Vec::new();
    for nick in nicks {
        let mut friend = world.person(nick).await;
        world.befriends(&mut bob, &mut friend).await;
        friends.push(friend);
    }
    (bob, friends)
}

#[tokio::test]
async fn the_first_answer_names_everything_in_either_form() {
    let world = World::start().await;
    let (bob, friends) = bob_and_friends(&world, &["Alice", "Carol", "Dave"]).await;
    let mut ids: Vec<_> = friends.iter().map(|friend| friend.user.to_string()).collect();
    let mut conversations: Vec<_> =
        friends.iter().map(|friend| friend.conversation.clone()).collect();
    ids.sort();
    conversations.sort();
    let everything = Notification {
        sequence: 0,
        friends: ids,
        conversations,
        lists: vec![bob.user.to_string()],
    };
    assert_eq!(bob.is_notified().await, everything);
    assert_eq!(bob.is_notified().await, nothing());
    for acknowledged in [0, 7] {
        let elsewhere = bob.elsewhere();
        let told = elsewhere.polls(acknowledged).await;
        assert!(told.sequence > 0);
        assert_eq!(unnumbered(told.clone()), everything);
        assert_eq!(unnumbered(elsewhere.polls(told.sequence).await), nothing());
    }
    let stranger = world.person("Stranger").await;
    let lists = vec![stranger.user.to_string()];
    assert_eq!(stranger.is_notified().await, Notification { lists, ..nothing() });
    assert_eq!(stranger.is_notified().await, nothing());
}

#[tokio::test]
async fn the_end_of_an_unacknowledged_friendship_is_told() {
    let world = World::start().await;
    let (bob, friends) = bob_and_friends(&world, &["Alice", "Carol"]).await;
    let alice = friends[0].user.to_string();
    assert!(bob.polls(0).await.friends.contains(&alice));
    world.parts(&bob, &friends[0]).await;
    assert!(bob.polls(0).await.friends.contains(&alice), "the device may know her as a friend");
}

#[tokio::test]
async fn the_documented_form_is_told_once() {
    let world = World::start().await;
    let (bob, friends) = bob_and_friends(&world, &["Alice", "Carol"]).await;
    bob.is_notified().await;
    friends[0].sends("one").await;
    let answer = bob.prepares_poll().sent().await;
    let told = format!(
        r#"{{"status":"OK","errormessage":"","friendavailabilitesof":[],"conversationchangedof":["{}"],"conversationlistchangedof":[]}}"#,
        friends[0].conversation
    );
    assert_eq!(answer.text, told);
    let silence = r#"{"status":"OK","errormessage":"","friendavailabilitesof":[],"conversationchangedof":[],"conversationlistchangedof":[]}"#;
    assert_eq!(bob.prepares_poll().sent().await.text, silence);
    friends[1].sends("two").await;
    assert_eq!(bob.is_notified().await, of(&[&friends[1].conversation]));
    let null = json!({ "ack": null });
    let same = bob.prepares("chatnotification", "download", &null).sent().await;
    assert_eq!(same.text, silence, "null is the same as nothing");
}

#[tokio::test]
async fn changes_of_one_subject_are_told_once() {
    let world = World::start().await;
    let (bob, friends) = bob_and_friends(&world, &["Alice", "Carol"]).await;
    bob.is_notified().await;
    for friend in friends.iter().chain(&friends) {
        friend.sends("hi").await;
    }
    let mut elsewhere = bob.elsewhere();
    elsewhere.conversation.clone_from(&friends[0].conversation);
    elsewhere.does("mute", json!({})).await.ok();
    let all: Vec<_> = friends.iter().map(|friend| friend.conversation.as_str()).collect();
    assert_eq!(bob.is_notified().await, of(&all));
    assert_eq!(bob.is_notified().await, nothing());
}

#[tokio::test]
async fn each_change_is_told_to_exactly_the_users_it_concerns() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let (elsewhere, stranger) = (alice.elsewhere(), world.person("Stranger").await);
    let people = [&alice, &elsewhere, &bob, &stranger];
    for person in people {
        person.is_notified().await;
    }
    let told = async || {
        let mut told = Vec::new();
        for person in people {
            let told_of = person.is_notified().await;
            assert!(told_of.friends.is_empty() && told_of.lists.is_empty(), "{told_of:?}");
            assert!(told_of.conversations.iter().all(|id| *id == alice.conversation));
            told.push(!told_of.conversations.is_empty());
        }
        told
    };
    let sent = alice.sends("hi").await;
    assert_eq!(told().await, [false, true, true, false], "a message");
    bob.reports_as("viewed", &[&sent]).await.ok();
    assert_eq!(told().await, [true, true, false, false], "a receipt");
    for (action, fields) in [
        ("mute", json!({})),
        ("favorite", json!({})),
        ("setlistitembackgroundcolor", json!({ "color": "#bae1ff" })),
        ("hide", json!({ "hideid": "a;b" })),
        ("unhide", json!({})),
    ] {
        alice.does(action, fields).await.ok();
        assert_eq!(told().await, [false, true, false, false], "{action}");
    }
    alice.clears().await.ok();
    assert_eq!(told().await, [false, true, true, false], "a clear");
    let again = alice.sends("once more").await;
    told().await;
    bob.downloads().await.ok();
    until("it is delivered", async || alice.reports().await.len() == 1).await;
    assert_eq!(told().await, [true, true, false, false], "{again} is delivered");
    bob.downloads().await.ok();
    alice.reports_as("viewed", &[&again]).await.ok();
    assert_eq!(told().await, [false; 4], "nothing has changed");
}

#[tokio::test]
async fn devices_that_act_in_turn_are_told_of_each_other() {
    let world = World::start().await;
    let (_alice, bob) = world.alice_and_bob().await;
    let devices = [bob.clone(), bob.elsewhere(), bob.elsewhere()];
    for device in &devices {
        device.is_notified().await;
    }
    let told = async || {
        let mut told = Vec::new();
        for device in &devices {
            told.push(!device.is_notified().await.is_empty());
        }
        told
    };
    for (turns, whom) in [
        (vec![0], [false, true, true]),
        (vec![0, 0], [false, true, true]),
        (vec![0, 1], [true, true, true]),
        (vec![0, 1, 0], [true, true, true]),
        (vec![0, 1, 0, 0], [true, true, true]),
        (vec![0, 1, 2, 1, 1], [true, true, true]),
        (vec![2], [true, true, false]),
    ] {
        for turn in &turns {
            devices[*turn].does("mute", json!({})).await.ok();
        }
        assert_eq!(told().await, whom, "{turns:?}");
        assert_eq!(told().await, [false; 3], "{turns:?}");
    }
    // A later change of one's own does not repeat earlier notifications.
    devices[1].does("mute", json!({})).await.ok();
    assert_eq!(told().await, [true, false, true]);
    devices[0].does("unmute", json!({})).await.ok();
    assert_eq!(told().await, [false, true, true]);
}

#[tokio::test]
async fn changes_by_an_operator_are_told_to_every_device() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut carol = world.person("Carol").await;
    for person in [&alice, &bob, &carol] {
        person.is_notified().await;
    }
    let mut alice_again = alice.clone();
    world.befriends(&mut alice_again, &mut carol).await;
    for (one, other) in [(&alice, &carol), (&carol, &alice)] {
        let told = one.is_notified().await;
        assert_eq!(
            (told.friends, told.lists),
            (vec![other.user.to_string()], vec![one.user.to_string()])
        );
    }
    assert_eq!(bob.is_notified().await, nothing());
    world.parts(&alice, &carol).await;
    for (one, other) in [(&alice, &carol), (&carol, &alice)] {
        let friends = vec![other.user.to_string()];
        assert_eq!(one.is_notified().await, Notification { friends, ..nothing() });
    }
    assert_eq!(bob.is_notified().await, nothing());
}

#[tokio::test]
async fn a_poll_without_news_writes_nothing() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut observer = Observer::of(&world).await;
    alice.is_notified().await;
    bob.is_notified().await;
    let elsewhere = bob.elsewhere();
    let told = elsewhere.polls(0).await;
    elsewhere.polls(told.sequence).await;
    let before = observer.version().await;
    for _ in 0..3 {
        assert_eq!(bob.is_notified().await, nothing());
        assert_eq!(unnumbered(elsewhere.polls(told.sequence).await), nothing());
        assert_eq!(unnumbered(elsewhere.polls(1).await), nothing());
    }
    assert_eq!(observer.version().await, before);
    // A subscription is stored, but its notifications are not.
    let mut listener = elsewhere.listens().await;
    let subscribed = observer.version().await;
    for _ in 0..3 {
        listener.acknowledges(&told).await;
        assert_eq!(listener.is_told_before_a_ping().await, None);
    }
    assert_eq!(observer.version().await, subscribed);
    alice.sends("hi").await;
    let sent = observer.version().await;
    assert_ne!(sent, subscribed);
    for _ in 0..3 {
        assert_eq!(unnumbered(elsewhere.polls(told.sequence).await), of(&[&bob.conversation]));
    }
    assert_eq!(observer.version().await, sent, "nor does what is told until it is acknowledged");
    bob.is_notified().await;
    assert_ne!(observer.version().await, sent);
}

#[tokio::test]
async fn a_refused_poll_takes_nothing() {
    let world = World::with(&[("http.request_timeout_seconds", "1")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    bob.is_notified().await;
    alice.sends("hi").await;
    let mut other = world.opens_database().await;
    other.locks().await;
    let late = bob.prepares_poll().sent().await;
    late.refused(503, "unavailable");
    other.unlocks().await;
    // The write queue keeps order, so this answer means the refused poll is done.
    alice.does("mute", json!({})).await.ok();
    assert_eq!(bob.is_notified().await.conversations, std::slice::from_ref(&bob.conversation));
}

/// Clients choose the IDs of their stations freely.
#[tokio::test]
async fn stations_with_similar_ids_are_told_of_each_other() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let one = alice.at("00000000000000000000000000000000");
    let two = alice.at("00000000000000000000000000000001");
    for station in [&one, &two] {
        station.is_notified().await;
    }
    bob.sends("hi").await;
    let conversation = [alice.conversation.clone()];
    assert_eq!(one.is_notified().await.conversations, conversation);
    assert_eq!(two.is_notified().await.conversations, conversation);
    one.sends("from here").await;
    assert_eq!(one.is_notified().await, nothing());
    assert_eq!(two.is_notified().await.conversations, conversation);
}
