//! Clearing a conversation removes its reports.

use serde_json::json;

use super::{delivered, fill, viewed};
use crate::harness::reports::settled;
use crate::harness::world::{World, until};

#[tokio::test]
async fn a_clear_removes_the_reports_of_its_messages() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.sends("before").await;
    let old = alice.instance().await;
    settled(&alice, &bob).await;
    let report = bob.reports().await.pop().unwrap();
    assert_eq!(alice.newest_report().await, super::bare(&report));
    let cleared = alice.clears().await.conversation();
    assert_eq!(cleared["lastreportid"], "");
    for person in [&alice, &bob] {
        assert_eq!(person.newest_report().await, "");
        assert_eq!(person.told().await, []);
        for (action, cursor) in [("download", "firstreportid"), ("downloadpartial", "lastreportid")]
        {
            let late = person.does(action, json!({ "instance": old })).await;
            late.refused(409, "instance_changed");
            // The cleared report no longer exists, so its ID counts as unknown.
            let page = person.does(action, json!({ cursor: report["ID"] })).await.ok();
            assert_eq!(page["reports"], json!([]));
        }
    }
    world.clock.shows("2024-03-08 11:59:00");
    let sent = alice.sends("after").await;
    bob.does("download", json!({ "firstreportid": report["ID"] })).await.ok();
    until("it is delivered", async || alice.told().await == [delivered(&sent)]).await;
    let first = bob.does("download", json!({ "firstreportid": report["ID"] })).await.ok();
    assert_eq!(first["reports"][0]["Created"], "2024-03-08 11:59:00", "the dates begin anew");
    assert_ne!(first["reports"][0]["ID"], report["ID"]);
    bob.reports_as("viewed", &[&sent]).await.ok();
    assert_eq!(alice.told().await, [delivered(&sent), viewed(&sent)]);
}

#[tokio::test]
async fn cleared_reports_are_removed_from_the_database() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let (other, carol) = world.another_friend(&alice, "Carol").await;
    carol.reports_as("viewed", &[&other.sends("kept").await]).await.ok();
    fill(&world, &alice, 700).await;
    let ids: Vec<_> = (1..=700).map(|n| format!("m-{n}")).collect();
    bob.reports_as("viewed", &ids).await.ok();
    assert_eq!(world.number("SELECT count(*) FROM reports").await, 1402);
    alice.clears().await.ok();
    bob.reports_as("delivered", &[&alice.sends("new").await]).await.ok();
    until("the old rows are gone", async || {
        let left = "SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM purges)";
        world.number(left).await == 2
    })
    .await;
    assert_eq!(world.number("SELECT count(*) FROM reports").await, 3);
    assert_eq!((alice.told().await.len(), other.told().await.len()), (1, 2));
}
