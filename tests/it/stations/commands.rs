//! Commands with which operators list and revoke stations.

use serde_json::{Value, json};

use crate::harness::person::Person;
use crate::harness::process::Workplace;
use crate::harness::world::until;
use crate::harness::ws_client::WsClient;

fn listed(place: &Workplace, arguments: &[&str]) -> Vec<(String, String)> {
    let told = place.tells(&[&["station", "list"], arguments].concat());
    assert_eq!(told.as_object().unwrap().len(), 1);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let stations = told["stations"].as_array().unwrap().iter();
    stations.map(|station| (text(&station["email"]), text(&station["stationid"]))).collect()
}

fn pair(person: &Person) -> (String, String) {
    (person.email.clone(), person.station.as_str().to_owned())
}

#[tokio::test]
async fn stations_are_listed_by_user_and_use() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    assert_eq!(listed(&place, &[]), []);
    assert!(place.runs(&["station", "list"]).stdout.is_empty());
    bob.lists().await;
    alice.lists().await;
    let before = alice.date();
    until("a second has passed", async || alice.date() > before).await;
    let elsewhere = alice.elsewhere();
    elsewhere.logs_in().await.ok();
    let alices = [pair(&elsewhere), pair(&alice)];
    assert_eq!(listed(&place, &[]), [&alices[..], &[pair(&bob)]].concat());
    assert_eq!(listed(&place, &[&alice.email]), alices);
    assert_eq!(listed(&place, &[bob.user.as_str()]), [pair(&bob)]);
    let output = place.runs(&["station", "list", &bob.email]);
    let line = String::from_utf8(output.stdout).unwrap();
    let told = place.tells(&["station", "list", &bob.email]);
    let station = &told["stations"][0];
    let names: Vec<_> = station.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["email", "stationid", "bound", "used"]);
    let date = |name: &str| station[name].as_str().unwrap();
    let (bound, used) = (date("bound"), date("used"));
    assert_eq!(
        line,
        format!("{} {} bound {bound}, used {used}\n", bob.email, bob.station.as_str())
    );
    let error = place.fails(&["station", "list", "nobody@example.com"]);
    assert!(error.contains("nobody@example.com"), "{error}");
}

#[tokio::test]
async fn a_revoked_station_starts_over() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let everything = alice.is_notified().await;
    let elsewhere = alice.elsewhere();
    elsewhere.is_notified().await;
    bob.lists().await;
    let revoke = ["station", "revoke", &alice.email, alice.station.as_str()];
    for signed in [true, false] {
        alice.polls_unsigned().await.ok();
        assert_eq!(place.tells_meanwhile(&revoke).await, json!({ "revoked": true }));
        alice.polls_unsigned().await.refused(401, "invalid_signature");
        elsewhere.polls_unsigned().await.ok();
        bob.polls_unsigned().await.ok();
        if signed {
            assert_eq!(alice.is_notified().await, everything, "everything is new again");
        } else {
            alice.logs_in().await.ok();
            assert_eq!(alice.is_notified().await, everything);
        }
        assert!(alice.is_notified().await.is_empty());
    }
    let mut listener = alice.listens().await;
    assert_eq!(place.tells_meanwhile(&revoke).await, json!({ "revoked": true }));
    assert_eq!(listener.is_closed().await, Some(4003), "its listener ends");
    assert_eq!(place.tells(&revoke), json!({ "revoked": false }));
    let mut listener = alice.listens().await;
    let told = listener.takes().await;
    assert_eq!((told.friends, told.lists), (everything.friends, everything.lists));
}

#[tokio::test]
async fn revoking_reports_what_it_did() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    alice.lists().await;
    let station = alice.station.as_str();
    let told = |arguments: &[&str]| {
        let output = place.runs(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let nothing = "the user had no such station\n";
    assert_eq!(told(&["station", "revoke", &bob.email, station]), nothing, "it is not Bob's");
    let revoked = told(&["station", "revoke", &alice.email, station]);
    assert!(revoked.starts_with("the station is revoked. Its next login"), "{revoked}");
    let rotate = format!(": chatserver user rotate-key {}\n", alice.email);
    assert!(revoked.ends_with(&rotate), "{revoked}");
    assert_eq!(told(&["station", "revoke", &alice.email, station]), nothing);
    for (user, station, expected) in [
        ("nobody@example.com", station, "nobody@example.com"),
        (&alice.email, "0123", "STATION"),
        (&alice.email, &station.to_uppercase().replace(char::is_numeric, "A"), "STATION"),
    ] {
        let error = place.fails(&["station", "revoke", user, station]);
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn the_log_contains_no_station() {
    let place = Workplace::new();
    let mut server = place.serves(&[("CHATSERVER_LOG__FILTER", "trace")]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let elsewhere = alice.elsewhere();
    alice.logs_in().await.ok();
    alice.sends("hi").await;
    alice.polls_unsigned().await.ok();
    drop(alice.listens().await);
    drop(bob.listens().await);
    elsewhere.polls_unsigned().await.refused(401, "invalid_signature");
    let mut forged = elsewhere.prepares("chatconversation", "list", &json!({}));
    forged.body.push(b' ');
    forged.sent().await.refused(401, "invalid_signature");
    place.tells(&["station", "revoke", &alice.email, alice.station.as_str()]);
    let mut stale = elsewhere.subscription();
    stale["timestamp"] = json!("2024-03-08 12:00:00");
    let mut listener = WsClient::opens(server.address).await;
    listener.says(&stale).await;
    listener.is_closed().await;
    server.signal("TERM");
    assert!(server.ended().await.success());
    let log = place.log();
    assert!(log.contains("chatlistener") && log.contains("chatnotification"), "{log}");
    for person in [&alice, &bob, &elsewhere] {
        assert!(!log.contains(person.station.as_str()), "{log}");
    }
}
