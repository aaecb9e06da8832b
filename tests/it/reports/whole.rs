//! Downloads of a whole history, page by page.

use serde_json::{Value, json};

use super::{delivered, fill};
use crate::harness::person::{Person, message_with_id};
use crate::harness::world::{World, until};

/// Returns the entries of an array, without the known one.
fn news(page: &Value, array: &str, known: Option<&Value>) -> Vec<Value> {
    let mut entries = page[array].as_array().unwrap().clone();
    entries.retain(|entry| known.is_none_or(|known| entry["ID"] != known["ID"]));
    entries
}

fn id(entry: Option<&Value>) -> Value {
    entry.map_or(json!(""), |entry| entry["ID"].clone())
}

/// Downloads all messages and reports, from the first on.
async fn downloaded(person: &Person) -> [Vec<Value>; 2] {
    let [mut messages, mut reports] = [vec![], vec![]];
    loop {
        let cursors = json!({
            "firstmessageid": id(messages.last()), "firstreportid": id(reports.last()),
        });
        let page = person.does("download", cursors).await.ok();
        let new_messages = news(&page, "messages", messages.last());
        let new_reports = news(&page, "reports", reports.last());
        let more = page.get("more").is_some();
        assert!(!more || new_messages.len() + new_reports.len() > 0, "it goes on");
        messages.extend(new_messages);
        reports.extend(new_reports);
        if !more {
            return [messages, reports];
        }
    }
}

/// Downloads all messages and reports, from the newest back.
async fn scrolled(person: &Person, limit: usize) -> [Vec<Value>; 2] {
    let [mut messages, mut reports] = [vec![], vec![]];
    loop {
        let cursors = json!({
            "lastmessageid": id(messages.first()), "lastreportid": id(reports.first()),
            "limit": limit,
        });
        let page = person.does("downloadpartial", cursors).await.ok();
        let [new_messages, new_reports] =
            ["messages", "reports"].map(|array| news(&page, array, None));
        let more = page.get("more").is_some();
        assert!(!more || new_messages.len() + new_reports.len() > 0, "it goes on");
        let full = new_messages.len() == limit || new_reports.len() == limit;
        messages.splice(0..0, new_messages);
        reports.splice(0..0, new_reports);
        if !more && !full {
            return [messages, reports];
        }
    }
}

#[tokio::test]
async fn downloads_that_continue_from_the_last_entries_reach_the_end() {
    const SMALL: usize = 10;
    const LARGE: usize = 3000;
    let date = "2024-03-08 12:00:00";
    for (lengths, most) in [
        (vec![], "10000"),
        (vec![SMALL], "10000"),
        (vec![LARGE], "10000"),
        (vec![LARGE; 4], "10000"),
        (vec![SMALL; 30], "10000"),
        (vec![SMALL; 30], "2"),
        ([vec![SMALL; 9], vec![LARGE]].concat(), "10000"),
        ([vec![LARGE], vec![SMALL; 9]].concat(), "10000"),
        ([vec![SMALL; 4], vec![LARGE, LARGE], vec![SMALL; 4]].concat(), "3"),
    ] {
        let settings = [("limits.download_bytes", "1024"), ("limits.download_messages", most)];
        let world = World::with(&settings).await;
        let (alice, bob) = world.alice_and_bob().await;
        let mut sent = Vec::new();
        for (n, length) in lengths.iter().enumerate() {
            sent.push(format!("m-{n}"));
            let message = message_with_id(&sent[n], &"x".repeat(*length), date);
            alice.adds(&message).await.ok();
        }
        bob.reports_as("viewed", &sent).await.ok();
        let [messages, reports] = downloaded(&alice).await;
        let names: Vec<_> = messages.iter().map(|message| message["ID"].clone()).collect();
        assert_eq!(names, sent);
        assert_eq!(reports, alice.reports().await);
        assert_eq!(reports.len(), 2 * sent.len());
        assert_eq!(downloaded(&bob).await, [messages.clone(), reports.clone()]);
        for limit in [1, 3, 500] {
            let all = scrolled(&bob, limit).await;
            assert_eq!(all, [messages.clone(), reports.clone()], "{lengths:?} by {limit}");
        }
    }
}

#[tokio::test]
async fn a_download_in_pages_includes_the_reports_of_its_own_pages() {
    let settings = [("limits.download_bytes", "1024"), ("limits.download_messages", "5")];
    let world = World::with(&settings).await;
    let (alice, bob) = world.alice_and_bob().await;
    fill(&world, &alice, 40).await;
    let [messages, _] = downloaded(&bob).await;
    assert_eq!(messages.len(), 40);
    let expected: Vec<_> = (1..=40).map(|n| delivered(&format!("m-{n}"))).collect();
    until("all is delivered", async || alice.told().await.len() == 40).await;
    assert_eq!(alice.told().await, expected);
}
