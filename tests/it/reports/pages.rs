//! Reports in the pages of `download` and `downloadpartial`.

use std::ops::Range;

use serde_json::{Value, json};

use super::bare;
use crate::harness::person::{Answer, Person, message_with_id};
use crate::harness::world::World;

/// Alice has sent `m-0` to `m-9`, one every ten seconds from 12:00:00 on. Bob has reported each as delivered one second
/// later.
struct Stage {
    alice: Person,
    bob: Person,
    reports: Vec<Value>,
}

impl Stage {
    async fn set(world: &World) -> Self {
        let (alice, bob) = world.alice_and_bob().await;
        for n in 0..10 {
            world.clock.shows(&format!("2024-03-08 12:0{}:{}0", n / 6, n % 6));
            let id = format!("m-{n}");
            alice.adds(&message_with_id(&id, "hi", &world.clock.date())).await.ok();
            world.clock.advances(1);
            bob.reports_as("delivered", &[&id]).await.ok();
        }
        let reports = alice.reports().await;
        assert_eq!(reports.len(), 10);
        Self { alice, bob, reports }
    }

    /// Asserts which messages and reports are in the page, for both people.
    async fn shows(
        &self,
        action: &str,
        asked: &Value,
        messages: Range<usize>,
        reports: Range<usize>,
        more: bool,
    ) {
        for person in [&self.alice, &self.bob] {
            let page = person.does(action, asked.clone()).await;
            assert_eq!(page.message_ids(), ids(messages.clone()), "{action} {asked}");
            let page = page.ok();
            assert_eq!(page["reports"], json!(self.reports[reports.clone()]), "{action} {asked}");
            let is_cut = page.get("more");
            assert_eq!(is_cut, more.then_some(&json!(true)), "{action} {asked}");
        }
    }
}

fn ids(numbers: Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("m-{n}")).collect()
}

/// Returns IDs that no report has. One has the position of an existing report, one a position that does not exist, and
/// the others are not IDs of reports at all.
fn unknown(report: &Value) -> Vec<String> {
    let known = bare(report);
    let place = &known[20..];
    vec![
        format!("{}8{}8{}{place}", "0".repeat(12), "0".repeat(3), "0".repeat(3)),
        format!("{}ffffffffffff", &known[..20]),
        format!("{known}00"),
        known[1..].to_owned(),
        "zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz".to_owned(),
        "m-7".to_owned(),
    ]
}

#[tokio::test]
async fn a_download_continues_from_its_report() {
    let world = World::start().await;
    let stage = Stage::set(&world).await;
    let seventh = &stage.reports[7];
    for (cursor, expected) in [
        (json!({ "firstreportid": "", "firstreportdate": null }), 0..10),
        (json!({ "firstreportid": seventh["ID"] }), 7..10),
        (json!({ "firstreportid": bare(seventh) }), 7..10),
        (
            json!({ "firstreportid": seventh["ID"], "firstreportdate": "2024-03-08 12:00:11" }),
            7..10,
        ),
        (
            json!({ "firstreportid": bare(seventh), "firstreportdate": "2030-01-01 00:00:00" }),
            7..10,
        ),
        (json!({ "firstreportdate": "2024-03-08 12:00:31" }), 3..10),
        (json!({ "firstreportdate": "2024-03-08 12:00:32" }), 4..10),
        (json!({ "firstreportdate": "2024-03-08 12:01:31" }), 9..10),
        (json!({ "firstreportdate": "2024-03-08 12:01:32" }), 10..10),
        (json!({ "firstreportdate": "0000-01-01 00:00:00" }), 0..10),
    ] {
        stage.shows("download", &cursor, 0..10, expected, false).await;
    }
    for id in unknown(seventh) {
        let cursor = json!({ "firstreportid": id, "firstreportdate": "2024-03-08 12:00:31" });
        stage.shows("download", &cursor, 0..10, 3..10, false).await;
        stage.shows("download", &json!({ "firstreportid": id }), 0..10, 0..10, false).await;
    }
    let both = json!({ "firstmessageid": "m-8", "firstreportid": stage.reports[2]["ID"] });
    stage.shows("download", &both, 8..10, 2..10, false).await;
    let both = json!({ "firstmessagedate": "2024-03-08 12:00:20", "firstreportid": bare(seventh) });
    stage.shows("download", &both, 2..10, 7..10, false).await;
}

#[tokio::test]
async fn a_partial_download_scrolls_up_from_its_report() {
    let world = World::start().await;
    let stage = Stage::set(&world).await;
    let seventh = &stage.reports[7];
    for (cursor, expected) in [
        (json!({ "limit": 3, "lastreportid": "", "lastreportdate": null }), 7..10),
        (json!({ "limit": 3, "lastreportid": seventh["ID"] }), 4..7),
        (json!({ "limit": 3, "lastreportid": bare(seventh) }), 4..7),
        (
            json!({ "limit": 3, "lastreportid": bare(seventh), "lastreportdate": "2024-03-08 12:00:11" }),
            4..7,
        ),
        (json!({ "limit": 3, "lastreportdate": "2024-03-08 12:00:31" }), 0..3),
        (json!({ "limit": 3, "lastreportdate": "2024-03-08 12:00:32" }), 1..4),
        (json!({ "limit": 3, "lastreportdate": "2024-03-08 12:00:11" }), 0..1),
        (json!({ "limit": 3, "lastreportdate": "2024-03-08 12:00:01" }), 0..0),
        (json!({ "limit": 3, "lastreportid": stage.reports[0]["ID"] }), 0..0),
        (json!({ "limit": 3, "lastreportdate": "9999-12-31 23:59:59" }), 7..10),
    ] {
        stage.shows("downloadpartial", &cursor, 7..10, expected, false).await;
    }
    for id in unknown(seventh) {
        let cursor =
            json!({ "limit": 3, "lastreportid": id, "lastreportdate": "2024-03-08 12:00:32" });
        stage.shows("downloadpartial", &cursor, 7..10, 1..4, false).await;
        let cursor = json!({ "limit": 3, "lastreportid": id });
        stage.shows("downloadpartial", &cursor, 7..10, 7..10, false).await;
    }
    let both =
        json!({ "lastmessageid": "m-5", "lastreportid": stage.reports[2]["ID"], "limit": 4 });
    stage.shows("downloadpartial", &both, 1..5, 0..2, false).await;
    stage.shows("downloadpartial", &json!({}), 0..10, 0..10, false).await;
}

#[tokio::test]
async fn the_bound_of_a_download_applies_to_each_array() {
    let world = World::with(&[("limits.download_messages", "4")]).await;
    let stage = Stage::set(&world).await;
    let from = |message: usize, report: usize| {
        json!({
            "firstmessageid": format!("m-{message}"), "firstreportid": stage.reports[report]["ID"],
        })
    };
    stage.shows("download", &json!({}), 0..4, 0..4, true).await;
    stage.shows("download", &from(2, 5), 2..6, 5..9, true).await;
    stage.shows("download", &from(8, 1), 8..10, 1..5, true).await;
    stage.shows("download", &from(1, 8), 1..5, 8..10, true).await;
    stage.shows("download", &from(6, 6), 6..10, 6..10, false).await;
    stage.shows("downloadpartial", &json!({}), 0..10, 0..10, false).await;
}

/// Returns the size of the serialized entries of an array, in bytes.
fn bytes(page: &Answer, array: &str) -> usize {
    let entries = page.json()[array].as_array().unwrap().clone();
    entries.iter().map(|entry| entry.to_string().len()).sum()
}

#[tokio::test]
async fn messages_take_the_bytes_of_a_page_first_and_reports_take_the_rest() {
    let long = message_with_id("m-long", &"x".repeat(900), "2024-03-08 12:00:00");
    let sets = async |limit: usize| {
        let world = World::with(&[("limits.download_bytes", &limit.to_string())]).await;
        let (alice, bob) = world.alice_and_bob().await;
        alice.adds(&long).await.ok();
        for id in ["m-1", "m-2", "m-3"] {
            alice.adds(&message_with_id(id, "hi", &world.clock.date())).await.ok();
        }
        bob.reports_as("viewed", &["m-long", "m-1", "m-2"]).await.ok();
        bob.reports_as("delivered", &["m-3"]).await.ok();
        (world, alice)
    };
    let (_world, alice) = sets(100_000).await;
    let all = alice.does("download", json!({})).await;
    let (messages, reports) = (bytes(&all, "messages"), bytes(&all, "reports"));
    let reported: Vec<_> = all.json()["reports"].as_array().unwrap().clone();
    assert_eq!(reported.len(), 7);
    let length = |report: &Value| report.to_string().len();
    let about = |report: &Value| (report["Type"].clone(), report["MessageID"].clone());
    let (first, newest) = (length(&reported[0]), length(&reported[6]));
    for (limit, in_download, in_partial, more) in [
        (messages + reports, 7, 7, false),
        (messages + reports - 1, 6, 6, true),
        (messages + first, 1, 1, true),
        (messages + newest, 0, 1, true),
        (messages + newest - 1, 0, 0, true),
        (messages, 0, 0, true),
    ] {
        let (_world, alice) = sets(limit).await;
        for (action, expected) in [("download", in_download), ("downloadpartial", in_partial)] {
            let page = alice.does(action, json!({})).await;
            assert_eq!(page.message_ids(), ["m-long", "m-1", "m-2", "m-3"]);
            let page = page.ok();
            // The reports nearest to the cursor. They are compared without IDs, which differ between worlds.
            let nearest = if action == "download" { 0..expected } else { 7 - expected..7 };
            let told: Vec<_> = page["reports"].as_array().unwrap().iter().map(about).collect();
            let nearest: Vec<_> = reported[nearest].iter().map(about).collect();
            assert_eq!(told, nearest, "{action} of {limit} bytes");
            assert_eq!(page.get("more"), more.then_some(&json!(true)), "{action} of {limit} bytes");
        }
    }
}
