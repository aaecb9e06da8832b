//! The command of `listen --exec`: its bounds, its children, and answers that do not get through.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Chatter, Running, texts};
use crate::harness::interposer::{Interposer, busy, refusal};
use crate::harness::process::Workplace;
use crate::harness::world::until;

impl Chatter<'_> {
    /// Starts a bot and waits until it listens.
    async fn answers_with(&self, command: &str, options: &[&str]) -> Running {
        let bot = self.starts("bot.txt", &[&["listen", "--exec", command], options].concat());
        until("the bot listens", async || self.positions().exists()).await;
        bot
    }
}

/// Waits until the process whose id is in this file has ended. A parent need not have waited for it.
async fn ends(id: &Path) {
    let id = fs::read_to_string(id).unwrap();
    let status = format!("/proc/{}/status", id.trim());
    until("the process has ended", async || {
        fs::read_to_string(&status).map_or(true, |status| status.contains("State:\tZ"))
    })
    .await;
}

/// Leaves its id in a file and waits with a child, whose id is in another file.
const HANGS: &str = "echo $$ >shell; sleep 417 & echo $! >child.new; mv child.new child; wait";

#[tokio::test]
async fn a_command_that_takes_too_long_is_ended_with_its_children() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let bot = bob.answers_with(HANGS, &["--timeout", "1"]).await;
    alice.sends("Bob", "hello");
    bot.prints("the command was ended after 1 s").await;
    ends(&place.path().join("child")).await;
    ends(&place.path().join("shell")).await;
}

#[tokio::test]
async fn a_signal_ends_the_bot_and_its_command() {
    for signal in ["TERM", "INT"] {
        let place = Workplace::new();
        let server = place.serves(&[]).await;
        let (alice, bob) = place.alice_and_bob_chat(&server);
        let mut bot = bob.answers_with(HANGS, &[]).await;
        alice.sends("Bob", "hello");
        let child = place.path().join("child");
        until("the command runs", async || child.exists()).await;
        bot.receives(signal);
        assert!(bot.child.wait().unwrap().success(), "{}", bot.printed());
        ends(&child).await;
        ends(&place.path().join("shell")).await;

        // The message was not handled.
        let _bot = bob.answers_with("echo answer", &[]).await;
        until("the next bot answers", async || alice.reads("Bob").len() == 2).await;
    }
}

#[tokio::test]
async fn an_answer_is_what_was_printed_when_the_command_ends() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let command = "sleep 417 & echo $! >child; head -c 70000 /dev/zero | tr '\\0' x; echo quick";
    let bot = bob.answers_with(command, &[]).await;
    alice.sends("Bob", "hello");
    until("it answers", async || alice.reads("Bob").len() == 2).await;
    let answer = alice.reads("Bob")[1].clone().unwrap();
    assert_eq!(answer, format!("{}quick", "x".repeat(70_000)), "{}", bot.printed());
    let child = fs::read_to_string(place.path().join("child")).unwrap();
    assert!(std::process::Command::new("kill").arg(child.trim()).status().unwrap().success());
}

#[tokio::test]
async fn a_command_has_bounds() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    // Without its pipe, the first would print for ever.
    let command = r#"case "$CHAT_TEXT" in
        much) yes;;
        binary) printf '\377';;
        *) printf '%s in the variable, ' "${#CHAT_TEXT}"; wc -c | tr -d ' ';;
    esac"#;
    let bot = bob.answers_with(command, &[]).await;
    alice.sends("Bob", "much");
    bot.prints("the command printed more than 131072 bytes").await;
    alice.sends("Bob", "binary");
    bot.prints("the command printed no UTF-8").await;
    let long = "x".repeat(110 * 1024);
    let piped = alice.arguments(&["send", "Bob", "-"]);
    assert!(place.runs_with(&piped, &long, &[]).status.success());
    until("it answers", async || alice.reads("Bob").len() == 4).await;
    let answer = alice.reads("Bob")[3].clone().unwrap();
    let length = answer.strip_prefix("0 in the variable, ").unwrap().parse::<usize>().unwrap();
    assert!(length > long.len(), "the object has the whole text: {answer}");
}

#[tokio::test]
async fn a_refused_answer_is_left_out_only_if_others_may_get_through() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    for code in ["not_friends", "blocked", "quota_exceeded", "too_large", "conversation_not_found"]
    {
        let refusing = refusing(&server, code);
        bob.talks_to(refusing.address);
        drop(fs::remove_file(bob.positions()));
        let bot = bob.answers_with("echo answer", &[]).await;
        alice.sends("Bob", code);
        bot.prints("the answer is refused").await;
    }
    let refusing = refusing(&server, "invalid_signature");
    bob.talks_to(refusing.address);
    fs::remove_file(bob.positions()).unwrap();
    let mut bot = bob.answers_with("echo answer", &["--json"]).await;
    let before = fs::read(bob.positions()).unwrap();
    alice.sends("Bob", "after a rotation");
    bot.prints(r#""errorcode":"invalid_signature""#).await;
    assert_eq!(bot.child.wait().unwrap().code(), Some(1));
    assert_eq!(fs::read(bob.positions()).unwrap(), before, "the message is handled again");
}

fn refusing(server: &crate::harness::process::Process, code: &'static str) -> Interposer {
    Interposer::before(server.address, move |request| {
        request.contains(r#""action":"add""#).then(|| refusal(code))
    })
}

#[tokio::test]
async fn an_answer_is_sent_until_it_gets_through() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let attempts = AtomicUsize::new(0);
    let busy_at_first = Interposer::before(server.address, move |request| {
        let is_answer = request.contains(r#""action":"add""#);
        (is_answer && attempts.fetch_add(1, Ordering::SeqCst) < 3).then(busy)
    });
    bob.talks_to(busy_at_first.address);
    let bot = bob.answers_with("echo run >>runs; echo answer", &[]).await;
    alice.sends("Bob", "hello");
    until("it answers", async || alice.reads("Bob").len() == 2).await;
    let warning = "the answer is sent again until it gets through";
    assert_eq!(bot.printed().matches(warning).count(), 1, "{}", bot.printed());
    assert_eq!(fs::read_to_string(place.path().join("runs")).unwrap(), "run\n");
    assert_eq!(alice.reads("Bob"), texts(&["hello", "answer"]));
}

#[tokio::test]
async fn a_listener_whose_reader_has_gone_ends() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let mut command = bob.command(&["listen"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut listener = command.spawn().unwrap();
    drop(listener.stdout.take());
    until("it listens", async || bob.positions().exists()).await;
    alice.sends("Bob", "hello");
    let output = listener.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
