//! The command line, as operators use it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use chatserver::domain::ApiKey;
use serde_json::{Value, json};

use crate::harness::openssl::SealedKey;
use crate::harness::person::Person;
use crate::harness::process::{Process, Workplace};
use crate::harness::world::until;

/// Adds a user and returns the printed object.
fn add(place: &Workplace, nick: &str) -> Value {
    let email = format!("{}@example.com", nick.to_lowercase());
    place.tells(&["user", "add", &email, "--nick", nick, "--fullname", &format!("Ozeki {nick}")])
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Returns the sealed key that login gives this user, with the password that opens it.
async fn sealed_key(server: &Process, told: &Value) -> SealedKey {
    let login = Person::added(told, server.address).logs_in().await.ok();
    SealedKey::of(&login, text(&told["encryptionpassword"]))
}

/// Returns the names of the subcommands that a help text lists.
fn commands(help: &str) -> Vec<String> {
    let listed = help.split_once("Commands:\n").map_or("", |(_, listed)| listed);
    let lines = listed.lines().take_while(|line| line.starts_with("  "));
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !["", "help"].contains(name)).map(str::to_owned).collect()
}

#[test]
fn every_command_explains_itself_with_an_example() {
    let place = Workplace::new();
    let mut known = BTreeSet::new();
    let mut left = vec![Vec::new()];
    while let Some(command) = left.pop() {
        let arguments: Vec<_> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let output = place.runs(&arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.contains("Example"), "{arguments:?}: {help}");
        for name in commands(&help) {
            left.push([&command[..], &[name]].concat());
        }
        known.insert(command.join(" "));
    }
    let all = [
        "",
        "admin",
        "admin link",
        "audit",
        "backup",
        "backup verify",
        "check-config",
        "client",
        "client conversations",
        "client friends",
        "client friends accept",
        "client friends add",
        "client friends decline",
        "client friends list",
        "client friends remove",
        "client friends requests",
        "client listen",
        "client login",
        "client open",
        "client presence",
        "client presence set",
        "client presence show",
        "client read",
        "client seal",
        "client send",
        "compact",
        "conversation",
        "conversation retention",
        "copy",
        "demo",
        "doctor",
        "epoch",
        "epoch new",
        "friend",
        "friend add",
        "friend list",
        "friend remove",
        "health",
        "keys",
        "keys drop",
        "keys rotate",
        "keys status",
        "migrate",
        "openapi",
        "restore",
        "retention",
        "serve",
        "sign",
        "station",
        "station list",
        "station revoke",
        "usage",
        "user",
        "user add",
        "user delete",
        "user disable",
        "user enable",
        "user export",
        "user import",
        "user invitations",
        "user invite",
        "user list",
        "user rotate-key",
        "user set",
        "user show",
        "user uninvite",
        "workspace",
        "workspace list",
    ];
    assert_eq!(known, all.map(str::to_owned).into());
    let version = place.runs(&["--version"]);
    let expected = format!("chatserver {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(version.stdout).unwrap(), expected);
}

#[test]
fn wrong_arguments_are_reported_on_stderr() {
    let place = Workplace::new();
    for (arguments, told) in [
        (&[][..], "Usage"),
        (&["frobnicate"], "frobnicate"),
        (&["user"], "Usage"),
        (&["user", "add"], "<EMAIL>"),
        (&["user", "add", "a@b", "--nick"], "--nick"),
        (&["user", "set", "a@b"], "--nick"),
        (&["user", "list", "--frobnicate"], "--frobnicate"),
        (&["friend", "add", "a@b"], "<OTHER>"),
    ] {
        let error = place.fails(arguments);
        assert!(error.contains(told), "{arguments:?}: {error}");
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "nothing was created");
}

#[tokio::test]
async fn adding_a_user_prints_everything_that_a_client_needs() {
    let place = Workplace::new();
    let told = place.tells(&["user", "add", " Alice@Example.com ", "--nick", "Alice"]);
    let names: Vec<_> = told.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["userid", "email", "apikey", "encryptionpassword"]);
    assert_eq!(told["email"], "alice@example.com");
    // md5("alice@example.com")
    assert_eq!(told["userid"], "c160f8cc69a4f0bf2b0362752353d060");
    let other = add(&place, "Bob");
    for secret in ["apikey", "encryptionpassword"] {
        let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        let value = text(&told[secret]);
        // 64 digits of 4 bits are 256 bits. The weak key derivation needs at least 128.
        assert!(value.len() == 64 && value.chars().all(is_hex), "{secret} {value}");
        assert_ne!(told[secret], other[secret]);
    }
    assert_ne!(told["apikey"], told["encryptionpassword"]);

    let server = place.serves(&[]).await;
    let key = sealed_key(&server, &told).await;
    let shown = place.tells(&["user", "show", "alice@example.com"]);
    assert_eq!(key.public().as_deref(), shown["publickey"].as_str());
    let wrong = json!({ "encryptionpassword": "wrong", "email": told["email"],
                        "userid": told["userid"], "apikey": told["apikey"] });
    assert_eq!(sealed_key(&server, &wrong).await.public(), None);
    for (name, expected) in [("text", false), ("json", true)] {
        let arguments = ["user", "show", "alice@example.com", "--json"];
        let output = place.runs(&arguments[..3 + usize::from(expected)]);
        let output = String::from_utf8(output.stdout).unwrap();
        assert!(output.contains("alice@example.com"), "{name}");
        assert_eq!(serde_json::from_str::<Value>(&output).is_ok(), expected, "{name}");
        assert!(!output.contains(text(&told["apikey"])), "the key is shown once");
    }
}

#[tokio::test]
async fn an_encryption_password_may_be_given() {
    let place = Workplace::new();
    let (first, second) = ("pässword with spaces & $igns", "from stdin '\"\\");
    fs::write(place.path().join("password"), format!("{first}\n")).unwrap();
    let option = "--encryption-password-file";
    let alice = place.tells(&["user", "add", "a@b.c", "--nick", "A", option, "password"]);
    assert_eq!(alice["encryptionpassword"], first);
    let arguments = ["user", "add", "b@b.c", "--nick", "B", option, "-", "--json"];
    let bob = place.runs_with(&arguments, second, &[]);
    let bob: Value = serde_json::from_slice(&bob.stdout).unwrap();
    assert_eq!(bob["encryptionpassword"], second);
    let server = place.serves(&[]).await;
    for told in [&alice, &bob] {
        assert!(sealed_key(&server, told).await.public().is_some(), "{told}");
    }
    for (content, problem) in [("abc", "bytes"), ("", "bytes"), ("two\nlines", "one line")] {
        fs::write(place.path().join("password"), content).unwrap();
        let error = place.fails(&["user", "add", "c@b.c", "--nick", "C", option, "password"]);
        assert!(error.contains(problem), "{content}: {error}");
        assert!(content.is_empty() || !error.contains(content), "{error}");
    }
    let error = place.fails(&["user", "add", "c@b.c", "--nick", "C", option, "nowhere"]);
    assert!(error.contains("nowhere") && error.contains(option), "{error}");
}

#[test]
fn a_wrong_user_argument_is_refused_by_name() {
    let place = Workplace::new();
    let alice = add(&place, "Alice");
    let error = place.fails(&["user", "add", "ALICE@example.com", "--nick", "Other"]);
    assert!(error.contains("alice@example.com"), "{error}");
    let long = "x".repeat(257);
    let wide = "\u{10348}".repeat(48);
    for (arguments, name) in [
        (["user", "add", "nobody", "--nick", "N", "--fullname", ""], "EMAIL"),
        (["user", "add", "a@b@c", "--nick", "N", "--fullname", ""], "EMAIL"),
        (["user", "add", "ä@b.c", "--nick", "N", "--fullname", ""], "EMAIL"),
        (["user", "add", "a@b.c", "--nick", " ", "--fullname", ""], "--nick"),
        (["user", "add", "a@b.c", "--nick", "a\nb", "--fullname", ""], "--nick"),
        (["user", "add", "a@b.c", "--nick", "\u{202e}evil", "--fullname", ""], "--nick"),
        (["user", "add", "a@b.c", "--nick", &long[..65], "--fullname", ""], "--nick"),
        (["user", "add", "a@b.c", "--nick", &wide, "--fullname", ""], "--nick"),
        (["user", "add", "a@b.c", "--nick", "N", "--fullname", &long], "--fullname"),
        (["user", "set", "alice@example.com", "--nick", "", "--fullname", "A"], "--nick"),
        (["user", "set", "alice@example.com", "--nick", "A", "--fullname", "\u{7}"], "--fullname"),
        (
            ["user", "set", "carol@example.com", "--nick", "A", "--fullname", ""],
            "carol@example.com",
        ),
    ] {
        let error = place.fails(&arguments);
        assert!(error.contains(name), "{arguments:?}: {error}");
    }
    for command in ["show", "disable", "enable", "rotate-key"] {
        for nobody in ["carol@example.com", "0123456789abcdef0123456789abcdef", "carol"] {
            let error = place.fails(&["user", command, nobody]);
            assert!(error.contains(nobody), "{command}: {error}");
        }
    }
    let users = place.tells(&["user", "list"]);
    assert_eq!(users["users"].as_array().unwrap().len(), 1);
    assert_eq!(users["users"][0]["userid"], alice["userid"]);
}

#[tokio::test]
async fn others_see_a_new_nick() {
    let place = Workplace::new();
    let (alice, bob) = (add(&place, "Alice"), add(&place, "Bob"));
    let made = place.tells(&["friend", "add", text(&alice["userid"]), "bob@example.com"]);
    let server = place.serves(&[]).await;
    let key = sealed_key(&server, &bob).await;
    let mut person = Person::added(&bob, server.address);
    text(&made["conversationid"]).clone_into(&mut person.conversation);
    let before = person.sees().await;
    assert_eq!(key.unwraps(&before["displayname"]), b"Alice");

    let nick = "  Ali\u{301}ce ✓ ";
    let set = place.tells(&["user", "set", text(&alice["userid"]), "--nick", nick]);
    // The nick is trimmed, and its accent composed (NFC).
    let nick = "Al\u{ed}ce ✓";
    assert_eq!((&set["nick"], &set["fullname"]), (&json!(nick), &json!("Ozeki Alice")));
    let after = person.sees().await;
    assert_eq!(key.unwraps(&after["displayname"]), nick.as_bytes());
    assert_eq!(key.unwraps(&after["secret"]), key.unwraps(&before["secret"]));
    assert_eq!(
        after["participants"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["username"] == nick)
            .count(),
        1
    );

    let set = place.tells(&["user", "set", "alice@example.com", "--fullname", "Alice Example"]);
    assert_eq!((&set["nick"], &set["fullname"]), (&json!(nick), &json!("Alice Example")));
    let users = place.tells(&["user", "list"]);
    assert_eq!(users["users"][0], set);
    assert_eq!(users["users"][1], place.tells(&["user", "show", text(&bob["userid"])]));
}

/// Waits until this person's signatures are refused. The test `signatures::a_disabled_user_is_refused_when_the_cached_key_expires`
/// shows how long that takes, with a clock of its own.
async fn is_refused(person: &Person) {
    until("the signature is refused", async || person.asks("list", json!({})).await.status == 401)
        .await;
}

#[tokio::test]
async fn a_running_server_notices_rotated_keys_and_disabled_users() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let [alice, bob, carol] = ["Alice", "Bob", "Carol"].map(|nick| place.adds(&server, nick));
    for person in [&alice, &bob, &carol] {
        person.asks("list", json!({})).await.ok();
    }
    let key_before = alice.logs_in().await.ok()["rsakey"].clone();
    let new_key = |person: &Person, name: &str| {
        let told = place.tells(&["user", "rotate-key", name]);
        assert_eq!(told["email"], person.email.as_str());
        let api_key: ApiKey = chatserver::domain::Parse::parse(text(&told["apikey"])).unwrap();
        assert_ne!(api_key.as_str(), person.api_key.as_str());
        person.with_key(api_key)
    };
    let alice_after = new_key(&alice, alice.user.as_str());
    let bob_after = new_key(&bob, &bob.email);
    assert_eq!(place.tells(&["user", "disable", &carol.email])["disabled"], true);

    bob_after.asks("list", json!({})).await.ok();
    assert_eq!(alice_after.logs_in().await.ok()["rsakey"], key_before);
    alice.logs_in().await.refused(401, "invalid_credentials");
    carol.logs_in().await.refused(401, "invalid_credentials");
    tokio::join!(is_refused(&alice), is_refused(&carol));
    alice_after.asks("list", json!({})).await.ok();
    assert_eq!(place.tells(&["user", "enable", carol.user.as_str()])["disabled"], false);
    carol.asks("list", json!({})).await.ok();
    carol.logs_in().await.ok();
}

#[tokio::test]
async fn a_conversation_survives_the_end_of_a_friendship() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (mut alice, mut bob) = (place.adds(&server, "Alice"), place.adds(&server, "Bob"));
    place.adds(&server, "Carol");
    place.befriends(&mut alice, &mut bob);
    alice.sends("hi").await;
    // By user id, in reverse order, and a second time.
    let again = place.tells(&["friend", "add", bob.user.as_str(), alice.user.as_str()]);
    assert_eq!(again["conversationid"], alice.conversation);
    for user in [None, Some(bob.email.as_str()), Some(alice.user.as_str())] {
        let arguments: Vec<_> = ["friend", "list"].into_iter().chain(user).collect();
        let listed = place.tells(&arguments);
        let [friendship] = &listed["friendships"].as_array().unwrap()[..] else {
            panic!("{listed}");
        };
        assert_eq!(friendship["conversationid"], alice.conversation);
        let emails: BTreeSet<_> =
            friendship["emails"].as_array().unwrap().iter().map(text).collect();
        assert_eq!(emails, [alice.email.as_str(), &bob.email].into());
    }
    assert_eq!(place.tells(&["friend", "list", "carol@example.com"]), json!({ "friendships": [] }));

    assert_eq!(
        place.tells(&["friend", "remove", bob.user.as_str(), &alice.email])["removed"],
        true
    );
    assert_eq!(place.tells(&["friend", "remove", &alice.email, &bob.email])["removed"], false);
    assert_eq!(place.tells(&["friend", "list"]), json!({ "friendships": [] }));
    let message = crate::harness::person::message("hello?", &alice.date());
    alice.adds(&message).await.refused(403, "not_friends");
    assert_eq!(bob.reads().await, ["hi"]);

    let once_more = place.tells(&["friend", "add", &alice.email, &bob.email]);
    assert_eq!(once_more["conversationid"], alice.conversation);
    alice.adds(&message).await.ok();
    assert_eq!(bob.reads().await, ["hi", "hello?"]);
    for (one, other, named) in [
        ("alice@example.com", "alice@example.com", "two different"),
        ("alice@example.com", "dave@example.com", "dave@example.com"),
        ("nobody", "alice@example.com", "nobody"),
    ] {
        let error = place.fails(&["friend", "add", one, other]);
        assert!(error.contains(named), "{error}");
    }
    let error = place.fails(&["friend", "remove", &alice.email, "dave@example.com"]);
    assert!(error.contains("dave@example.com"), "{error}");
}

#[test]
fn sign_writes_the_signature_of_openssl() {
    let place = Workplace::new();
    let (user, station) = ("d574638619cbff603bf857164c47e850", "0123456789abcdef".repeat(2));
    let key = "d040b0a1".repeat(8);
    let line = r#"printf 'chatserver\n%s\n%s\n%s\n%s' "$API" "$USERID" "$STATION" "$BODY" | openssl dgst -sha256 -hmac "$APIKEY" -r | cut -c1-64"#;
    for body in [r#"{"action":"list"}"#, "", "{\"a\":\n\"é ✓ %s \\\\ \"}", " trailing\t "] {
        for (api, station) in [("workspace", ""), ("chatconversation", station.as_str())] {
            let mut shell = Command::new("sh");
            shell.args(["-c", line]);
            shell.envs([("USERID", user), ("STATION", station), ("BODY", body), ("APIKEY", &key)]);
            shell.env("API", api);
            let expected = shell.output().unwrap();
            assert!(expected.status.success() && expected.stdout.len() == 65, "{expected:?}");
            for name in [user, "Admin@Ozeki.hu"] {
                let mut arguments = vec!["sign", "--user", name, "--api", api];
                if !station.is_empty() {
                    arguments.extend(["--station", station]);
                }
                let environment = [("CHATSERVER_APIKEY", key.as_str())];
                let signed = place.runs_with(&arguments, body, &environment);
                assert_eq!(signed.stdout, expected.stdout, "{arguments:?}: {signed:?}");
                arguments.push("--json");
                let told = place.runs_with(&arguments, body, &environment);
                let told: Value = serde_json::from_slice(&told.stdout).unwrap();
                let signature = String::from_utf8(signed.stdout).unwrap();
                assert_eq!(told, json!({ "signature": signature.trim_end() }));
            }
        }
    }
}

#[test]
fn sign_names_the_missing_or_wrong_argument() {
    let place = Workplace::new();
    let key = "d040b0a1".repeat(8);
    let station = "0123456789abcdef".repeat(2);
    let arguments =
        |user, station| ["sign", "--api", "chatfriends", "--user", user, "--station", station];
    let error = place.fails(&arguments("admin@ozeki.hu", &station));
    assert!(error.contains("CHATSERVER_APIKEY"), "{error}");
    let error = place.fails(&["sign", "--api", "chatfriends", "--user", "admin@ozeki.hu"]);
    assert!(error.contains("--station is missing"), "{error}");
    for (user, station, key, named) in [
        ("admin@ozeki.hu", station.as_str(), "too-short", "CHATSERVER_APIKEY"),
        ("admin@ozeki.hu", "short", key.as_str(), "--station"),
        ("nobody", station.as_str(), key.as_str(), "--user"),
    ] {
        let arguments = arguments(user, station);
        let output = place.runs_with(&arguments, "{}", &[("CHATSERVER_APIKEY", key)]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(output.stdout.is_empty() && error.contains(named), "{error}");
        assert!(!error.contains("too-short"), "a wrong key may be nearly right");
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "signing needs no database");
}
