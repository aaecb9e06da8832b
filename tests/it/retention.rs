//! Retention: old and expired messages go, and what is left stays whole.

mod commands;

use serde_json::{Value, json};

use crate::harness::person::{Person, message, message_with_id};
use crate::harness::reports::settled;
use crate::harness::world::{World, until};

const DAY: i64 = 24 * 60 * 60;

impl World {
    /// Advances the clock by these days, and then on until the server has removed all but this number of messages. It
    /// removes what is old by a clock that has been steady for half an hour.
    async fn keeps_after(&self, days: i64, messages: i64) {
        self.clock.advances(days * DAY);
        until("old messages are removed", async || {
            self.clock.advances(60);
            self.number("SELECT count(*) FROM messages").await == messages
        })
        .await;
    }
}

impl Person {
    /// Returns the ID of the oldest message, as an extended conversation object has it. The list must agree.
    async fn first(&self) -> String {
        let shown = self.does("show", json!({ "extended": true })).await.conversation();
        let listed = self.asks("list", json!({ "extended": true })).await.ok();
        let mut listed = listed["conversations"].as_array().unwrap().iter();
        let mine = listed.find(|one| one["id"] == self.conversation).unwrap();
        assert_eq!(mine["firstmessageid"], shown["firstmessageid"]);
        shown["firstmessageid"].as_str().unwrap().to_owned()
    }

    /// Sends a message that is valid for this many seconds, and returns it.
    async fn sends_for(&self, world: &World, id: &str, seconds: i64) -> Value {
        let mut message = message_with_id(id, id, &self.date());
        let now = world.clock.clone();
        now.jumps(seconds);
        message["ValidUntil"] = json!(now.date());
        now.jumps(-seconds);
        self.adds(&message).await.ok();
        message
    }
}

#[tokio::test]
async fn old_messages_go_with_their_reports_and_both_users_are_told() {
    let world = World::with(&[("retention.days", "30")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.sends("one").await;
    let two = bob.sends("two").await;
    settled(&alice, &bob).await;
    alice.reports_as("viewed", &[&two]).await.ok();
    world.clock.advances(20 * DAY);
    let three = alice.sends("three").await;
    settled(&alice, &bob).await;
    let before = alice.sees().await;
    for person in [&alice, &bob] {
        person.is_notified().await;
        assert_eq!(person.is_notified().await.conversations, [""; 0]);
    }

    world.keeps_after(11, 1).await;
    for person in [&alice, &bob] {
        assert_eq!(person.reads().await, ["three"]);
        assert_eq!(person.first().await, three);
        assert_eq!(person.told().await, [("delivered".to_owned(), three.clone())]);
        assert_eq!(person.is_notified().await.conversations, [person.conversation.as_str()]);
    }
    assert_eq!(alice.sees().await, before, "the instance and the newest entries stay");
    assert_eq!(world.number("SELECT count(*) FROM message_ids").await, 1);
    assert_eq!(world.number("SELECT count(*) FROM reports").await, 1);
    assert_eq!(world.number("SELECT data_bytes FROM conversations").await, 8, "of base64");
}

#[tokio::test]
async fn a_conversation_may_lose_all_messages_and_goes_on() {
    let world = World::with(&[("retention.days", "1")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let gone = alice.sends("gone").await;
    bob.sends("gone, too").await;
    settled(&alice, &bob).await;
    let before = alice.sees().await;
    world.keeps_after(1, 0).await;

    let after = alice.sees().await;
    assert_eq!((&after["lastmessageid"], &after["lastreportid"]), (&json!(""), &json!("")));
    assert_eq!(
        (&after["instance"], &after["lastaccess"]),
        (&before["instance"], &before["lastaccess"])
    );
    assert_eq!(alice.first().await, "");
    assert_eq!(alice.unread().await, 0);
    for action in ["download", "downloadpartial"] {
        let page = alice.does(action, json!({ "extended": true })).await.ok();
        assert_eq!((&page["messages"], &page["reports"]), (&json!([]), &json!([])), "{page}");
        assert_eq!(page["more"], json!(false));
    }

    // The ID of a removed message is free again.
    let again = message_with_id(&gone, "again", &alice.date());
    alice.adds(&again).await.ok();
    alice.adds(&again).await.ok();
    settled(&alice, &bob).await;
    assert_eq!(bob.reads().await, ["again"]);
    assert_eq!((bob.first().await, bob.unread().await), (gone.clone(), 1));
    assert_eq!(bob.reports_as("viewed", &[&gone]).await.status, 200);
    assert_eq!(bob.unread().await, 0);
    assert_eq!(alice.told().await.len(), 2);
    bob.clears().await.ok();
    bob.sends("after the clear").await;
    assert_eq!(alice.reads().await, ["after the clear"]);
    assert_eq!(alice.first().await, alice.sees().await["lastmessageid"].as_str().unwrap());
}

#[tokio::test]
async fn a_cursor_of_a_removed_message_starts_at_the_first_one_and_is_named() {
    let world = World::with(&[("retention.days", "30")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let gone = alice.sends("gone").await;
    settled(&alice, &bob).await;
    let report = alice.newest_report().await;
    world.clock.advances(20 * DAY);
    let kept = alice.sends("kept").await;
    settled(&alice, &bob).await;
    world.keeps_after(11, 1).await;

    let cursors = json!({ "firstmessageid": gone, "firstreportid": report, "extended": true });
    let page = alice.does("download", cursors).await;
    assert_eq!(page.message_ids(), [kept.as_str()]);
    assert_eq!(page.json()["unknowncursor"], json!(["message", "report"]));
    assert_eq!(page.json()["reports"].as_array().unwrap().len(), 1);
    // Without "extended" the form is the documented one.
    let page = alice.does("download", json!({ "firstmessageid": gone })).await;
    assert_eq!(page.message_ids(), [kept.as_str()]);
    let names: Vec<_> = page.json().as_object().unwrap().keys().cloned().collect();
    assert_eq!(names, ["status", "errormessage", "messages", "reports"]);
    // The page before the first message is empty and complete.
    let page =
        alice.does("downloadpartial", json!({ "lastmessageid": kept, "extended": true })).await;
    assert_eq!(page.message_ids(), [""; 0]);
    assert_eq!(page.json()["more"], json!(false));
    // A date before the first message, too, starts there.
    let page = alice.does("download", json!({ "firstmessagedate": "2024-03-08 12:00:00" })).await;
    assert_eq!(page.message_ids(), [kept]);
}

#[tokio::test]
async fn removed_messages_are_not_unread() {
    let world = World::with(&[("retention.days", "30")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    for n in 0..5 {
        alice.sends(&format!("old {n}")).await;
        bob.sends(&format!("old, too {n}")).await;
    }
    world.clock.advances(20 * DAY);
    let mut kept = Vec::new();
    for n in 0..3 {
        kept.push(alice.sends(&n.to_string()).await);
    }
    bob.sends("of Bob").await;
    assert_eq!((alice.unread().await, bob.unread().await), (6, 8));
    world.keeps_after(11, 4).await;
    assert_eq!((alice.unread().await, bob.unread().await), (1, 3));
    bob.reports_as("viewed", &[&kept[0]]).await.ok();
    assert_eq!(bob.unread().await, 2);
}

#[tokio::test]
async fn a_report_stays_while_an_older_one_does() {
    let world = World::with(&[("retention.days", "30")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let old = alice.sends("old").await;
    settled(&alice, &bob).await;
    world.clock.advances(20 * DAY);
    let new = alice.sends("new").await;
    settled(&alice, &bob).await;
    // The newest report is about the oldest message.
    bob.reports_as("viewed", &[&old]).await.ok();
    let newest = alice.newest_report().await;
    world.keeps_after(11, 1).await;

    let kept = [("delivered".to_owned(), new.clone()), ("viewed".to_owned(), old.clone())];
    assert_eq!(alice.told().await, kept);
    assert_eq!(alice.newest_report().await, newest);
    let backward = alice.does("downloadpartial", json!({ "limit": 10 })).await.ok();
    assert_eq!(backward["reports"].as_array().unwrap().len(), 2);
    assert_eq!(backward["reports"][1]["MessageID"], old);
    let extended = alice.does("downloadpartial", json!({ "extended": true })).await.ok();
    assert_eq!(extended["reports"].as_array().unwrap().len(), 1, "of the messages of the page");

    world.clock.advances(8 * DAY);
    let last = alice.sends("last").await;
    settled(&alice, &bob).await;
    world.keeps_after(12, 1).await;
    assert_eq!(alice.told().await, [("delivered".to_owned(), last)]);
}

#[tokio::test]
async fn a_conversation_has_days_of_its_own() {
    let world = World::with(&[("retention.days", "10")]).await;
    let (alice, _bob) = world.alice_and_bob().await;
    let (with_carol, _carol) = world.another_friend(&alice, "Carol").await;
    let (with_dave, _dave) = world.another_friend(&alice, "Dave").await;
    let mut shell = world.opens_database().await;
    for (days, conversation) in [(0, &with_carol.conversation), (20, &with_dave.conversation)] {
        shell
            .runs(&format!(
                "UPDATE conversations SET retention_days = {days} WHERE id = '{conversation}'"
            ))
            .await;
    }
    for person in [&alice, &with_carol, &with_dave] {
        person.sends("hi").await;
    }
    world.keeps_after(10, 2).await;
    assert_eq!(alice.reads().await, [""; 0]);
    world.keeps_after(10, 1).await;
    assert_eq!((with_carol.reads().await.len(), with_dave.reads().await.len()), (1, 0));
}

#[tokio::test]
async fn days_of_one_conversation_need_no_days_for_all() {
    let world = World::start().await;
    let (alice, _bob) = world.alice_and_bob().await;
    let (with_carol, _carol) = world.another_friend(&alice, "Carol").await;
    alice.sends("stays").await;
    with_carol.sends("goes").await;
    let set = format!(
        "UPDATE conversations SET retention_days = 1 WHERE id = '{}'",
        with_carol.conversation
    );
    world.opens_database().await.runs(&set).await;
    world.keeps_after(1, 1).await;
    assert_eq!(alice.reads().await, ["stays"]);
}

#[tokio::test]
async fn a_message_ends_with_its_valid_until_where_that_is_honoured() {
    let world = World::with(&[("retention.valid_until", "true")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let first = alice.sends_for(&world, "first", 60).await;
    alice.sends("for ever").await;
    let middle = alice.sends_for(&world, "middle", 60).await;
    alice.sends_for(&world, "later", 100 * DAY).await;
    settled(&alice, &bob).await;
    for person in [&alice, &bob] {
        person.is_notified().await;
        assert_eq!(person.is_notified().await.conversations, [""; 0]);
    }
    world.keeps_after(0, 3).await;
    let empty = "SELECT count(*) FROM messages WHERE data = ''";
    until("the expired message is empty", async || world.number(empty).await == 1).await;

    assert_eq!(bob.reads().await, ["for ever", "", "later"]);
    let page = bob.downloads().await.ok();
    let mut expired = middle.clone();
    expired["Data"] = json!("");
    assert_eq!(page["messages"][1], expired, "all but the data stays");
    assert_eq!(world.number("SELECT data_bytes FROM conversations").await, 12 + 8);
    assert_eq!(bob.is_notified().await.conversations, [bob.conversation.as_str()]);
    // A client that saw no answer sends a message again.
    alice.adds(&middle).await.ok();
    assert_eq!(bob.reads().await.len(), 3, "the expired message is known");
    let mut other = middle.clone();
    other["Type"] = json!("Other");
    alice.adds(&other).await.refused(409, "message_conflict");
    assert_eq!(alice.first().await, page["messages"][0]["ID"]);
    assert_ne!(alice.first().await, first["ID"]);
}

#[tokio::test]
async fn valid_until_has_no_effect_unless_it_is_honoured() {
    let world = World::with(&[("retention.days", "1")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let (with_carol, _carol) = world.another_friend(&alice, "Carol").await;
    with_carol.sends("a day").await;
    world.clock.advances(DAY / 2);
    alice.sends_for(&world, "short", 60).await;
    world.clock.advances(DAY / 2);
    world.keeps_after(0, 1).await;
    assert_eq!(bob.reads().await, ["short"]);
}

/// Waits until the server has run its jobs once more: it removes a message that was cleared.
async fn jobs_run(world: &World, person: &Person) {
    person.sends("to be cleared").await;
    person.clears().await.ok();
    until("the cleared message is removed", async || {
        world.number("SELECT count(*) FROM purges").await == 0
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_was_ahead_removes_nothing() {
    let world = World::with(&[("retention.days", "30")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let (with_carol, _carol) = world.another_friend(&alice, "Carol").await;
    alice.sends("stays").await;
    world.clock.jumps(100 * DAY);
    for _ in 0..3 {
        world.clock.advances(300);
        jobs_run(&world, &with_carol).await;
    }
    world.clock.jumps(-100 * DAY);
    for _ in 0..10 {
        world.clock.advances(600);
        jobs_run(&world, &with_carol).await;
    }
    assert_eq!(bob.reads().await, ["stays"]);
    world.keeps_after(30, 0).await;
}

/// Returns all messages and reports, page by page in one direction.
async fn pages(person: &Person, action: &str) -> [Vec<Value>; 2] {
    let is_forward = action == "download";
    let (message, report) = if is_forward {
        ("firstmessageid", "firstreportid")
    } else {
        ("lastmessageid", "lastreportid")
    };
    let mut all = [Vec::new(), Vec::new()];
    loop {
        let cursor = |of: &Vec<Value>| {
            let entry = if is_forward { of.last() } else { of.first() };
            entry.map_or(json!(""), |entry: &Value| entry["ID"].clone())
        };
        let mut fields = json!({ message: cursor(&all[0]), report: cursor(&all[1]) });
        if !is_forward {
            fields["limit"] = json!(4);
        }
        let page = person.does(action, fields).await.ok();
        let mut is_new = false;
        for (all, name) in all.iter_mut().zip(["messages", "reports"]) {
            let fresh: Vec<_> = page[name]
                .as_array()
                .unwrap()
                .iter()
                .filter(|one| !all.contains(one))
                .cloned()
                .collect();
            is_new |= !fresh.is_empty();
            if is_forward {
                all.extend(fresh);
            } else {
                all.splice(0..0, fresh);
            }
        }
        if !is_new {
            assert_eq!(page.get("more"), None);
            return all;
        }
    }
}

#[tokio::test]
async fn pages_of_what_is_left_are_whole_in_both_directions() {
    let world = World::with(&[("retention.days", "30"), ("limits.download_messages", "3")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut sent = Vec::new();
    for n in 0..30 {
        let sender = if n % 3 == 0 { &alice } else { &bob };
        sent.push(sender.sends(&format!("{n}")).await);
        pages(if n % 3 == 0 { &bob } else { &alice }, "download").await;
        // Some are viewed late, so that reports are in another order than messages.
        if n >= 10 && n % 4 == 0 {
            alice.reports_as("viewed", &sent[n - 10..n - 8]).await.ok();
        }
        world.clock.advances(DAY);
    }
    until("everything is delivered", async || {
        world.number("SELECT count(*) FROM reports WHERE type = 'delivered'").await == 30
    })
    .await;
    let before = pages(&alice, "download").await;
    assert_eq!(before[0].len(), 30);
    world.keeps_after(10, 19).await;

    let after = pages(&alice, "download").await;
    assert_eq!(after[0][..], before[0][11..]);
    // A suffix of the reports, which begins with the first one about a message that is left.
    let kept = |report: &Value| after[0].iter().any(|message| message["ID"] == report["MessageID"]);
    let first = before[1].iter().position(kept).unwrap();
    assert_eq!(after[1][..], before[1][first..]);
    assert_eq!(pages(&alice, "downloadpartial").await, after);
    assert_eq!(pages(&bob, "download").await, after);
    let date = |n: usize| json!({ "firstmessagedate": before[0][n]["Created"], "firstreportdate": "9999-01-01 00:00:00" });
    for n in [0, 10, 11, 12, 20, 29] {
        let page = alice.does("download", date(n)).await;
        assert_eq!(page.message_ids()[0], sent[n.max(11)], "from the date of message {n}");
    }
    let report = &before[1][first];
    let fields =
        json!({ "firstmessagedate": "9999-01-01 00:00:00", "firstreportdate": report["Created"] });
    let page = alice.does("download", fields).await.ok();
    assert_eq!(page["reports"][0], *report);
    // Both make further entries.
    bob.adds(&message("more", &bob.date())).await.ok();
    assert_eq!(pages(&alice, "download").await[0].len(), 20);
}
