//! Workspaces, as owners register them and operators list them.

use futures_util::future::join_all;
use serde_json::json;

use crate::harness::process::Workplace;
use crate::harness::world::World;

/// Returns all workspaces as pairs of name and owner.
async fn registered(world: &World) -> Vec<(String, String)> {
    let workspaces = world.app().store.workspaces().await.unwrap();
    workspaces.into_iter().map(|one| (one.name, one.email.as_str().to_owned())).collect()
}

#[tokio::test]
async fn a_workspace_belongs_to_the_first_user_who_registers_it() {
    let world = World::start().await;
    let (alice, bob) = (world.person("Alice").await, world.person("Bob").await);
    let register = alice.prepares_to_register("Alice.Ozeki.Chat");
    let first = register.sent().await;
    assert_eq!(first.text, r#"{"status":"OK","errormessage":""}"#);
    // The same bytes are no replay, and the case of a name does not matter.
    assert_eq!(register.sent().await.text, first.text);
    assert_eq!(alice.registers("alice.ozeki.chat").await.text, first.text);
    for name in ["alice.ozeki.chat", "ALICE.ozeki.chat"] {
        let taken = bob.registers(name).await.refused(409, "workspace_taken");
        assert_eq!(taken["errormessage"], "the workspace belongs to another user");
    }
    bob.registers("bob.ozeki.chat").await.ok();
    let expected = [("alice.ozeki.chat", &alice.email), ("bob.ozeki.chat", &bob.email)];
    let expected = expected.map(|(name, email)| (name.to_owned(), email.clone()));
    assert_eq!(registered(&world).await, expected);
}

#[tokio::test]
async fn a_workspace_name_is_a_dns_name() {
    let world = World::start().await;
    let alice = world.person("Alice").await;
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", &label[..61]);
    assert_eq!(longest.len(), 253);
    let right = ["a.b", "0.1", "a-b.c--d", "xn--bcher-kva.example", "a.b.c.d.e.f", &longest];
    for name in right {
        alice.registers(name).await.ok();
    }
    let mut expected = right.map(str::to_owned);
    expected.sort();
    let names: Vec<_> = registered(&world).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, expected);
    for wrong in [
        "alice",
        ".",
        "a.",
        ".a",
        "a..b",
        "a.b.",
        "-a.b",
        "a-.b",
        "a.-b",
        "a.b-",
        "a_b.c",
        "a b.c",
        " a.b",
        "a.b\n",
        "\u{e4}.b",
        "a.b/c",
        &format!("{label}a.b"),
        &format!("{longest}a"),
        &format!("a.{longest}"),
    ] {
        let refused = alice.registers(wrong).await.refused(400, "invalid_field");
        let sentence = refused["errormessage"].as_str().unwrap();
        assert!(sentence.starts_with("workspacename must be a DNS name"), "{wrong}: {sentence}");
    }
    assert_eq!(registered(&world).await.len(), right.len());
}

#[tokio::test]
async fn station_and_timestamp_are_optional_but_checked_if_present() {
    let world = World::with(&[("limits.failures_per_minute", "0")]).await;
    let alice = world.person("Alice").await;
    let (srv, api) = ("chatowner", "workspace");
    let body = json!({ "action": "workspaceregister", "workspacename": "alice.ozeki.chat" });
    let with = |name: &str, value: &str| {
        let mut body = body.clone();
        body[name] = json!(value);
        body
    };
    let bare = alice.prepares_without_station(srv, api, &body);
    bare.sent().await.ok();
    bare.sent().await.ok();
    alice.prepares_bytes_for(srv, api, body.to_string().into_bytes()).sent().await.ok();
    for (date, is_fresh) in
        [("", true), ("2024-03-08 12:05:00", true), ("2024-03-08 12:05:01", false)]
    {
        let dated = alice.prepares_without_station(srv, api, &with("timestamp", date));
        let answer = dated.sent().await;
        if is_fresh {
            answer.ok();
        } else {
            answer.refused(401, "timestamp_out_of_range");
        }
    }
    let dated = alice.prepares_without_station(srv, api, &with("timestamp", "now"));
    dated.sent().await.refused(400, "invalid_field");

    for spoiled in [
        bare.clone().with_header("ozeki-station", alice.station.as_str()),
        bare.clone().with_header("ozeki-station", ""),
        bare.clone().with_header("ozeki-station", "here"),
        bare.clone().without_header("ozeki-user"),
        bare.clone().without_header("ozeki-signature"),
        alice.prepares_to_register("alice.ozeki.chat").without_header("ozeki-station"),
    ] {
        spoiled.sent().await.refused(401, "invalid_signature");
    }
    // A signature for another service is not valid for this one.
    let mut other = alice.prepares_bytes(api, bare.body.clone());
    assert_ne!(other.url, bare.url);
    other.sent().await.refused(404, "unknown_api");
    other.url.clone_from(&bare.url);
    other.sent().await.refused(401, "invalid_signature");
    // The other APIs require a station.
    let body = json!({ "action": "list", "timestamp": alice.date() });
    let list = alice.prepares_without_station("chatserver", "chatfriends", &body);
    list.sent().await.refused(401, "invalid_signature");
}

#[tokio::test]
async fn concurrent_registrations_give_a_name_to_one_user() {
    let world = World::start().await;
    let (alice, bob) = (world.person("Alice").await, world.person("Bob").await);
    for round in 0..20 {
        let name = format!("workspace-{round}.ozeki.chat");
        let (first, second) = tokio::join!(alice.registers(&name), bob.registers(&name));
        let [winner, loser] = if first.status == 200 { [first, second] } else { [second, first] };
        winner.ok();
        loser.refused(409, "workspace_taken");
    }
    assert_eq!(registered(&world).await.len(), 20);
}

#[tokio::test]
async fn a_user_can_own_at_most_a_hundred_workspaces() {
    let world = World::start().await;
    let (alice, bob) = (world.person("Alice").await, world.person("Bob").await);
    let names: Vec<_> = (0..100).map(|n| format!("{n}.ozeki.chat")).collect();
    for registered in join_all(names.iter().map(|name| alice.registers(name))).await {
        registered.ok();
    }
    let refused = alice.registers("more.ozeki.chat").await;
    refused.refused(429, "rate_limited");
    assert!(refused.headers.contains_key("retry-after"));
    alice.registers(&names[99]).await.ok();
    bob.registers("more.ozeki.chat").await.ok();
    alice.registers("more.ozeki.chat").await.refused(409, "workspace_taken");
}

#[tokio::test]
async fn operators_list_workspaces() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = (place.adds(&server, "Alice"), place.adds(&server, "Bob"));
    assert_eq!(place.tells(&["workspace", "list"]), json!({ "workspaces": [] }));
    let nothing = place.runs(&["workspace", "list"]);
    assert!(nothing.status.success() && nothing.stdout.is_empty(), "{nothing:?}");
    let before = alice.date();
    bob.registers("z.ozeki.chat").await.ok();
    alice.registers("Alice.ozeki.chat").await.ok();
    let after = alice.date();
    let listed = place.tells(&["workspace", "list"]);
    let listed = listed["workspaces"].as_array().unwrap();
    for (one, person, name) in
        [(&listed[0], &alice, "alice.ozeki.chat"), (&listed[1], &bob, "z.ozeki.chat")]
    {
        let keys: Vec<_> = one.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["name", "owner", "userid", "registered"]);
        assert_eq!((&one["name"], &one["owner"]), (&json!(name), &json!(person.email)));
        assert_eq!(one["userid"], person.user.as_str());
        let at = one["registered"].as_str().unwrap();
        assert!((before.as_str()..=after.as_str()).contains(&at), "{before} {at} {after}");
    }
    let text = String::from_utf8(place.runs(&["workspace", "list"]).stdout).unwrap();
    assert_eq!(text, "alice.ozeki.chat alice@example.com\nz.ozeki.chat bob@example.com\n");
}
