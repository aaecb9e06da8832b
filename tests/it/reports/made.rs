//! Reports that the server makes itself: messages are delivered once a page contains them.

use chatserver::domain::{
    ConversationId, Cursor, Direction, PageForm, PageQuery, Parse as _, Timestamp,
};
use serde_json::{Value, json};

use super::{delivered, fill, noted, stand_in_line, viewed, whatever_was_queued_is_written};
use crate::harness::person::{Person, Prepared, message_with_id};
use crate::harness::world::{World, until};

/// Carries out a change and returns its request.
async fn carried_out(person: &Person) -> Prepared {
    let fields = json!({ "conversationid": person.conversation });
    let mute = person.prepares("chatconversation", "mute", &fields);
    mute.sent().await.ok();
    mute
}

/// Returns everything that reports change in the database.
async fn traces(world: &World) -> Vec<Vec<String>> {
    let mut database = world.opens_database().await;
    let mut traces = Vec::new();
    for query in [
        "SELECT id FROM reports ORDER BY place",
        "SELECT concat(number, ' ', next_report_seq, ' ', last_report_id) AS trace FROM conversations ORDER BY number",
        "SELECT concat(place, ' ', delivered_to) AS trace FROM participants ORDER BY place",
        "SELECT concat(user_number, ' ', subject, ' ', number, ' ', station) AS trace FROM changes
         WHERE kind = 1 ORDER BY user_number, subject",
    ] {
        traces.push(database.texts(query).await);
    }
    traces
}

#[tokio::test]
async fn a_page_is_answered_first_and_reported_in_one_change() {
    for action in ["download", "downloadpartial"] {
        let world = World::start().await;
        let (alice, bob) = world.alice_and_bob().await;
        let mut expected = Vec::new();
        for n in 0..50 {
            expected.push(delivered(&alice.sends(&n.to_string()).await));
        }
        bob.sends("of one's own there is nothing to report").await;
        let (hers, his) = (noted(&world, &alice).await, noted(&world, &bob).await);
        world.clock.shows("2024-03-08 12:00:07");
        let page = bob.does(action, json!({ "limit": 51 })).await.ok();
        assert_eq!(page["messages"].as_array().unwrap().len(), 51);
        assert_eq!(page["reports"], json!([]), "{action}");
        until("they are delivered", async || !alice.told().await.is_empty()).await;
        assert_eq!(alice.told().await, expected, "all at once, in the order of the messages");
        stand_in_line(&world, 50).await;
        for report in alice.reports().await {
            assert_eq!(report["Created"], "2024-03-08 12:00:07");
            assert_eq!(report["UserID"], bob.user.as_str());
        }
        // The reports are news for the sender only.
        assert_eq!(noted(&world, &alice).await, (hers.0 + 1, 0));
        assert_eq!(noted(&world, &bob).await, his);
    }
}

#[tokio::test]
async fn a_message_is_reported_as_delivered_once() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut expected = Vec::new();
    for n in 0..3 {
        let sent = alice.sends(&n.to_string()).await;
        if n == 1 {
            // A message that its reader has already reported leaves no gap in `delivered_to`.
            bob.reports_as("viewed", &[&sent]).await.ok();
            expected.splice(0..0, [delivered(&sent), viewed(&sent)]);
        } else {
            expected.push(delivered(&sent));
        }
    }
    bob.does("download", json!({})).await.ok();
    until("all is delivered", async || alice.told().await == expected).await;
    let elsewhere = bob.elsewhere();
    elsewhere.lists().await;
    let done = carried_out(&bob).await;
    let before = traces(&world).await;
    for (person, action) in [
        (&bob, "download"),
        (&bob, "downloadpartial"),
        (&elsewhere, "download"),
        (&alice, "download"),
        (&alice, "downloadpartial"),
    ] {
        person.does(action, json!({})).await.ok();
    }
    whatever_was_queued_is_written(&done).await;
    assert_eq!(traces(&world).await, before, "nothing was written");
}

#[tokio::test]
async fn scrolling_in_any_order_reports_each_message_once() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    for n in 1..=40 {
        let sender = if n % 5 == 0 { &bob } else { &alice };
        sender.adds(&message_with_id(&format!("m-{n}"), "", &world.clock.date())).await.ok();
    }
    let done = carried_out(&bob).await;
    let mut expected = Vec::new();
    // Pages of messages 31 to 36, then 8 to 13, and so on. Some pages overlap.
    for (before, limit) in [(37, 6), (14, 6), (18, 8), (8, 50), (41, 50), (41, 1), (24, 20)] {
        let cursor = json!({ "lastmessageid": format!("m-{before}"), "limit": limit });
        bob.does("downloadpartial", cursor).await.ok();
        let page = 1.max(before - limit)..before;
        for n in page.filter(|n| n % 5 != 0) {
            let report = delivered(&format!("m-{n}"));
            if !expected.contains(&report) {
                expected.push(report);
            }
        }
        whatever_was_queued_is_written(&done).await;
        assert_eq!(alice.told().await, expected);
    }
    assert_eq!(expected.len(), 32);
    stand_in_line(&world, 32).await;
    let all = "SELECT delivered_to & 4294967295 FROM participants WHERE delivered_to > 0";
    assert_eq!(world.number(all).await, 39, "pages are no longer searched for what is missing");
}

#[tokio::test]
async fn a_long_page_is_reported_completely_in_steps() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    fill(&world, &alice, 600).await;
    bob.does("download", json!({})).await.ok();
    until("all is delivered", async || alice.told().await.len() == 600).await;
    let expected: Vec<_> = (1..=600).map(|n| delivered(&format!("m-{n}"))).collect();
    assert_eq!(alice.told().await, expected);
    stand_in_line(&world, 600).await;
    let all = "SELECT delivered_to & 4294967295 FROM participants WHERE delivered_to > 0";
    until("nothing is looked for again", async || world.number(all).await == 600).await;
}

#[tokio::test]
async fn delivery_reports_survive_a_restart() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let one = alice.sends("one").await;
    bob.reports_as("viewed", &[&one]).await.ok();
    let two = alice.sends("two").await;
    bob.does("download", json!({})).await.ok();
    // An orderly shutdown carries out what is queued.
    let world = world.restarts(&[]).await;
    let (alice, bob) = (alice.moves_to(&world), bob.moves_to(&world));
    let expected = [delivered(&one), viewed(&one), delivered(&two)];
    assert_eq!(bob.told().await, expected);
    let before = alice.reports().await;
    assert_eq!(alice.newest_report().await, super::bare(&before[2]));
    bob.does("download", json!({})).await.ok();
    bob.reports_as("viewed", &[&one, &two]).await.ok();
    assert_eq!(alice.told().await, [&expected[..], &[viewed(&two)]].concat());
    assert_eq!(alice.reports().await[..3], before);
}

#[tokio::test]
async fn a_block_stops_delivery_reports() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let one = alice.sends("one").await;
    bob.does("download", json!({})).await.ok();
    until("it is delivered", async || alice.told().await == [delivered(&one)]).await;
    let (two, his) = (alice.sends("two").await, bob.sends("three").await);
    alice.blocks(bob.user.as_str()).await.ok();
    let done = carried_out(&bob).await;
    let before = traces(&world).await;
    bob.does("download", json!({})).await.ok();
    bob.does("downloadpartial", json!({})).await.ok();
    whatever_was_queued_is_written(&done).await;
    assert_eq!(traces(&world).await, before, "nothing was written");
    assert_eq!(bob.told().await, [delivered(&one)], "what is from before stays");
    alice.does("download", json!({})).await.ok();
    whatever_was_queued_is_written(&done).await;
    assert_eq!(bob.told().await, [delivered(&one)], "nor does she report");
    alice.unblocks(bob.user.as_str()).await.ok();
    bob.does("downloadpartial", json!({})).await.ok();
    whatever_was_queued_is_written(&done).await;
    assert_eq!(alice.told().await, [delivered(&one), delivered(&two)]);
    alice.does("downloadpartial", json!({})).await.ok();
    whatever_was_queued_is_written(&done).await;
    assert_eq!(bob.told().await, [delivered(&one), delivered(&two), delivered(&his)]);
}

#[tokio::test]
async fn a_page_of_a_cleared_instance_reports_nothing() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.sends("before").await;
    let store = &world.app().store;
    let query = PageQuery {
        conversation: ConversationId::parse(&bob.conversation).unwrap(),
        user: bob.user,
        cursor: Cursor::default(),
        report_cursor: Cursor::default(),
        entries: 10,
        bytes: 1024,
        direction: Direction::Forward,
        form: PageForm::Documented,
    };
    let page = store.large_page(&query, ()).await.unwrap().unwrap().0;
    bob.clears().await.ok();
    alice.sends("after").await;
    let done = carried_out(&bob).await;
    let now = Timestamp::parse(&world.clock.date()).unwrap();
    store.mark_delivered(page.undelivered.unwrap(), now);
    whatever_was_queued_is_written(&done).await;
    assert_eq!(alice.told().await, []);
    assert_eq!(world.number("SELECT max(delivered_to) FROM participants").await, 0);
}

#[tokio::test]
async fn a_page_is_served_when_its_reports_fail_and_the_next_page_makes_them() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let sent = alice.sends("hello").await;
    let done = carried_out(&bob).await;
    let mut database = world.opens_database().await;
    database.refuses("reports").await;
    let page: Value = bob.does("download", json!({})).await.ok();
    assert_eq!(page["messages"].as_array().unwrap().len(), 1);
    whatever_was_queued_is_written(&done).await;
    bob.reports_as("viewed", &[&sent]).await.refused(503, "unavailable");
    database.takes("reports").await;
    assert_eq!(alice.told().await, []);
    bob.does("download", json!({})).await.ok();
    whatever_was_queued_is_written(&done).await;
    assert_eq!(alice.told().await, [delivered(&sent)]);
}
