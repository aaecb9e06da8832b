//! Reports that readers make themselves.

use serde_json::{Value, json};
use uuid::{Uuid, Variant};

use super::{bare, delivered, fill, noted, stand_in_line, viewed};
use crate::harness::changes::station_bits;
use crate::harness::person::message_with_id;
use crate::harness::reports::settled;
use crate::harness::world::{World, until};

#[tokio::test]
async fn a_reader_reports_each_message_once() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let one = alice.sends("one").await;
    let two = alice.sends("two").await;
    bob.reports_as("delivered", &[&two]).await.ok();
    assert_eq!(alice.told().await, [delivered(&two)]);
    bob.reports_as("viewed", &[&two, &one, &two]).await.ok();
    // Missing `delivered` reports come first. Each type is in the order of the messages.
    let all = [delivered(&two), delivered(&one), viewed(&one), viewed(&two)];
    assert_eq!(alice.told().await, all);
    for action in ["viewed", "delivered"] {
        bob.reports_as(action, &[&one, &two]).await.ok();
        bob.elsewhere().reports_as(action, &[&one]).await.ok();
    }
    assert_eq!(alice.told().await, all);
    assert_eq!(bob.told().await, all, "both see them");
    stand_in_line(&world, 4).await;
}

#[tokio::test]
async fn only_messages_of_others_are_reported() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let (hers, his) = (alice.sends("hers").await, bob.sends("his").await);
    alice.reports_as("viewed", &[&hers]).await.ok();
    bob.reports_as("delivered", &[&his]).await.ok();
    assert_eq!(alice.told().await, []);
    alice.reports_as("viewed", &[&hers, &his]).await.ok();
    bob.reports_as("delivered", &[&hers, &his]).await.ok();
    assert_eq!(alice.told().await, [delivered(&his), viewed(&his), delivered(&hers)]);
    let readers: Vec<_> =
        alice.reports().await.iter().map(|report| report["UserID"].clone()).collect();
    let (alice, bob) = (alice.user.as_str(), bob.user.as_str());
    assert_eq!(readers, [alice, alice, bob]);
}

#[tokio::test]
async fn reports_of_unknown_messages_are_skipped() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let (other, _carol) = world.another_friend(&alice, "Carol").await;
    let cleared = alice.sends("of the instance before").await;
    alice.clears().await.ok();
    let known = alice.sends("known").await;
    let elsewhere = other.sends("to Carol").await;
    bob.reports_as::<&str>("viewed", &[]).await.ok();
    bob.reports_as("viewed", &[&cleared, &elsewhere, &Uuid::new_v4().to_string()]).await.ok();
    assert_eq!(alice.told().await, []);
    assert_eq!(bob.newest_report().await, "");
    bob.reports_as("viewed", &[&cleared, &known, &elsewhere]).await.ok();
    assert_eq!(alice.told().await, [delivered(&known), viewed(&known)]);
    assert_eq!(other.told().await, []);
}

#[tokio::test]
async fn a_report_names_its_type_message_reader_and_date() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let sent = alice.sends("hello").await;
    world.clock.shows("2024-03-08 12:00:07");
    let fields = json!({
        "conversationid": bob.conversation, "messageids": [sent],
        // These fields are ignored, whatever their values.
        "firstmessagedate": "yesterday", "lastmessagedate": 5,
    });
    let answer = bob.prepares("chatreports", "viewed", &fields).sent().await;
    assert_eq!(answer.text, r#"{"status":"OK","errormessage":""}"#);
    let reports = alice.reports().await;
    let ids: Vec<_> = reports.iter().map(|report| report["ID"].as_str().unwrap()).collect();
    for id in &ids {
        let uuid = Uuid::parse_str(id).unwrap();
        assert_eq!((uuid.to_string().as_str(), uuid.get_version_num()), (*id, 8));
        assert_eq!(uuid.get_variant(), Variant::RFC4122);
    }
    assert_ne!(ids[0], ids[1]);
    let written = |id: &str, what: &str| {
        let reader = bob.user;
        format!(
            r#"{{"ID":"{id}","Type":"{what}","Created":"2024-03-08 12:00:07","MessageID":"{sent}","UserID":"{reader}"}}"#
        )
    };
    let both = [written(ids[0], "delivered"), written(ids[1], "viewed")].join(",");
    for (person, action) in [(&alice, "download"), (&bob, "downloadpartial")] {
        let page = person.does(action, json!({})).await;
        assert!(page.text.ends_with(&format!(r#","reports":[{both}]}}"#)), "{page:?}");
    }
    for person in [&alice, &bob] {
        assert_eq!(person.newest_report().await, bare(&reports[1]));
    }
}

#[tokio::test]
async fn a_report_is_dated_by_a_clock_that_was_set_back() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    for (clock, text) in [("12:00:09", "one"), ("11:59:59", "two"), ("12:00:11", "three")] {
        world.clock.shows(&format!("2024-03-08 {clock}"));
        let sent = alice.sends(text).await;
        bob.reports_as("delivered", &[&sent]).await.ok();
    }
    let dates: Vec<_> =
        alice.reports().await.iter().map(|report| report["Created"].clone()).collect();
    assert_eq!(dates, ["2024-03-08 12:00:09", "2024-03-08 11:59:59", "2024-03-08 12:00:11"]);
}

#[tokio::test]
async fn a_stranger_reports_nothing_and_learns_nothing() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let sent = alice.sends("hello").await;
    let stranger = world.person("Stranger").await;
    let before = (settled(&alice, &bob).await, alice.sees().await);
    for action in ["delivered", "viewed"] {
        let ask = async |conversation: &str, instance: &str| {
            let fields = json!({
                "conversationid": conversation, "instance": instance, "messageids": [sent],
            });
            let answer = stranger.prepares("chatreports", action, &fields).sent().await;
            answer.refused(404, "conversation_not_found");
            answer.text
        };
        let answer = ask(&alice.conversation, "").await;
        assert_eq!(answer, ask("00000000000000000000000000000000", "").await);
        assert_eq!(answer, ask(&alice.conversation, &alice.instance().await).await);
        assert_eq!(answer, ask(&alice.conversation, "0123456789").await);
    }
    assert_eq!(before, (settled(&alice, &bob).await, alice.sees().await));
}

#[tokio::test]
async fn a_report_applies_to_the_instance_that_it_names() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let old = bob.instance().await;
    alice.adds(&message_with_id("m-1", "before", &world.clock.date())).await.ok();
    alice.clears().await.ok();
    // The same ID, so that only the instance tells the messages apart.
    alice.adds(&message_with_id("m-1", "after", &world.clock.date())).await.ok();
    for (action, expected) in
        [("delivered", vec![delivered("m-1")]), ("viewed", vec![delivered("m-1"), viewed("m-1")])]
    {
        let before = alice.told().await;
        let fields = |instance: Value| {
            json!({
                "conversationid": bob.conversation, "messageids": ["m-1"], "instance": instance,
            })
        };
        let late = bob.prepares("chatreports", action, &fields(json!(old))).sent().await;
        late.refused(409, "instance_changed");
        assert_eq!(late.conversation(), bob.sees().await);
        assert_eq!(alice.told().await, before);
        for instance in [json!(bob.instance().await), json!(""), json!(null)] {
            bob.prepares("chatreports", action, &fields(instance)).sent().await.ok();
            assert_eq!(alice.told().await, expected);
        }
    }
}

#[tokio::test]
async fn one_request_reports_at_most_a_thousand_messages() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    fill(&world, &alice, 1001).await;
    let ids: Vec<_> = (1..=1001).map(|n| format!("m-{n}")).collect();
    let refused = bob.reports_as("viewed", &ids).await.refused(400, "invalid_field");
    let sentence = refused["errormessage"].as_str().unwrap();
    assert!(sentence.starts_with("messageids must be an array of at most 1000 "), "{sentence}");
    assert_eq!(alice.told().await, []);
    bob.reports_as("viewed", &ids[1..]).await.ok();
    let told = alice.told().await;
    let expected = ids[1..].iter().map(|id| delivered(id));
    let expected: Vec<_> = expected.chain(ids[1..].iter().map(|id| viewed(id))).collect();
    assert_eq!(told, expected);
    stand_in_line(&world, 2000).await;
}

#[tokio::test]
async fn a_replayed_report_is_refused() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let sent = alice.sends("hello").await;
    let report = bob.prepares_report("delivered", &[&sent]);
    report.sent().await.ok();
    let before = (alice.told().await, alice.sees().await);
    let again = report.sent().await;
    again.refused(409, "replayed");
    assert_eq!(again.conversation(), bob.sees().await);
    assert_eq!(before, (alice.told().await, alice.sees().await));
    // A refused request was not carried out, so it may be repeated.
    let instance = bob.instance().await;
    let fields = json!({
        "conversationid": bob.conversation, "messageids": [sent], "instance": "0123456789",
    });
    let late = bob.prepares("chatreports", "viewed", &fields);
    late.sent().await.refused(409, "instance_changed");
    late.sent().await.refused(409, "instance_changed");
    assert_eq!(bob.instance().await, instance);
}

#[tokio::test]
async fn a_report_to_a_blocker_is_dropped() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let one = alice.sends("one").await;
    bob.reports_as("viewed", &[&one]).await.ok();
    let two = alice.sends("two").await;
    alice.blocks(bob.user.as_str()).await.ok();
    let before = (alice.sees().await, noted(&world, &alice).await);
    let changes_of_bob = noted(&world, &bob).await;
    let dropped = bob.prepares_report("viewed", &[&one, &two]);
    assert_eq!(dropped.sent().await.text, r#"{"status":"OK","errormessage":""}"#);
    dropped.sent().await.refused(409, "replayed");
    bob.reports_as("delivered", &[&two]).await.ok();
    let receipts = [delivered(&one), viewed(&one)];
    assert_eq!(bob.told().await, receipts, "those from before stay");
    let after = (alice.sees().await, noted(&world, &alice).await);
    assert_eq!(before, after);
    // Bob's own read position moved, which only his other stations are told.
    assert!(noted(&world, &bob).await.0 > changes_of_bob.0);
    let his = "SELECT count(*) FROM reports WHERE type = 'viewed'";
    assert_eq!(world.number(his).await, 1);
    alice.unblocks(bob.user.as_str()).await.ok();
    bob.reports_as("viewed", &[&two]).await.ok();
    assert_eq!(bob.told().await, [&receipts[..], &[delivered(&two), viewed(&two)]].concat());
}

#[tokio::test]
async fn a_report_by_a_blocker_is_dropped() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let sent = bob.sends("hello").await;
    alice.blocks(bob.user.as_str()).await.ok();
    alice.reports_as("viewed", &[&sent]).await.ok();
    assert_eq!(bob.told().await, []);
    alice.unblocks(bob.user.as_str()).await.ok();
    alice.reports_as("viewed", &[&sent]).await.ok();
    assert_eq!(bob.told().await, [delivered(&sent), viewed(&sent)]);
}

#[tokio::test]
async fn former_friends_report_nothing_until_they_are_friends_again() {
    let world = World::start().await;
    let (mut alice, mut bob) = world.alice_and_bob().await;
    let sent = alice.sends("hello").await;
    world.parts(&alice, &bob).await;
    bob.reports_as("viewed", &[&sent]).await.ok();
    bob.reports_as("delivered", &[&sent]).await.ok();
    assert_eq!(alice.told().await, []);
    assert_eq!(bob.told().await, [], "it looks as if she had blocked him");
    world.befriends(&mut alice, &mut bob).await;
    bob.does("download", json!({})).await.ok();
    until("it is delivered", async || alice.told().await == [delivered(&sent)]).await;
}

#[tokio::test]
async fn a_report_is_told_to_both_users_but_not_to_its_own_station() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let sent = alice.sends("hello").await;
    let (hers, his) = (noted(&world, &alice).await, noted(&world, &bob).await);
    bob.reports_as("viewed", &[&sent]).await.ok();
    // One change, although two reports were made.
    let news = [(hers.0 + 1, 0), (his.0 + 1, station_bits(&bob))];
    assert_eq!([noted(&world, &alice).await, noted(&world, &bob).await], news);
    bob.elsewhere().reports_as("viewed", &[&sent]).await.ok();
    bob.reports_as("delivered", &["unknown"]).await.ok();
    assert_eq!([noted(&world, &alice).await, noted(&world, &bob).await], news, "nothing is new");
}
