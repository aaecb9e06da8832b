//! A server whose clock was wrong for a while: it refuses nothing later because of it, and no wrong state
//! remains.

use chatserver::domain::{Parse as _, Timestamp};
use serde_json::{Value, json};

use crate::harness::person::{Person, Prepared};
use crate::harness::reports::settled;
use crate::harness::world::{World, until};

const HOUR: i64 = 3600;

/// Prepares changes from Alice, each of which the server carries out once.
fn changes(alice: &Person) -> [Prepared; 4] {
    [
        ("favorite", json!({})),
        ("mute", json!({})),
        ("setlistitembackgroundcolor", json!({ "color": "#00ff00" })),
        ("hide", json!({ "hideid": "1" })),
    ]
    .map(|(action, mut fields)| {
        fields["conversationid"] = json!(alice.conversation);
        alice.prepares("chatconversation", action, &fields)
    })
}

/// Waits until the server has looked for expired records. It does so after each step of removing cleared
/// messages.
async fn looks_for_expired(world: &World, alice: &Person) {
    for _ in 0..2 {
        alice.sends("to be cleared").await;
        alice.clears().await.ok();
        until("the cleared message is removed", async || {
            world.number("SELECT count(*) FROM purges").await == 0
        })
        .await;
    }
}

/// Does these things while the clock is an hour ahead. The clock goes on for three seconds before it is set
/// back.
async fn an_hour_ahead(world: &World, things: impl AsyncFnOnce()) {
    world.clock.jumps(HOUR);
    things().await;
    world.clock.advances(3);
    world.clock.jumps(-HOUR);
}

#[tokio::test]
async fn a_clock_that_was_ahead_lets_no_replay_pass() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    let changes = changes(&alice);
    for change in &changes {
        change.sent().await.ok();
    }
    an_hour_ahead(&world, async || looks_for_expired(&world, &alice).await).await;
    looks_for_expired(&world, &alice).await;
    for change in &changes {
        change.sent().await.refused(409, "replayed");
    }
    assert_eq!(world.number("SELECT count(*) FROM replays").await, 4);
}

#[tokio::test]
async fn requests_signed_ahead_of_time_make_no_later_request_a_replay() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    let mut ahead = Vec::new();
    an_hour_ahead(&world, async || {
        for change in changes(&alice) {
            change.sent().await.ok();
            ahead.push(change);
        }
        alice.sends("ahead").await;
    })
    .await;
    for change in changes(&alice) {
        change.sent().await.ok();
    }
    alice.sends("a correct request is not refused for an earlier jump").await;
    for change in &ahead {
        change.sent().await.refused(401, "timestamp_out_of_range");
    }
    world.clock.advances(HOUR - 3);
    for change in &ahead {
        change.sent().await.refused(409, "replayed");
    }
}

#[tokio::test]
async fn dates_follow_a_clock_that_is_set_back() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.sends("before").await;
    settled(&alice, &bob).await;
    let mut ahead = String::new();
    an_hour_ahead(&world, async || {
        ahead = world.clock.date();
        alice.sends("ahead").await;
        settled(&alice, &bob).await;
    })
    .await;
    let after = world.clock.date();
    bob.sends("after").await;
    settled(&alice, &bob).await;

    let second = |date: &str| Timestamp::parse(date).unwrap().unix();
    assert_eq!(alice.sees().await["lastaccess"], second(&after));
    let reports = alice.reports().await;
    let dates: Vec<_> = reports.iter().map(|report| report["Created"].as_str().unwrap()).collect();
    assert_eq!(dates, ["2024-03-08 12:00:00", &ahead, &after]);
    assert_eq!(alice.reads().await, ["before", "ahead", "after"], "the order stays");

    // A date cursor selects the first entry, in sequence order, whose date is not earlier.
    let page = async |date: &str| {
        let cursors = json!({ "firstmessagedate": date, "firstreportdate": date });
        let page = alice.does("download", cursors).await.ok();
        ["messages", "reports"].map(|entries| page[entries].as_array().map(Vec::len))
    };
    assert_eq!(page("2024-03-08 12:00:00").await, [Some(3); 2]);
    assert_eq!(page(&after).await, [Some(2); 2], "what was ahead is not earlier");
    assert_eq!(page(&ahead).await, [Some(2); 2]);
    world.clock.advances(2 * HOUR);
    bob.sends("later").await;
    settled(&alice, &bob).await;
    assert_eq!(page(&world.clock.date()).await, [Some(1); 2]);
}

#[tokio::test]
async fn a_cleared_conversation_forgets_that_the_clock_was_ahead() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    an_hour_ahead(&world, async || drop(alice.sends("ahead").await)).await;
    alice.clears().await.ok();
    let sent = alice.sends("after").await;
    let later = json!({ "firstmessagedate": "2024-03-08 12:30:00" });
    let page = alice.does("download", later).await.ok();
    assert_eq!(page["messages"], Value::Array(vec![]));
    let now = json!({ "firstmessagedate": world.clock.date() });
    assert_eq!(alice.does("download", now).await.message_ids(), [sent]);
}
