//! Extended answers: who sent a message, the reports of a page, unknown cursors, and why a page ends.

use serde_json::{Value, json};

use crate::harness::person::{Answer, Person, message_with_id};
use crate::harness::world::{World, until};

const DATE: &str = "2024-03-08 12:00:00";

impl Person {
    /// Downloads an extended page.
    async fn extends(&self, action: &str, mut fields: Value) -> Answer {
        fields["extended"] = json!(true);
        self.does(action, fields).await
    }
}

/// Sends `m-0`, `m-1` and so on from Alice and Bob in turn, each of this many characters.
async fn talk(alice: &Person, bob: &Person, messages: usize, characters: usize) {
    let instance = alice.instance().await;
    for n in 0..messages {
        let sender = if n % 2 == 0 { alice } else { bob };
        let message = message_with_id(&format!("m-{n}"), &"x".repeat(characters), DATE);
        sender.does("add", json!({ "instance": instance, "message": message })).await.ok();
    }
}

/// Waits until each message is reported as delivered.
async fn delivers(alice: &Person, bob: &Person, messages: usize) {
    until("all is delivered", async || {
        alice.does("download", json!({})).await.ok();
        bob.does("download", json!({})).await.ok();
        alice.told().await.len() >= messages
    })
    .await;
}

/// Removes what an extended page has besides a documented one.
fn documented(extended: &Value) -> Value {
    let mut page = extended.clone();
    page.as_object_mut().unwrap().retain(|name, _| !["more", "unknowncursor"].contains(&&**name));
    for message in page["messages"].as_array_mut().unwrap() {
        message.as_object_mut().unwrap().remove("UserID").unwrap();
    }
    page
}

#[tokio::test]
async fn a_page_names_the_sender_of_each_message() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    talk(&alice, &bob, 2, 3).await;
    let of = |id: &str, sender: &Person| {
        format!(
            r#"{{"ID":"{id}","Type":"Message","Created":"{DATE}","ValidUntil":"","Data":"eHh4","UserID":"{}"}}"#,
            sender.user
        )
    };
    let messages = format!("{},{}", of("m-0", &alice), of("m-1", &bob));
    let page = format!(
        r#"{{"status":"OK","errormessage":"","messages":[{messages}],"reports":[],"more":false}}"#
    );
    for person in [&alice, &alice.elsewhere(), &bob] {
        let fields = json!({ "firstreportdate": "9999-01-01 00:00:00" });
        assert_eq!(person.extends("download", fields).await.text, page);
    }
}

/// A page of 128 KiB is read at once, and a larger one in pieces of at most 512 entries and 1 MiB.
#[tokio::test]
async fn pages_of_each_size_differ_from_documented_ones_in_the_new_fields_alone() {
    for (messages, characters) in [(6, 30), (8, 150_000), (600, 1)] {
        let world = World::start().await;
        let (alice, bob) = world.alice_and_bob().await;
        talk(&alice, &bob, messages, characters).await;
        delivers(&alice, &bob, messages).await;
        for (person, action, cursor) in [
            (&alice, "download", json!({})),
            (&bob, "download", json!({ "firstmessageid": "m-1" })),
            (&bob, "downloadpartial", json!({ "limit": 500 })),
        ] {
            let before = person.does(action, cursor.clone()).await;
            let extended = person.extends(action, cursor.clone()).await.ok();
            if action == "download" {
                assert_eq!(documented(&extended), before.ok(), "{messages} messages");
            } else {
                assert_eq!(documented(&extended)["messages"], before.ok()["messages"]);
            }
            for message in extended["messages"].as_array().unwrap() {
                let n: usize = message["ID"].as_str().unwrap()[2..].parse().unwrap();
                let sender = if n.is_multiple_of(2) { &alice } else { &bob };
                assert_eq!(message["UserID"], sender.user.as_str());
            }
            for same in [json!(false), Value::Null] {
                let mut fields = cursor.clone();
                fields["extended"] = same;
                assert_eq!(person.does(action, fields).await.text, before.text);
            }
        }
    }
}

#[tokio::test]
async fn damaged_texts_spoil_no_extended_page() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    talk(&alice, &bob, 3, 10).await;
    delivers(&alice, &bob, 3).await;
    let mut database = world.opens_database().await;
    for damage in [
        "UPDATE messages SET data = 'a\"b' WHERE id = 'm-1'",
        "UPDATE messages SET sender_number = 1000 WHERE id = 'm-2'",
        "UPDATE reports SET created = 'a\"b' WHERE place = (SELECT min(place) FROM reports)",
    ] {
        database.runs(damage).await;
    }
    for action in ["download", "downloadpartial"] {
        let page = alice.extends(action, json!({})).await.ok();
        let messages = page["messages"].as_array().unwrap();
        let senders: Vec<_> = messages.iter().map(|message| &message["UserID"]).collect();
        assert_eq!(senders, [alice.user.as_str(), bob.user.as_str(), ""]);
        assert_eq!(messages[1]["Data"], "a\"b");
        assert_eq!(page["reports"][0]["Created"], "a\"b");
    }
}

/// Returns the reports of these messages, in the order in which they were made.
async fn reports_of(person: &Person, page: &Answer) -> Vec<Value> {
    let ids = page.message_ids();
    let mut all = person.reports().await;
    all.retain(|report| ids.iter().any(|id| report["MessageID"] == **id));
    all
}

#[tokio::test]
async fn a_partial_page_has_the_reports_of_just_its_messages() {
    for characters in [10, 30_000] {
        let world = World::start().await;
        let (alice, bob) = world.alice_and_bob().await;
        talk(&alice, &bob, 12, characters).await;
        // The newest messages are reported first, so the order of the reports is not that of the messages.
        bob.reports_as("viewed", &["m-10", "m-8"]).await.ok();
        alice.reports_as("viewed", &["m-11", "m-1"]).await.ok();
        delivers(&alice, &bob, 16).await;
        bob.reports_as("viewed", &["m-2", "m-4"]).await.ok();
        for (cursor, limit) in [("m-11", 4), ("m-5", 3), ("m-5", 500), ("", 6), ("m-0", 5)] {
            // The cursor of the reports does not matter.
            for report in ["", "2024-01-01 00:00:00"] {
                let fields =
                    json!({ "lastmessageid": cursor, "limit": limit, "lastreportdate": report });
                let page = alice.extends("downloadpartial", fields.clone()).await;
                let reports = reports_of(&alice, &page).await;
                assert_eq!(page.ok()["reports"], json!(reports), "{fields}");
                let same = bob.extends("downloadpartial", fields).await.ok();
                assert_eq!(same["reports"], json!(reports));
                assert!(reports.len() >= page.message_ids().len(), "all are delivered");
            }
        }
    }
}

#[tokio::test]
async fn the_reports_of_a_partial_page_fit_into_its_bytes() {
    let limit = 4000;
    let world = World::with(&[("limits.download_bytes", &limit.to_string())]).await;
    let (alice, bob) = world.alice_and_bob().await;
    talk(&alice, &bob, 20, 40).await;
    let ids: Vec<_> = (0..20).map(|n| format!("m-{n}")).collect();
    alice.reports_as("viewed", &ids).await.ok();
    bob.reports_as("viewed", &ids).await.ok();
    let (mut last, mut read) = (String::new(), Vec::new());
    loop {
        let page = alice.extends("downloadpartial", json!({ "lastmessageid": last })).await;
        let json = page.ok();
        let entries = ["messages", "reports"].map(|name| json[name].as_array().unwrap().clone());
        let bytes: usize = entries.iter().flatten().map(|entry| entry.to_string().len()).sum();
        assert!(bytes <= limit, "{bytes} bytes");
        assert_eq!(entries[1].len(), 2 * entries[0].len(), "delivered and viewed of each");
        let ids = page.message_ids();
        last = ids[0].clone();
        assert_eq!(json["more"], last != "m-0");
        read.splice(0..0, ids);
        if json["more"] == false {
            break;
        }
    }
    assert_eq!(read, ids);
}

#[tokio::test]
async fn a_cursor_with_an_unknown_id_is_named() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    talk(&alice, &bob, 3, 10).await;
    delivers(&alice, &bob, 3).await;
    let report = alice.reports().await[0]["ID"].as_str().unwrap().to_owned();
    let other = format!("{}ffffffffffff", &report[..24]);
    for (message, of_reports, unknown) in [
        ("", "", None),
        ("m-1", &*report, None),
        ("m-1", &*report.replace('-', ""), None),
        ("M-1", &*report, Some(json!(["message"]))),
        ("m-1", &*other, Some(json!(["report"]))),
        ("m-1", "no-report", Some(json!(["report"]))),
        ("nothing", &*other, Some(json!(["message", "report"]))),
    ] {
        for date in ["", DATE] {
            for (action, which) in [("download", "first"), ("downloadpartial", "last")] {
                let fields = json!({
                    format!("{which}messageid"): message, format!("{which}messagedate"): date,
                    format!("{which}reportid"): of_reports, format!("{which}reportdate"): date,
                });
                let before = alice.does(action, fields.clone()).await.ok();
                assert_eq!(before.get("unknowncursor"), None);
                let page = alice.extends(action, fields).await;
                assert_eq!(page.ok().get("unknowncursor"), unknown.as_ref(), "{}", page.text);
                if let Some(unknown) = &unknown {
                    let end = format!(r#"],"unknowncursor":{unknown},"more":false}}"#);
                    assert!(page.text.ends_with(&end), "{}", page.text);
                }
            }
        }
    }
    alice.clears().await.ok();
    let cleared = alice.extends("download", json!({ "firstmessageid": "m-1" })).await.ok();
    assert_eq!(cleared["unknowncursor"], json!(["message"]), "the ID of an earlier instance");
}

#[tokio::test]
async fn more_is_true_where_a_limit_of_the_server_ended_the_page() {
    let world = World::with(&[("limits.download_messages", "4")]).await;
    let (alice, bob) = world.alice_and_bob().await;
    talk(&alice, &bob, 60, 10).await;
    let never = "9999-01-01 00:00:00";
    for (action, fields, more) in [
        ("download", json!({}), true),
        ("download", json!({ "firstmessageid": "m-56", "firstreportdate": never }), false),
        ("download", json!({ "firstmessageid": "m-55", "firstreportdate": never }), true),
        // Without a `limit` the server's is 50.
        ("downloadpartial", json!({}), true),
        ("downloadpartial", json!({ "lastmessageid": "m-50" }), false),
        ("downloadpartial", json!({ "lastmessageid": "m-51" }), true),
        // A page that the client's own `limit` ended has as many messages as requested.
        ("downloadpartial", json!({ "limit": 10 }), false),
        ("downloadpartial", json!({ "limit": 500 }), false),
        ("downloadpartial", json!({ "limit": 501 }), false),
    ] {
        let page = alice.extends(action, fields.clone()).await;
        assert_eq!(page.ok()["more"], more, "{action} {fields}");
    }
    bob.reports_as("viewed", &["m-0", "m-2", "m-4", "m-6"]).await.ok();
    let only_reports = json!({ "firstmessagedate": never });
    assert_eq!(alice.extends("download", only_reports).await.ok()["more"], true);
}

#[tokio::test]
async fn more_is_true_where_the_largest_limit_ended_the_page() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let instance = alice.instance().await;
    let sending = (0..501).map(|n| {
        let message = message_with_id(&format!("m-{n}"), "", DATE);
        alice.does("add", json!({ "instance": instance, "message": message }))
    });
    futures_util::future::join_all(sending).await;
    for (limit, more) in [(500, false), (501, true), (10_000, true)] {
        let page = bob.extends("downloadpartial", json!({ "limit": limit })).await;
        assert_eq!((page.message_ids().len(), &page.ok()["more"]), (500, &json!(more)), "{limit}");
        let before = bob.does("downloadpartial", json!({ "limit": limit })).await;
        assert_eq!(before.ok().get("more"), None);
    }
}

#[tokio::test]
async fn a_first_extended_page_reports_its_messages_as_delivered() {
    for (action, characters) in [("download", 10), ("downloadpartial", 10), ("download", 90_000)] {
        let world = World::start().await;
        let (alice, bob) = world.alice_and_bob().await;
        talk(&alice, &bob, 4, characters).await;
        bob.extends(action, json!({})).await.ok();
        let expected = ["m-0", "m-2"].map(|id| ("delivered".to_owned(), id.to_owned()));
        until("they are delivered", async || alice.told().await == expected).await;
    }
}

#[tokio::test]
async fn an_instance_that_has_ended_is_refused_as_ever() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.sends("before").await;
    let old = alice.instance().await;
    bob.clears().await.ok();
    for action in ["download", "downloadpartial"] {
        let refused = alice.extends(action, json!({ "instance": old })).await;
        refused.refused(409, "instance_changed");
        assert_eq!(refused.conversation(), alice.sees().await);
    }
}
