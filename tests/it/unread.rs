//! Unread messages: how many of the other participant's messages stand behind the read position.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::person::{Person, message_with_id};
use crate::harness::world::World;

impl Person {
    /// Returns this person's conversation from an extended list.
    async fn lists_extended(&self) -> Value {
        let listed = self.asks("list", json!({ "extended": true })).await.ok();
        let mut conversations = listed["conversations"].as_array().unwrap().iter();
        conversations.find(|one| one["id"] == self.conversation).unwrap().clone()
    }

    /// Returns the number of unread messages. The list and the conversation alone must agree.
    pub async fn unread(&self) -> u64 {
        let listed = self.lists_extended().await;
        let shown = self.does("show", json!({ "extended": true })).await;
        assert_eq!(shown.conversation(), listed);
        listed["properties"][0]["unread"].as_u64().unwrap()
    }

    async fn views<T: AsRef<str>>(&self, messages: &[T]) {
        self.reports_as("viewed", messages).await.ok();
    }
}

/// Sends this many messages at once, from `m-{first}` on, and returns their IDs.
async fn send_many(sender: &Person, first: usize, messages: usize) -> Vec<String> {
    let instance = sender.instance().await;
    let ids: Vec<_> = (first..first + messages).map(|n| format!("m-{n}")).collect();
    let sending = ids.iter().map(|id| {
        let message = message_with_id(id, "hi", "2024-03-08 12:00:00");
        sender.does("add", json!({ "instance": instance, "message": message }))
    });
    for sent in join_all(sending).await {
        sent.ok();
    }
    ids
}

#[tokio::test]
async fn a_conversation_is_shown_as_the_list_shows_it() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    bob.sends("hi").await;
    let documented = alice.sees().await;
    let shown = alice.does("show", json!({})).await;
    assert_eq!(
        shown.text,
        format!(r#"{{"status":"OK","errormessage":"","conversation":{documented}}}"#)
    );
    assert_eq!(documented["properties"][0].get("unread"), None);

    let mut extended = documented;
    extended["properties"][0]["unread"] = json!(1);
    extended["firstmessageid"] = extended["lastmessageid"].clone();
    let listed = alice.asks("list", json!({ "extended": true })).await;
    assert_eq!(
        listed.text,
        format!(r#"{{"status":"OK","errormessage":"","conversations":[{extended}]}}"#)
    );
    let shown = alice.does("show", json!({ "extended": true })).await;
    assert_eq!(
        shown.text,
        format!(r#"{{"status":"OK","errormessage":"","conversation":{extended}}}"#)
    );
    // A change answers with the documented object.
    let changed = alice.does("mute", json!({ "extended": true })).await;
    assert_eq!(changed.conversation(), alice.sees().await);
}

#[tokio::test]
async fn viewed_moves_the_position_forward_and_never_back() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut sent = Vec::new();
    for n in 0..5 {
        sent.push(alice.sends(&n.to_string()).await);
        bob.sends("one's own messages are never unread").await;
    }
    assert_eq!((alice.unread().await, bob.unread().await), (5, 5));
    for (viewed, unread) in [(1, 3), (0, 3), (3, 1), (2, 1), (4, 0), (0, 0)] {
        bob.views(&[&sent[viewed]]).await;
        assert_eq!(bob.unread().await, unread);
        assert_eq!(bob.elsewhere().unread().await, unread, "it is the same on every device");
    }
    assert_eq!(alice.unread().await, 5, "Alice's position is her own");
    alice.sends("one more").await;
    assert_eq!(bob.unread().await, 1);
    let world = world.restarts(&[]).await;
    assert_eq!(bob.moves_to(&world).unread().await, 1);
}

#[tokio::test]
async fn only_viewed_messages_of_the_other_one_move_the_position() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let first = alice.sends("first").await;
    alice.sends("second").await;
    let own = bob.sends("own").await;
    bob.reports_as("delivered", &[&first]).await.ok();
    bob.does("download", json!({ "extended": true })).await.ok();
    bob.views::<&str>(&[]).await;
    bob.views(&["unknown"]).await;
    bob.views(&[&own]).await;
    assert_eq!(bob.unread().await, 2);
    bob.views(&[&own, &first]).await;
    assert_eq!(bob.unread().await, 1);
}

#[tokio::test]
async fn a_dropped_receipt_moves_the_position_all_the_same() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let sent = send_many(&alice, 0, 4).await;
    let order = bob.downloads().await.message_ids();
    assert_eq!(order.len(), sent.len());
    alice.blocks(bob.user.as_str()).await.ok();
    bob.views(&order[..1]).await;
    assert_eq!(bob.unread().await, 3, "the other one blocks");
    alice.unblocks(bob.user.as_str()).await.ok();
    bob.blocks(alice.user.as_str()).await.ok();
    bob.views(&order[..2]).await;
    assert_eq!(bob.unread().await, 2, "the reader blocks");
    bob.unblocks(alice.user.as_str()).await.ok();
    world.parts(&alice, &bob).await;
    bob.views(&order[..3]).await;
    assert_eq!(bob.unread().await, 1, "they are not friends");
    let told = alice.told().await;
    assert!(told.iter().all(|(kind, _)| kind == "delivered"), "{told:?}");
}

#[tokio::test]
async fn a_move_is_told_to_the_users_other_devices_alone_and_once() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let phone = bob.elsewhere();
    let sent = send_many(&alice, 0, 3).await;
    let order = bob.downloads().await.message_ids();
    bob.reports_as("delivered", &sent).await.ok();
    alice.blocks(bob.user.as_str()).await.ok();
    for person in [&alice, &bob, &phone] {
        person.is_notified().await;
    }
    for (viewed, is_news) in [(1, true), (1, false), (0, false), (2, true)] {
        bob.views(&order[viewed..=viewed]).await;
        let told = phone.is_notified().await.conversations;
        assert_eq!(told, if is_news { vec![bob.conversation.clone()] } else { vec![] });
        assert!(bob.is_notified().await.is_empty(), "it is the device's own change");
        assert!(alice.is_notified().await.is_empty(), "it is Bob's alone");
    }
}

#[tokio::test]
async fn a_clear_leaves_nothing_unread() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let sent = send_many(&alice, 0, 3).await;
    bob.views(&sent[..1]).await;
    bob.clears().await.ok();
    assert_eq!(bob.unread().await, 0);
    alice.sends("after").await;
    assert_eq!((alice.unread().await, bob.unread().await), (0, 1));
    let late = json!({ "conversationid": bob.conversation, "messageids": sent });
    bob.prepares("chatreports", "viewed", &late).sent().await.ok();
    assert_eq!(bob.unread().await, 1, "IDs of the earlier instance are unknown");
}

#[tokio::test]
async fn the_number_is_exact_up_to_a_hundred() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    send_many(&alice, 0, 99).await;
    assert_eq!(bob.unread().await, 99);
    send_many(&alice, 99, 1).await;
    assert_eq!(bob.unread().await, 100);
    send_many(&alice, 100, 30).await;
    assert_eq!(bob.unread().await, 100);
    let order = bob.downloads().await.message_ids();
    bob.views(&order[29..=29]).await;
    assert_eq!(bob.unread().await, 100);
    bob.views(&order[30..=30]).await;
    assert_eq!(bob.unread().await, 99);
}

#[tokio::test]
async fn own_messages_hide_no_unread_one() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let first = alice.sends("first").await;
    alice.sends("second").await;
    send_many(&bob, 0, 1500).await;
    assert_eq!((alice.unread().await, bob.unread().await), (100, 2));
    bob.views(&[&first]).await;
    assert_eq!(bob.unread().await, 1);
    let third = alice.sends("third").await;
    assert_eq!(bob.unread().await, 2);
    bob.views(&[&third]).await;
    assert_eq!(bob.unread().await, 0);
}
