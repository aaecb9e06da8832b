//! How friendships begin and end.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::changes::ChangeLog;
use crate::harness::friends::{NONE, id_of, incoming, outgoing, request_transcript};
use crate::harness::openssl::SealedKey;
use crate::harness::person::{Person, message};
use crate::harness::world::World;

/// Returns the parts of conversations that survive the end of a friendship.
fn kept(conversations: &[Value]) -> Vec<[Value; 4]> {
    let names = ["id", "instance", "secret", "lastmessageid"];
    conversations.iter().map(|one| names.map(|name| one[name].clone())).collect()
}

#[tokio::test]
async fn an_accepted_request_makes_friends_with_a_conversation() {
    let world = World::start().await;
    let alice = world.person("Alice").await;
    let bob = world.person_at("bob@example.com", "B\"ob ✓").await;
    for name in [bob.email.as_str(), bob.user.as_str(), &format!(" {} ", bob.email.to_uppercase())]
    {
        let asked = alice.wants(name).await;
        assert_eq!(asked.text, r#"{"status":"OK","errormessage":""}"#);
        assert_eq!(alice.requests().await, [json!([]), outgoing(bob.user.as_str())]);
        assert_eq!(bob.requests().await, [incoming(&alice, "Alice"), json!([])]);
    }
    assert_eq!((alice.friends().await, bob.friends().await), (json!({}), json!({})));
    assert_eq!(alice.lists().await, Vec::<Value>::new());

    bob.accepts(&alice).await.ok();
    assert_eq!(alice.friends().await, json!({ bob.user.as_str(): "B\"ob ✓" }));
    alice.talks_with(&bob).await;
    let mut secrets = Vec::new();
    for (person, other, nick) in [(&alice, &bob, "B\"ob ✓"), (&bob, &alice, "Alice")] {
        let key = SealedKey::of(&person.logs_in().await.ok(), person.password.as_str());
        let seen = person.with(other).sees().await;
        assert_eq!(key.unwraps(&seen["displayname"]), nick.as_bytes());
        secrets.push(key.unwraps(&seen["secret"]));
    }
    assert_eq!((secrets[0].len(), &secrets[0]), (32, &secrets[1]));
}

#[tokio::test]
async fn a_request_shows_the_nick_of_the_sender_but_not_of_the_recipient() {
    let world = World::start().await;
    let bob = world.person("Bob").await;
    let mut askers = Vec::new();
    for nick in ["Quo\"te\\ é ✓", "Alice", "Zoe"] {
        let asker = world.person_at(&format!("{}@example.com", askers.len()), nick).await;
        asker.wants(&bob.email).await.ok();
        assert_eq!(asker.requests().await[1], outgoing(bob.user.as_str()));
        askers.push((asker.user.to_string(), nick));
    }
    askers.sort();
    let shown = askers.iter().map(|(id, nick)| json!({ "userid": id, "nick": nick }));
    assert_eq!(bob.requests().await, [shown.collect(), json!([])]);
    for (id, _) in &askers {
        bob.wants("0@example.org").await.ok();
        bob.wants(id).await.ok();
    }
    assert_eq!(bob.requests().await, [json!([]), outgoing(&id_of("0@example.org"))]);
}

#[tokio::test]
async fn a_wrong_recipient_of_a_request_is_refused_by_field() {
    let world = World::start().await;
    let alice = world.person("Alice").await;
    for wrong in [
        alice.email.as_str(),
        " ALICE@example.com",
        alice.user.as_str(),
        &alice.user.as_str().to_uppercase(),
        "nobody",
        "a@b@c",
        "\u{e4}@example.com",
    ] {
        let refused = alice.wants(wrong).await.refused(400, "invalid_field");
        let sentence = "friend must be the e-mail address or the user id of another user";
        let said = refused["errormessage"].as_str().unwrap();
        if wrong.is_ascii() {
            assert_eq!(said, sentence, "{wrong}");
        } else {
            assert!(said.starts_with("friend ") && said.contains("ASCII"), "{said}");
        }
    }
    assert_eq!(alice.requests().await, NONE);
    for action in ["accept", "decline", "remove"] {
        let itself = json!({ "friendid": alice.user.as_str() });
        alice.asks_chatfriends(action, &itself).await.ok();
    }
    assert_eq!((alice.requests().await, alice.friends().await), (NONE, json!({})));
}

#[tokio::test]
async fn a_request_in_the_opposite_direction_accepts_the_first() {
    let world = World::start().await;
    let (alice, bob) = (world.person("Alice").await, world.person("Bob").await);
    alice.wants(&bob.email).await.ok();
    bob.wants(alice.user.as_str()).await.ok();
    alice.talks_with(&bob).await;
    let before = [kept(&alice.lists().await), kept(&bob.lists().await)];
    for (one, other) in [(&alice, &bob), (&bob, &alice)] {
        one.wants(&other.email).await.ok();
        one.accepts(other).await.ok();
        one.declines(other).await.ok();
        assert_eq!(one.requests().await, NONE);
    }
    assert_eq!([kept(&alice.lists().await), kept(&bob.lists().await)], before);
}

#[tokio::test]
async fn concurrent_mutual_requests_make_friends_once() {
    let world = World::start().await;
    for round in 0..24 {
        let email = |nick: &str| format!("{nick}{round}@example.com");
        let alice = world.person_at(&email("alice"), "Alice").await;
        let bob = world.person_at(&email("bob"), "Bob").await;
        let both = async || tokio::join!(alice.wants(&bob.email), bob.wants(&alice.email));
        match round % 3 {
            0 => {
                let (one, other) = both().await;
                one.ok();
                other.ok();
            }
            // Both ask twice.
            1 => {
                let ((one, other), (again, once_more)) = tokio::join!(both(), both());
                for answer in [one, other, again, once_more] {
                    answer.ok();
                }
            }
            // One has asked before. The other accepts in both possible ways at once.
            _ => {
                alice.wants(&bob.email).await.ok();
                let (one, other) = tokio::join!(bob.accepts(&alice), bob.wants(&alice.email));
                one.ok();
                other.ok();
            }
        }
        assert_eq!((alice.lists().await.len(), bob.lists().await.len()), (1, 1));
        alice.talks_with(&bob).await;
    }
}

#[tokio::test]
async fn a_withdrawn_request_can_not_be_accepted() {
    let world = World::start().await;
    for round in 0..12 {
        let email = |nick: &str| format!("{nick}{round}@example.com");
        let alice = world.person_at(&email("alice"), "Alice").await;
        let bob = world.person_at(&email("bob"), "Bob").await;
        alice.wants(&bob.email).await.ok();
        let (removed, accepted) =
            tokio::join!(alice.removes(bob.user.as_str()), bob.accepts(&alice));
        removed.ok();
        accepted.ok();
        // In either order, they are not friends in the end and no request is open.
        assert_eq!((alice.friends().await, bob.friends().await), (json!({}), json!({})));
        assert_eq!((alice.requests().await, bob.requests().await), (NONE, NONE));
    }
}

#[tokio::test]
async fn replayed_requests_acceptances_refusals_and_removals_change_nothing() {
    let world = World::start().await;
    let (alice, bob) = (world.person("Alice").await, world.person("Bob").await);
    let prepares = |person: &Person, action: &str, other: &Person| {
        let field = if action == "add" { "friend" } else { "friendid" };
        person.prepares("chatfriends", action, &json!({ field: other.user.as_str() }))
    };
    let ask = prepares(&alice, "add", &bob);
    let accept = prepares(&bob, "accept", &alice);
    let remove = prepares(&bob, "remove", &alice);
    let decline = prepares(&bob, "decline", &alice);
    for (done, friends) in [(&ask, 0), (&accept, 1), (&remove, 0)] {
        done.sent().await.ok();
        let replayed = done.sent().await;
        assert_eq!(replayed.refused(409, "replayed").get("conversation"), None);
        assert_eq!(alice.friends().await.as_object().unwrap().len(), friends);
    }
    // A replay undoes nothing that came later.
    for earlier in [&ask, &accept, &remove] {
        earlier.sent().await.refused(409, "replayed");
    }
    assert_eq!((alice.requests().await, alice.friends().await), (NONE, json!({})));
    alice.wants(&bob.email).await.ok();
    accept.sent().await.refused(409, "replayed");
    remove.sent().await.refused(409, "replayed");
    decline.sent().await.ok();
    decline.sent().await.refused(409, "replayed");

    // A request that had nothing to change was carried out, too, so its repetition is a replay.
    let (carol, dave) = (world.person("Carol").await, world.person("Dave").await);
    let early = prepares(&dave, "accept", &carol);
    early.sent().await.ok();
    carol.wants(&dave.email).await.ok();
    early.sent().await.refused(409, "replayed");
    assert_eq!(dave.requests().await, [incoming(&carol, "Carol"), json!([])]);
}

#[tokio::test]
async fn a_declined_user_does_not_learn_of_it() {
    let world = World::start().await;
    let (alice, bob) = (world.person("Alice").await, world.person("Bob").await);
    alice.wants(&bob.email).await.ok();
    let before = alice.sees_friends_and_requests().await;
    bob.declines(&alice).await.ok();
    bob.declines(&alice).await.ok();
    assert_eq!((bob.requests().await, &alice.sees_friends_and_requests().await), (NONE, &before));
    // A declined request can't be accepted by mistake.
    bob.accepts(&alice).await.ok();
    // Neither asking again nor withdrawing first becomes visible.
    alice.wants(&bob.email).await.ok();
    assert_eq!((bob.requests().await, &alice.sees_friends_and_requests().await), (NONE, &before));
    alice.removes(bob.user.as_str()).await.ok();
    assert_eq!(alice.requests().await, NONE);
    alice.wants(&bob.email).await.ok();
    assert_eq!((bob.requests().await, &alice.sees_friends_and_requests().await), (NONE, &before));

    // A user who declined can still ask for the friendship.
    bob.wants(&alice.email).await.ok();
    alice.talks_with(&bob).await;
    alice.removes(bob.user.as_str()).await.ok();
    alice.wants(&bob.email).await.ok();
    assert_eq!(bob.requests().await, [incoming(&alice, "Alice"), json!([])]);
}

#[tokio::test]
async fn withdrawing_a_declined_request_does_not_make_friends() {
    let world = World::start().await;
    let (alice, bob) = (world.person("Alice").await, world.person("Bob").await);
    alice.wants(&bob.email).await.ok();
    bob.declines(&alice).await.ok();
    alice.removes(bob.user.as_str()).await.ok();
    bob.wants(&alice.email).await.ok();
    assert_eq!((alice.friends().await, bob.friends().await), (json!({}), json!({})));
    assert_eq!(alice.requests().await, [incoming(&bob, "Bob"), json!([])]);
    alice.accepts(&bob).await.ok();
    alice.talks_with(&bob).await;
}

#[tokio::test]
async fn answers_do_not_reveal_whether_an_address_exists_or_has_declined() {
    let world = World::start().await;
    let (bob, carol, dave) =
        (world.person("Bob").await, world.person("Carol").await, world.person("Dave").await);
    world.disables(&dave).await;
    let unknown = request_transcript(&world, "nobody@example.com", async |_| {}).await;
    assert!(
        unknown.contains(r#"\"outgoing\":[{\"userid\":\"THE-OTHER\",\"nick\":\"\"}]"#),
        "{unknown}"
    );
    assert_eq!(unknown, request_transcript(&world, &bob.email, async |_| {}).await, "a user");
    let declined = request_transcript(&world, &carol.email, async |asker| {
        carol.declines(asker).await.ok();
    });
    assert_eq!(unknown, declined.await, "a user who declines");
    assert_eq!(
        unknown,
        request_transcript(&world, &dave.email, async |_| {}).await,
        "a disabled user"
    );
}

#[tokio::test]
async fn a_user_added_later_finds_earlier_requests() {
    let world = World::start().await;
    let alice = world.person("Alice").await;
    alice.wants("Bob@Example.com").await.ok();
    let bob = world.person("Bob").await;
    // For an address without a user, no change is recorded.
    assert_eq!(ChangeLog::of(&world).await.number_of(&bob).await, 0);
    assert_eq!(bob.requests().await, [incoming(&alice, "Alice"), json!([])]);
    assert_eq!(alice.requests().await, [json!([]), outgoing(bob.user.as_str())]);
    bob.accepts(&alice).await.ok();
    alice.talks_with(&bob).await;
}

#[tokio::test]
async fn at_most_two_hundred_requests_can_be_open() {
    let world = World::start().await;
    let (alice, bob) = (world.person("Alice").await, world.person("Bob").await);
    alice.wants(&bob.email).await.ok();
    let names: Vec<_> = (1..200).map(|n| format!("nobody-{n}@example.com")).collect();
    for asked in join_all(names.iter().map(|name| alice.wants(name))).await {
        asked.ok();
    }
    let before = alice.sees_friends_and_requests().await;
    let one_more = alice.prepares("chatfriends", "add", &json!({ "friend": "more@example.com" }));
    for _ in 0..2 {
        let refused = one_more.sent().await;
        refused.refused(429, "rate_limited");
        assert!(refused.headers.contains_key("retry-after"));
    }
    assert_eq!(alice.sees_friends_and_requests().await, before);
    alice.wants(&names[7]).await.ok();
    alice.removes(&id_of(&names[7])).await.ok();
    one_more.sent().await.ok();
    alice.wants("still-more@example.com").await.refused(429, "rate_limited");
    // An accepted request is no longer open, and accepting counts against no limit.
    let carol = world.person("Carol").await;
    carol.wants(&alice.email).await.ok();
    alice.wants(&carol.email).await.ok();
    assert_eq!(alice.requests().await[1].as_array().unwrap().len(), 200);
    bob.accepts(&alice).await.ok();
    alice.wants("still-more@example.com").await.ok();
    let ids: Vec<_> = alice.requests().await[1].as_array().unwrap().clone();
    assert_eq!(ids.len(), 200);
    assert!(ids.is_sorted_by_key(|one| one["userid"].as_str().unwrap().to_owned()));
}

#[tokio::test]
async fn at_most_two_hundred_requests_are_shown_to_the_recipient() {
    let world = World::start().await;
    let bob = world.person("Bob").await;
    let mut askers = Vec::new();
    for n in 0..201 {
        let asker = world.person_at(&format!("asker-{n}@example.com"), "Asker").await;
        asker.wants(&bob.email).await.ok();
        askers.push(asker);
    }
    askers.sort_by_key(|asker| asker.user);
    let shown = bob.requests().await[0].as_array().unwrap().clone();
    assert_eq!(shown.len(), 200);
    assert!(shown.iter().zip(&askers).all(|(one, asker)| one["userid"] == asker.user.as_str()));
    bob.declines(&askers[0]).await.ok();
    let shown = bob.requests().await[0].clone();
    assert_eq!(shown[199]["userid"], askers[200].user.as_str());
}

#[tokio::test]
async fn a_removed_friend_can_read_but_not_write() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    alice.sends("while we are friends").await;
    for _ in 0..2 {
        alice.removes(bob.user.as_str()).await.ok();
        assert_eq!((alice.friends().await, bob.friends().await), (json!({}), json!({})));
    }
    for person in [&alice, &bob] {
        assert_eq!(person.reads().await, ["while we are friends"]);
        person.adds(&message("hi", &world.clock.date())).await.refused(403, "not_friends");
        person.clears().await.refused(403, "not_friends");
    }
    // Renewed friends find their conversation unchanged.
    let before = kept(&alice.lists().await);
    bob.wants(&alice.email).await.ok();
    alice.accepts(&bob).await.ok();
    assert_eq!(kept(&alice.lists().await), before);
    bob.sends("again").await;
    assert_eq!(alice.reads().await, ["while we are friends", "again"]);
}

#[tokio::test]
async fn a_request_can_be_withdrawn() {
    let world = World::start().await;
    let (alice, bob) = (world.person("Alice").await, world.person("Bob").await);
    alice.wants(&bob.email).await.ok();
    // Only the asker can withdraw the request.
    bob.removes(alice.user.as_str()).await.ok();
    assert_eq!(bob.requests().await, [incoming(&alice, "Alice"), json!([])]);
    alice.removes(bob.user.as_str()).await.ok();
    assert_eq!((alice.requests().await, bob.requests().await), (NONE, NONE));
    bob.accepts(&alice).await.ok();
    assert_eq!(bob.friends().await, json!({}));
    alice.wants(&bob.email).await.ok();
    assert_eq!(bob.requests().await, [incoming(&alice, "Alice"), json!([])]);
}
