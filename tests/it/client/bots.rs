//! `listen --exec`: a bot in one line of shell.

use super::texts;
use crate::harness::process::Workplace;
use crate::harness::world::until;

/// Answers with what it gets in its variables and, behind a slash, with a field of the object on stdin.
const ECHO: &str =
    r#"printf '%s says %s / ' "$CHAT_NICK" "$CHAT_TEXT"; sed 's/.*"text":"\([^"]*\)".*/\1/'"#;

#[tokio::test]
async fn a_bot_answers_each_message_once() {
    let place = Workplace::new();
    let mut server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    alice.sends("Bob", "before there was a bot");
    let bot = bob.starts("bot.txt", &["listen", "--exec", ECHO]);
    until("the bot listens", async || bob.positions().exists()).await;
    alice.sends("Bob", "hello");
    until("it answers", async || alice.reads("Bob").len() == 3).await;
    drop(bot);

    // It answers what came while it was away, and across a restart of the server.
    alice.sends("Bob", "are you there?");
    let _bot = bob.starts("bot.txt", &["listen", "--exec", ECHO]);
    until("it answers again", async || alice.reads("Bob").len() == 5).await;
    let address = server.address;
    server.signal("TERM");
    assert!(server.ended().await.success());
    let _server = place.starts_at(address, &["serve"], &[]).await;
    alice.sends("Bob", "still?");
    until("it answers after a restart", async || alice.reads("Bob").len() == 7).await;
    let expected = [
        "before there was a bot",
        "hello",
        "Alice says hello / hello",
        "are you there?",
        "Alice says are you there? / are you there?",
        "still?",
        "Alice says still? / still?",
    ];
    assert_eq!(alice.reads("Bob"), texts(&expected));
}

#[tokio::test]
async fn a_bot_says_when_the_server_is_away_and_back() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (_, bob) = place.alice_and_bob_chat(&server);
    let bot = bob.starts("bot.txt", &["listen", "--exec", ECHO]);
    until("the bot listens", async || bob.positions().exists()).await;
    drop(bot);
    let address = server.address;
    server.stops(&place).await;
    let bot = bob.starts("bot.txt", &["listen", "--exec", ECHO]);
    bot.prints(&format!("the server at {address} does not answer; trying again")).await;
    let _server = place.starts_at(address, &["serve"], &[]).await;
    bot.prints("the server answers again").await;
}

#[tokio::test]
async fn a_bot_that_repeats_itself_is_stored_once() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let positions = bob.positions();
    let bot = bob.starts("bot.txt", &["listen", "--exec", ECHO]);
    until("the bot listens", async || positions.exists()).await;
    let before = std::fs::read(&positions).unwrap();
    alice.sends("Bob", "once");
    until("it has answered and recorded that", async || {
        std::fs::read(&positions).unwrap() != before
    })
    .await;
    drop(bot);
    // As if it had been killed between its answer and the record of it.
    std::fs::write(&positions, &before).unwrap();
    let _bot = bob.starts("bot.txt", &["listen", "--exec", ECHO]);
    until("it has handled the message again", async || {
        std::fs::read(&positions).unwrap() != before
    })
    .await;
    assert_eq!(alice.reads("Bob"), texts(&["once", "Alice says once / once"]));
}

#[tokio::test]
async fn a_bot_survives_a_command_that_fails_or_says_nothing() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let command =
        r#"case "$CHAT_TEXT" in fail) echo no; exit 3;; quiet) ;; *) echo "$CHAT_TEXT!";; esac"#;
    let bot = bob.starts("bot.txt", &["listen", "--exec", command, "--viewed"]);
    until("the bot listens", async || bob.positions().exists()).await;
    for text in ["fail", "quiet", "$(touch injected); `touch injected`"] {
        alice.sends("Bob", text);
    }
    until("it answers", async || alice.reads("Bob").len() == 4).await;
    let expected = [
        "fail",
        "quiet",
        "$(touch injected); `touch injected`",
        "$(touch injected); `touch injected`!",
    ];
    assert_eq!(alice.reads("Bob"), texts(&expected));
    assert!(bot.printed().contains("the command failed: exit status: 3"), "{}", bot.printed());
    assert!(!place.path().join("injected").exists());
}

#[tokio::test]
async fn an_empty_command_is_refused() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let bob = place.joins(&server, "Bob");
    let refused = bob.runs(&["listen", "--exec", ""]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("a value is required for '--exec <CMD>'"), "{said}");
}

#[tokio::test]
async fn a_bot_does_not_answer_its_own_user() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let _bot = bob.starts("bot.txt", &["listen", "--exec", "echo answer"]);
    until("the bot listens", async || bob.positions().exists()).await;
    // Bob's own message, from another device, is not answered.
    bob.sends("Alice", "from my phone");
    alice.sends("Bob", "a question");
    until("it answers", async || alice.reads("Bob").len() == 3).await;
    assert_eq!(alice.reads("Bob"), texts(&["from my phone", "a question", "answer"]));
}

#[tokio::test]
async fn each_profile_has_its_own_positions() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let mut alice = place.joins_as(&server, "alice@example.com", "Alice", "bot.alice");
    let mut carol = place.joins_as(&server, "carol@example.com", "Carol", "bot.carol");
    place.befriends(&mut alice.person, &mut carol.person);
    let listeners =
        [alice.starts("alice.txt", &["listen"]), carol.starts("carol.txt", &["listen"])];
    for chatter in [&alice, &carol] {
        until("it listens", async || chatter.positions().exists()).await;
    }
    drop(listeners);
    alice.sends("Carol", "for Carol");
    let listener = alice.starts("alice.txt", &["listen"]);
    carol.sends("Alice", "for Alice");
    listener.prints("for Alice").await;
    carol.starts("carol.txt", &["listen"]).prints("for Carol").await;
}

#[tokio::test]
async fn positions_of_another_user_are_not_gone_on_with() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (mut alice, mut bob) = place.alice_and_bob_chat(&server);
    bob.sends("Alice", "from long ago");
    let listener = bob.starts("bob.txt", &["listen"]);
    until("it listens", async || bob.positions().exists()).await;
    drop(listener);
    let before = std::fs::read(bob.positions()).unwrap();

    // Alice logs in into Bob's profile, and Bob into another one.
    alice.profile = std::mem::replace(&mut bob.profile, "other.profile".to_owned());
    for chatter in [&alice, &bob] {
        chatter.logs_in(&format!("http://{}/", server.address));
    }
    let _bot = alice.starts("alice.txt", &["listen", "--exec", "echo answer"]);
    until("it begins anew", async || std::fs::read(alice.positions()).unwrap() != before).await;
    bob.sends("Alice", "from now");
    until("it answers", async || bob.reads("Alice").len() >= 3).await;
    assert_eq!(bob.reads("Alice"), texts(&["from long ago", "from now", "answer"]));
}
