//! Messages that must not be shown, and `seal` and `open`.

use chatserver::client::payload::{self, MessageAddress};
use chatserver::domain::{ConversationId, Instance, MessageId, Parse as _, UserId};
use chatserver::keys::ConversationSecret;
use serde_json::Value;

use super::Chatter;
use crate::harness::openssl::SealedKey;
use crate::harness::person::message_with_id;
use crate::harness::process::Workplace;

impl Chatter<'_> {
    /// Returns the key of the conversation, as `openssl` opens it.
    async fn secret(&self) -> [u8; 32] {
        let login = self.person.logs_in().await.ok();
        let key = SealedKey::of(&login, self.person.password.as_str());
        key.unwraps(&self.person.sees().await["secret"]).try_into().unwrap()
    }

    /// Seals a text as any client with the key can: `from` is a claim.
    async fn seals(&self, id: &str, from: UserId, text: &str) -> String {
        let id = MessageId::parse(id).unwrap();
        let place = MessageAddress {
            conversation: ConversationId::parse(&self.person.conversation).unwrap(),
            instance: Instance::parse(&self.person.instance().await).unwrap(),
            id: &id,
        };
        payload::seal(&ConversationSecret::from_bytes(self.secret().await), &place, from, text)
    }

    /// Adds a message with this Data.
    async fn adds(&self, id: &str, data: &str) {
        let mut message = message_with_id(id, "", &self.person.date());
        message["Data"] = data.into();
        self.person.adds(&message).await.ok();
    }

    /// Returns the error of the newest message. Asserts that the text is not shown.
    #[track_caller]
    fn is_shown_nothing(&self, of: &str) -> String {
        let newest = self.tells(&["read", of, "--limit", "1"])["messages"][0].clone();
        assert_eq!(newest["text"], Value::Null, "{newest}");
        let line = self.prints(&["read", of, "--limit", "1"]);
        assert!(line.ends_with("This message can't be opened"), "{line}");
        newest["error"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_message_in_anothers_name_is_not_shown() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let genuine = bob.seals("genuine", bob.person.user, "it is me").await;
    bob.adds("genuine", &genuine).await;
    assert_eq!(alice.reads("Bob"), [Some("it is me".to_owned())]);
    // Bob holds the key too. Only the sender that the server names tells that it was not Alice, to her second device.
    let forged = bob.seals("forged", alice.person.user, "I, Alice, owe Bob a fortune").await;
    bob.adds("forged", &forged).await;
    assert!(alice.is_shown_nothing("Bob").contains("names another sender"));
    assert!(bob.is_shown_nothing("Alice").contains("names another sender"));
}

#[tokio::test]
async fn a_payload_that_was_moved_or_changed_is_not_shown() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let data = bob.seals("one", bob.person.user, "Yes").await;
    bob.adds("one", &data).await;
    assert_eq!(alice.reads("Bob"), [Some("Yes".to_owned())]);
    bob.adds("two", &data).await;
    assert!(alice.is_shown_nothing("Bob").contains("for another message"));
    for (id, data) in
        [("three", "AQID"), ("four", ""), ("five", "SGVsbG8gd29ybGQsIHRoaXMgaXMgbm90IHNlYWxlZA==")]
    {
        bob.adds(id, data).await;
        assert!(alice.is_shown_nothing("Bob").contains("another form"));
    }
    let with_other_key = {
        let other = ConversationSecret::generate();
        let id = MessageId::parse("six").unwrap();
        let place = MessageAddress {
            conversation: ConversationId::parse(&bob.person.conversation).unwrap(),
            instance: Instance::parse(&bob.person.instance().await).unwrap(),
            id: &id,
        };
        payload::seal(&other, &place, bob.person.user, "Yes")
    };
    bob.adds("six", &with_other_key).await;
    assert!(alice.is_shown_nothing("Bob").contains("another key"));
    bob.person.clears().await.ok();
    bob.adds("one", &data).await;
    assert!(alice.is_shown_nothing("Bob").contains("for another message"), "an earlier instance");
}

#[tokio::test]
async fn scripts_seal_and_open_in_a_pipe() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob_chat(&server);
    let key = hex::encode(alice.secret().await);
    let instance = alice.person.instance().await;
    let (conversation, user) = (&alice.person.conversation, alice.person.user.to_string());
    let arguments = |command: &'static str, id: &'static str, from: &str| -> Vec<String> {
        let options =
            ["--conversation", conversation, "--instance", &instance, "--id", id, "--from", from];
        ["client", command].iter().chain(&options).map(|&one| one.to_owned()).collect()
    };
    let runs = |arguments: &[String], stdin: &str| {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        place.runs_with(&arguments, stdin, &[("CHATSERVER_CONVERSATION_KEY", &key)])
    };
    let text = "Grüße\n\"two\" lines 👋";
    let sealed = runs(&arguments("seal", "m-1", &user), text);
    let data = String::from_utf8(sealed.stdout).unwrap();
    alice.adds("m-1", data.trim_end()).await;
    assert_eq!(bob.reads("Alice"), [Some(text.to_owned())]);
    let opened = runs(&arguments("open", "m-1", &user), &data);
    assert_eq!(String::from_utf8(opened.stdout).unwrap(), format!("{text}\n"));

    for (id, from, stdin) in [
        ("m-2", user.as_str(), data.as_str()),
        ("m-1", bob.person.user.as_str(), &data),
        ("m-1", &user, "AQID"),
    ] {
        let json = [&arguments("open", id, from)[..], &["--json".to_owned()]].concat();
        let refused = runs(&json, stdin);
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0));
        let told: Value = serde_json::from_slice(&refused.stderr).unwrap();
        assert_eq!(told["errorcode"], "cannot_open");
        assert!(told["errormessage"].as_str().unwrap().starts_with("This message can't be opened"));
    }
    let arguments: Vec<_> = arguments("open", "m-1", &user);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    for key in ["", "00", &"g".repeat(64)] {
        let output = place.runs_with(&arguments, &data, &[("CHATSERVER_CONVERSATION_KEY", key)]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(error.contains("CHATSERVER_CONVERSATION_KEY must be"), "{error}");
    }
}
