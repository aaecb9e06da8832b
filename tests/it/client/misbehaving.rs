//! Servers that answer wrongly, and proxies that answer for them.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use chatserver::client::{Inbox, Positions, Save, Session};
use chatserver::domain::{Parse as _, StationId};

use super::Chatter;
use crate::harness::interposer::{Interposer, answer, busy, listener_that_says};
use crate::harness::person::message;
use crate::harness::process::Workplace;
use crate::harness::world::{World, until};

impl Chatter<'_> {
    /// Returns the failure of a command whose requests this rule answers.
    fn fails_before(
        &self,
        rule: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static,
        arguments: &[&str],
    ) -> String {
        let server = self.person.address();
        let wrong = Interposer::before(server, rule);
        self.talks_to(wrong.address);
        let output = self.runs(&[arguments, &["--json"]].concat());
        self.talks_to(server);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

fn is_list(request: &str) -> bool {
    request.contains(r#""action":"list""#)
}

#[tokio::test]
async fn a_wait_of_any_length_is_refused() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let alice = place.joins(&server, "Alice");
    for seconds in ["18446744073709551615", "3600"] {
        let busy = move |_: &str| {
            let header = format!("Retry-After: {seconds}\r\n");
            Some(answer("429 Too Many Requests", &header, ""))
        };
        let failure = alice.fails_before(busy, &["conversations"]);
        assert!(failure.starts_with(r#"{"errorcode":"rate_limited""#), "{failure}");
    }
}

#[tokio::test]
async fn an_answer_without_an_envelope_or_a_reason_is_told() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let alice = place.joins(&server, "Alice");
    let refusal = r#"{"status":"ERROR"}"#;
    let bodies = ["", "hello", "[]", "{}", r#"{"status":1}"#, r#"{"status":"OK"}"#];
    for (body, code) in
        bodies.map(|body| (body, "invalid_answer")).into_iter().chain([(refusal, "failed")])
    {
        let rule = move |request: &str| is_list(request).then(|| answer("200 OK", "", body));
        let failure = alice.fails_before(rule, &["conversations"]);
        assert!(failure.starts_with(&format!(r#"{{"errorcode":"{code}""#)), "{body}: {failure}");
        assert!(!failure.contains(r#""errormessage":"""#), "{body}: {failure}");
    }
    for (event, code) in [
        ("hello, I am no chatserver", "invalid_answer"),
        ("{}", "invalid_answer"),
        (r#"{"status":"ERROR"}"#, "failed"),
    ] {
        let rule = move |request: &str| {
            request.starts_with("GET /ws").then(|| listener_that_says(request, event))
        };
        let failure = alice.fails_before(rule, &["listen"]);
        assert!(failure.starts_with(&format!(r#"{{"errorcode":"{code}""#)), "{event}: {failure}");
        assert!(!failure.contains(r#""errormessage":"""#), "{event}: {failure}");
    }
    let no_listener = |request: &str| {
        request.starts_with("GET /ws").then(|| answer("404 Not Found", "", "not here"))
    };
    let failure = alice.fails_before(no_listener, &["listen"]);
    assert!(failure.contains("invalid_answer") && failure.contains("404"), "{failure}");
}

/// As a tree of values, an answer takes 50 times its size.
#[tokio::test]
async fn a_large_answer_takes_little_memory() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let alice = place.joins(&server, "Alice");
    let lists = |numbers: usize| {
        Interposer::before(server.address, move |request| {
            let numbers = "0,".repeat(numbers);
            let body = format!(r#"{{"status":"OK","conversations":[],"a":[{numbers}0]}}"#);
            is_list(request).then(|| answer("200 OK", "", &body))
        })
    };
    let large = lists(15 << 20);
    alice.talks_to(large.address);
    // KiB of memory that a process may allocate.
    let bounded = r#"ulimit -d 600000; exec "$0" "$@""#;
    let arguments = alice.arguments(&["conversations"]);
    let mut command = Command::new("sh");
    command.args(["-c", bounded, env!("CARGO_BIN_EXE_chatserver")]).args(&arguments);
    let output = command.current_dir(place.path()).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let too_large = lists(17 << 20);
    alice.talks_to(too_large.address);
    assert_eq!(alice.fails(&["conversations"]), "invalid_answer");
}

#[tokio::test]
async fn pages_that_never_end_are_refused() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let id = alice.sends("Bob", "one");
    let endless = |first: &str| {
        let message = format!(
            r#"{{"ID":"{first}","Type":"Message","Created":"","ValidUntil":"","Data":"","UserID":""}}"#
        );
        let body = format!(r#"{{"status":"OK","messages":[{message}],"reports":[],"more":true}}"#);
        move |request: &str| {
            request.contains(r#""action":"download""#).then(|| answer("200 OK", "", &body))
        }
    };
    let failure = bob.fails_before(endless(&id), &["read", "Alice", "--since", &id]);
    assert!(failure.starts_with(r#"{"errorcode":"invalid_answer""#), "{failure}");

    // A listener, too, gets a page of one message, and then the same page again.
    let wrong = Interposer::before(server.address, endless("other"));
    bob.talks_to(wrong.address);
    let mut listener = bob.starts("listened.txt", &["listen", "--json"]);
    until("it listens", async || bob.positions().exists()).await;
    alice.sends("Bob", "two");
    listener.prints(r#""errorcode":"invalid_answer""#).await;
    assert_eq!(listener.child.wait().unwrap().code(), Some(1));
}

#[tokio::test]
async fn a_follower_prints_a_message_once_although_its_report_fails() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let is_busy = Arc::new(AtomicUsize::new(3));
    let left = Arc::clone(&is_busy);
    let proxy = Interposer::before(server.address, move |request| {
        let is_report = request.contains(r#""action":"viewed""#);
        let decreased = |left: usize| left.checked_sub(1);
        let fails =
            is_report && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, decreased).is_ok();
        fails.then(busy)
    });
    alice.sends("Bob", "first, please");
    bob.talks_to(proxy.address);
    let follower = bob.starts("followed.txt", &["read", "Alice", "--follow", "--viewed"]);
    follower.prints("first, please").await;
    until("the first report gets through", async || is_busy.load(Ordering::SeqCst) == 0).await;
    // The marker shows that the follower listens.
    alice.sends("Bob", "marker");
    follower.prints("marker").await;
    is_busy.store(3, Ordering::SeqCst);
    alice.sends("Bob", "only once please");
    follower.prints("only once please").await;
    alice.sends("Bob", "end");
    follower.prints("end").await;
    let printed = follower.printed();
    let lines: Vec<_> = printed.lines().map(|line| &line[20..]).collect();
    let expected = ["first, please", "marker", "only once please", "end"];
    assert_eq!(lines, expected.map(|text| format!("Alice: {text}")));
}

#[tokio::test]
async fn a_conversation_without_a_key_does_not_end_the_others() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, mut bob) = place.alice_and_bob_chat(&server);
    let mut carol = place.joins(&server, "Carol");
    let with_alice = bob.person.conversation.clone();
    place.befriends(&mut carol.person, &mut bob.person);
    let listener = bob.starts("listened.txt", &["listen"]);
    until("it listens", async || bob.positions().exists()).await;
    let damage = format!(
        "UPDATE participants SET secret = 'AAAA' WHERE conversation_id = '{with_alice}' AND user_id = '{}'",
        bob.person.user
    );
    place.opens_database().await.runs(&damage).await;
    for text in ["one", "two"] {
        alice.sends("Bob", "for nobody");
        carol.sends("Bob", text);
        listener.prints(&format!("Carol: {text}")).await;
    }
    let warning = format!("conversation {with_alice} is skipped");
    assert_eq!(listener.printed().matches(&warning).count(), 1, "{}", listener.printed());
    assert!(!listener.printed().contains("Alice"));
}

#[tokio::test]
async fn a_listener_requests_only_what_has_changed() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let observed = Interposer::before(server.address, |_| None);
    bob.talks_to(observed.address);
    let listener = bob.starts("listened.txt", &["listen"]);
    until("it listens", async || bob.positions().exists()).await;
    alice.sends("Bob", "first");
    listener.prints("first").await;
    alice.sends("Bob", "second");
    listener.prints("second").await;
    let (lists, shows) =
        (observed.count(r#""action":"list""#), observed.count(r#""action":"show""#));
    for availability in ["busy", "away", "available"] {
        alice.prints(&["presence", "set", availability]);
    }
    alice.sends("Bob", "third");
    listener.prints("third").await;
    assert_eq!(observed.count(r#""action":"list""#), lists);
    assert_eq!(observed.count(r#""action":"show""#), shows + 1);
}

/// Each save costs two fsyncs.
#[tokio::test]
async fn positions_are_saved_once_for_a_page() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let url = format!("http://{}/", world.address).parse().unwrap();
    let station = StationId::parse(&"5".repeat(32)).unwrap();
    let logged_in = Session::log_in(url, &bob.api_key, &bob.password, station).await;
    let (session, _) = logged_in.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("positions");
    let saved = || std::fs::read(&path).unwrap();
    for save in [Save::WithPage, Save::Now] {
        let positions = Positions::open(&session, &path).await.unwrap();
        for text in ["one", "two", "end"] {
            alice.adds(&message(text, &alice.date())).await.ok();
        }
        let before = saved();
        let changes = Mutex::new(Vec::new());
        let mut inbox = Inbox::new(&session, session.credentials.clone(), positions);
        let run = inbox.run(async |_, _| {
            changes.lock().unwrap().push(saved() != before);
            Ok(save)
        });
        let all = until("all are handled and saved", async || {
            changes.lock().unwrap().len() == 3 && saved() != before
        });
        tokio::select! {
            ended = run => panic!("{ended:?}"),
            () = all => {}
        }
        let is_saved = save == Save::Now;
        assert_eq!(*changes.lock().unwrap(), [false, is_saved, is_saved]);
    }
}
