//! Calls every action of the dispatch table as a participant, a stranger, a forger, an unknown user and a
//! disabled user.

use chatserver::api::{ACTIONS, Action};
use chatserver::domain::{ApiKey, Email, Parse as _, UserId};
use serde_json::{Value, json};

use crate::harness::person::{Answer, Person, Prepared, message};
use crate::harness::reports::settled;
use crate::harness::world::World;

/// An id that no user and no conversation has.
const NOBODY: &str = "00000000000000000000000000000000";

/// Expected outcome for a stranger.
#[derive(Clone, Copy, PartialEq)]
enum Stranger {
    /// The action names no conversation, so the reply concerns the stranger alone.
    IsServed,
    /// The action names a conversation. For the stranger it does not exist.
    FindsNothing,
}

/// Returns the fields that make the action succeed for a participant, and the outcome expected for a stranger.
/// Panics for an action without a row, so a new action fails the test until it gets one.
fn row(action: &Action, conversation: &Value, date: &str) -> (Value, Stranger) {
    let id = &conversation["id"];
    let instance = &conversation["instance"];
    match (action.api.name, action.name) {
        ("chatavailability", _) | ("chatnotification", "download") => {
            (json!({}), Stranger::IsServed)
        }
        ("chatfriends" | "chatconversation", "list")
        | ("chatfriends", "requests")
        | ("chatblocklist", "blocklist") => (json!({}), Stranger::IsServed),
        ("workspace", "workspaceregister") => {
            // Each caller registers its own name, because a name can be taken only once.
            let name = format!("{}.ozeki.chat", uuid::Uuid::new_v4());
            (json!({ "workspacename": name }), Stranger::IsServed)
        }
        ("chatblocklist", "block" | "unblock") => (json!({ "userid": NOBODY }), Stranger::IsServed),
        ("chatfriends", "add") => (json!({ "friend": "nobody@example.com" }), Stranger::IsServed),
        ("chatfriends", "accept" | "decline" | "remove") => {
            (json!({ "friendid": NOBODY }), Stranger::IsServed)
        }
        ("chatconversation", "add") => {
            let message = message("hi", date);
            let fields = json!({ "conversationid": id, "instance": instance, "message": message });
            (fields, Stranger::FindsNothing)
        }
        ("chatconversation", "clear" | "download" | "downloadpartial") => {
            (json!({ "conversationid": id, "instance": instance }), Stranger::FindsNothing)
        }
        ("chatconversation", "setlistitembackgroundcolor") => {
            (json!({ "conversationid": id, "color": "#bae1ff" }), Stranger::FindsNothing)
        }
        (
            "chatconversation",
            "show" | "favorite" | "unfavorite" | "mute" | "unmute" | "hide" | "unhide",
        ) => (json!({ "conversationid": id, "extended": true }), Stranger::FindsNothing),
        ("chatreports", _) => {
            let newest = &conversation["lastmessageid"];
            let fields =
                json!({ "conversationid": id, "instance": instance, "messageids": [newest] });
            (fields, Stranger::FindsNothing)
        }
        (api, name) => panic!("{api} {name} has no row in the matrix"),
    }
}

fn signed_actions() -> impl Iterator<Item = &'static Action> {
    ACTIONS.iter().filter(|action| !["chatlogin", "chatregister"].contains(&action.api.name))
}

fn prepares(person: &Person, action: &Action, fields: &Value) -> Prepared {
    person.prepares_for(action.api.srv, action.api.name, action.name, fields)
}

/// Sends the action, signed by `person`.
async fn asks(person: &Person, action: &Action, fields: &Value) -> Answer {
    prepares(person, action, fields).sent().await
}

#[tokio::test]
async fn every_signed_action_refuses_a_missing_or_wrong_signature() {
    let settings = [("limits.failures_per_minute", "0"), ("auth.unsigned_notifications", "false")];
    let world = World::with(&settings).await;
    let (alice, bob) = world.alice_and_bob().await;
    bob.sends("for Alice alone").await;
    let nobody = Email::parse("nobody@example.com").unwrap();
    let ghost = alice.posing_as(UserId::of(&nobody));
    let mallory = alice.with_key(ApiKey::generate());
    let eve = world.person("Eve").await;
    world.disables(&eve).await;
    for action in signed_actions() {
        let (fields, _) = row(action, &alice.sees().await, &world.clock.date());
        let before = settled(&alice, &bob).await;
        let signed = prepares(&alice, action, &fields);
        for header in ["ozeki-station", "ozeki-user", "ozeki-signature"] {
            let refused = signed.clone().without_header(header).sent().await;
            refused.refused(401, "invalid_signature");
        }
        let forgery = asks(&mallory, action, &fields).await;
        forgery.refused(401, "invalid_signature");
        let unknown = asks(&ghost, action, &fields).await;
        let disabled = asks(&eve, action, &fields).await;
        for other in [unknown, disabled] {
            assert_eq!((forgery.status, &forgery.text), (other.status, &other.text), "{action:?}");
            let names = |answer: &Answer| {
                answer.headers.keys().map(ToString::to_string).collect::<Vec<_>>()
            };
            assert_eq!(names(&forgery), names(&other), "{action:?}");
        }
        assert_eq!(before, settled(&alice, &bob).await, "{action:?} changed something");
    }
}

#[tokio::test]
async fn a_conversation_of_others_looks_like_one_that_does_not_exist() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.sends("for Bob alone").await;
    let stranger = world.person("Stranger").await;
    // A new user's own lists count as changed. Take that in first.
    stranger.is_notified().await;
    for action in signed_actions() {
        let conversation = alice.sees().await;
        let (fields, told) = row(action, &conversation, &world.clock.date());
        let before = (settled(&alice, &bob).await, alice.sees().await, bob.sees().await);
        let answer = asks(&stranger, action, &fields).await;
        if told == Stranger::IsServed {
            let reply = answer.ok();
            let mut values = reply.as_object().unwrap().iter().skip(2);
            assert!(values.all(|(_, value)| *value == json!([]) || *value == json!({})), "{reply}");
            continue;
        }
        answer.refused(404, "conversation_not_found");
        let mut nowhere = fields.clone();
        nowhere["conversationid"] = json!(NOBODY);
        let never_was = asks(&stranger, action, &nowhere).await;
        assert_eq!(
            (answer.status, &answer.text),
            (never_was.status, &never_was.text),
            "{action:?}"
        );
        // A guessed instance reveals nothing to the stranger either.
        nowhere["instance"] = json!("0123456789");
        assert_eq!(answer.text, asks(&stranger, action, &nowhere).await.text, "{action:?}");
        let after = (settled(&alice, &bob).await, alice.sees().await, bob.sees().await);
        assert_eq!(before, after, "{action:?} changed something");
    }
}

#[tokio::test]
async fn every_signed_action_serves_a_participant() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    for action in signed_actions() {
        // An action may remove the message that the next action needs.
        alice.sends("hello").await;
        let (fields, _) = row(action, &alice.sees().await, &world.clock.date());
        asks(&alice, action, &fields).await.ok();
    }
}

#[tokio::test]
async fn only_the_right_key_of_an_enabled_user_logs_in() {
    let world = World::with(&[("limits.failures_per_minute", "0")]).await;
    let alice = world.person("Alice").await;
    alice.logs_in().await.ok();
    let wrong = alice.with_key(ApiKey::generate()).logs_in().await;
    wrong.refused(401, "invalid_credentials");
    world.disables(&alice).await;
    let disabled = alice.logs_in().await;
    assert_eq!((wrong.status, wrong.text), (disabled.status, disabled.text));
}

#[tokio::test]
async fn settings_of_one_participant_do_not_change_the_view_of_the_other() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let before = bob.sees().await;
    alice.does("mute", json!({})).await.ok();
    alice.does("favorite", json!({})).await.ok();
    alice.does("setlistitembackgroundcolor", json!({ "color": "#BAE1FF" })).await.ok();
    alice.does("hide", json!({})).await.ok();
    let me = json!([alice.user.as_str()]);
    let seen = alice.sees().await;
    assert_eq!((&seen["mutedby"], &seen["favoriteby"], &seen["hiddenby"]), (&me, &me, &me));
    assert_eq!(seen["properties"][0]["listitembackgroundcolor"], "#bae1ff");
    assert_eq!(before, bob.sees().await);
}
