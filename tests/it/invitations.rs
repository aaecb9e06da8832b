//! Invitations: a link with which a person registers once, with keys of their own.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chatserver::domain::{ApiKey, Parse as _, Timestamp};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::{Value, json};

use crate::harness::openssl::{SealedKey, openssl};
use crate::harness::person::{Answer, Person};
use crate::harness::process::{Process, Workplace};
use crate::harness::world::{World, until};

/// The answer to every invitation that can't be used.
const REFUSED: (u16, &str) = (401, "invalid_invitation");

const PASSWORD: &str = "a password of Carol's";

/// A person who is no user yet, with keys that openssl made.
#[derive(Clone)]
struct Guest {
    address: SocketAddr,
    token: String,
    public_key: String,
    private_key: String,
}

impl Workplace {
    /// Invites this address, and returns the person who opens the link.
    #[track_caller]
    fn invites(&self, server: &Process, email: &str) -> Guest {
        let told = self.tells(&["user", "invite", email]);
        Guest::with(server, token(&told))
    }

    /// Sets the clock of invitations forward.
    async fn passes(&self, seconds: i64) {
        let statement = format!(
            "UPDATE invitations SET created_at = created_at - {seconds}, expires_at = expires_at - {seconds}, \
             used_at = used_at - {seconds}"
        );
        self.opens_database().await.runs(&statement).await;
    }
}

/// Returns the token in the link of an invitation.
fn token(told: &Value) -> &str {
    told["link"].as_str().unwrap().split_once("#invite=").unwrap().1
}

/// Makes an RSA key of these bits and this exponent, `-f4` or `-3`. Returns the public key and the encrypted PEM.
fn keys(bits: &str, exponent: &str) -> (String, String) {
    let key = openssl(&["genrsa", "-traditional", exponent, bits], b"").unwrap();
    let public = openssl(&["rsa", "-pubout", "-outform", "DER"], &key).unwrap();
    let password = format!("pass:{PASSWORD}");
    let encrypt = ["rsa", "-aes-256-cfb", "-traditional", "-passout", &password];
    let pem = String::from_utf8(openssl(&encrypt, &key).unwrap()).unwrap();
    (BASE64.encode(public), pem.replace('\n', "\r\n"))
}

impl Guest {
    fn with(server: &Process, token: &str) -> Self {
        let (public_key, private_key) = keys("2048", "-f4");
        let token = token.to_owned();
        Self { address: server.address, token, public_key, private_key }
    }

    async fn posts(&self, body: &Value) -> Answer {
        let url = format!("http://{}/?srv=chatserver&api=chatregister", self.address);
        let json =
            HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let request = reqwest::Client::new().post(url).headers(json).body(body.to_string());
        Answer::of(request.send().await.unwrap()).await
    }

    async fn looks(&self) -> Answer {
        self.posts(&json!({ "action": "invitation", "invitation": self.token })).await
    }

    /// The body that registers with this nick.
    fn registration(&self, nick: &str) -> Value {
        json!({
            "action": "register", "invitation": self.token, "nick": nick, "fullname": "Carol Example",
            "publickey": self.public_key, "rsakey": self.private_key,
        })
    }

    async fn registers(&self, nick: &str) -> Answer {
        self.posts(&self.registration(nick)).await
    }

    /// Returns the user that a registration has made.
    fn becomes(&self, registered: &Value) -> Person {
        let mut told = registered.clone();
        told["encryptionpassword"] = json!(PASSWORD);
        Person::added(&told, self.address)
    }

    /// Asserts that the invitation can't be used, in any way.
    async fn is_refused(&self) {
        let looked = self.looks().await;
        looked.refused(REFUSED.0, REFUSED.1);
        let registered = self.registers("Carol").await;
        registered.refused(REFUSED.0, REFUSED.1);
        assert_eq!(looked.text, registered.text, "all refusals look alike");
    }
}

#[tokio::test]
async fn an_invited_person_registers_logs_in_and_chats() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let mut bob = place.adds(&server, "Bob");
    let told =
        place.tells(&["user", "invite", " Carol@Example.com", "--nick", "Caro", "--expires", "3d"]);
    assert_eq!(told["email"], "carol@example.com");
    assert!(told["link"].as_str().unwrap().contains("/app/invite.html#invite="), "{told}");
    let guest = Guest::with(&server, token(&told));
    let shown = guest.looks().await.ok();
    assert_eq!((&shown["email"], &shown["nick"]), (&told["email"], &json!("Caro")));
    assert_eq!(shown["expires"], told["expires"]);
    let registered = guest.registers(" Carol ").await.ok();
    let mut carol = guest.becomes(&registered);
    let login = carol.logs_in().await.ok();
    assert_eq!((&login["nick"], &login["fullname"]), (&json!("Carol"), &json!("Carol Example")));
    assert_eq!(login["rsakey"], guest.private_key, "the key comes back as it was sent");
    let key = SealedKey::of(&login, PASSWORD);
    assert_eq!(key.public().unwrap(), guest.public_key);
    place.befriends(&mut carol, &mut bob);
    assert_eq!(key.unwraps(&carol.sees().await["displayname"]), b"Bob");
    carol.sends("Hi Bob").await;
    assert_eq!(bob.reads().await, ["Hi Bob"]);
    assert_eq!(place.tells(&["user", "invitations"])["invitations"], json!([]));
}

#[tokio::test]
async fn an_invitation_works_once_even_if_it_is_used_twice_at_the_same_time() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let first = place.invites(&server, "carol@example.com");
    let guests: Vec<_> = (0..6).map(|_| Guest::with(&server, &first.token)).collect();
    let answers =
        futures_util::future::join_all(guests.iter().map(|guest| guest.registers("Carol")));
    let answers = answers.await;
    let (registered, refused): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| answer.status.is_success());
    assert_eq!((registered.len(), refused.len()), (1, 5));
    for answer in refused {
        answer.refused(REFUSED.0, REFUSED.1);
    }
    let login = guests[0].becomes(&registered[0].ok()).logs_in().await.ok();
    let winner = answers.iter().position(|answer| answer.status.is_success()).unwrap();
    assert_eq!(login["rsakey"], guests[winner].private_key);
    assert_eq!(place.tells(&["user", "list"])["users"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_registration_whose_answer_was_lost_is_answered_again_for_ten_minutes() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let carol = place.invites(&server, "carol@example.com");
    let registered = carol.registers("Carol").await.ok();
    assert_eq!(carol.registers("Carol").await.ok(), registered);
    carol.looks().await.refused(REFUSED.0, REFUSED.1);
    // A friend knows the public key, but not how the private one is encrypted.
    let (_, other) = keys("2048", "-f4");
    Guest { private_key: other, ..carol.clone() }.is_refused().await;
    place.passes(601).await;
    carol.is_refused().await;
}

#[tokio::test]
async fn a_server_removes_expired_and_used_invitations() {
    let world = World::start().await;
    let now = Timestamp::parse(&world.clock.date()).unwrap().unix();
    let mut database = world.opens_database().await;
    for (name, expires_at, used_at) in [
        ("carol", now + 60, "NULL".to_owned()),
        ("dave", now + 30 * 86_400, (now + 60).to_string()),
        ("erin", now + 30 * 86_400, "NULL".to_owned()),
    ] {
        let row = format!("'{name}@example.com', '{name}', '', {now}, {expires_at}, {used_at}");
        let columns = "email, token_digest, nick, created_at, expires_at, used_at";
        database.runs(&format!("INSERT INTO invitations ({columns}) VALUES ({row})")).await;
    }
    let count = "SELECT count(*) FROM invitations";
    world.clock.advances(120);
    world.has_done_its_jobs().await;
    assert_eq!(world.number(count).await, 3, "the clock may have been ahead");
    until("old invitations are removed", async || {
        world.clock.advances(60);
        world.number(count).await == 1
    })
    .await;
    let left = "SELECT count(*) FROM invitations WHERE email = 'erin@example.com'";
    assert_eq!(world.number(left).await, 1);
}

#[tokio::test]
async fn unknown_revoked_replaced_expired_and_closed_invitations_look_alike() {
    let place = Workplace::new();
    let server = place.serves(&[("CHATSERVER_LIMITS__FAILURES_PER_MINUTE", "0")]).await;
    let invited = |email: &str| place.invites(&server, email);
    for token in ["0123456789abcdef0123456789abcdef01234567", "x", "Ä", &"0".repeat(5000)] {
        Guest::with(&server, token).is_refused().await;
    }
    let revoked = invited("carol@example.com");
    let revoke = ["user", "uninvite", "carol@example.com"];
    assert_eq!(place.tells(&revoke), json!({ "revoked": true }));
    assert_eq!(place.tells(&revoke), json!({ "revoked": false }));
    revoked.is_refused().await;
    let replaced = invited("carol@example.com");
    let present = invited("carol@example.com");
    replaced.is_refused().await;
    present.looks().await.ok();
    // The operator has added the user meanwhile.
    place.tells(&["user", "add", "carol@example.com", "--nick", "Carol"]);
    present.registers("Carol").await.refused(REFUSED.0, REFUSED.1);
    let expired = invited("dave@example.com");
    place.passes(7 * 86_400).await;
    expired.is_refused().await;
    assert_eq!(place.tells(&["user", "invitations"])["invitations"], json!([]));
    let closed = invited("erin@example.com");
    closed.looks().await.ok();
    server.stops(&place).await;
    let server = place.serves(&[("CHATSERVER_AUTH__REGISTRATION", "closed")]).await;
    Guest { address: server.address, ..closed }.is_refused().await;
}

#[tokio::test]
async fn wrong_names_and_keys_are_refused_by_name_and_use_nothing_up() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let carol = place.invites(&server, "carol@example.com");
    let right = carol.registration("Carol");
    let (short, short_pem) = keys("1024", "-f4");
    let (three, _) = keys("2048", "-3");
    let lf = carol.private_key.replace("\r\n", "\n");
    for (field, value, part) in [
        ("nick", json!(""), "nick is missing"),
        ("nick", json!("\u{200b}"), "nick must be 1 to 64 characters"),
        ("fullname", json!("x".repeat(257)), "fullname must be empty or at most 256 bytes"),
        ("publickey", Value::Null, "publickey is missing; it must be an RSA-2048 public key"),
        (
            "publickey",
            json!(short),
            "publickey must be an RSA-2048 public key with the exponent 65537",
        ),
        (
            "publickey",
            json!(three),
            "publickey must be an RSA-2048 public key with the exponent 65537",
        ),
        ("rsakey", json!(17), "rsakey must be a string"),
        ("rsakey", json!(short_pem), "rsakey must be an RSA-2048 private key in PKCS#1"),
        (
            "rsakey",
            json!(lf),
            "rsakey must be an RSA-2048 private key in PKCS#1, encrypted with AES-256-CFB in the traditional form of PEM, with CR LF line ends; its lines end with LF alone",
        ),
        ("invitation", json!(null), "invitation is missing"),
        ("invitation", json!(["x"]), "invitation must be a string"),
    ] {
        let mut body = right.clone();
        body[field] = value;
        let refused = carol.posts(&body).await.refused(400, "invalid_field");
        let sentence = refused["errormessage"].as_str().unwrap();
        assert!(sentence.starts_with(part), "{field}: {sentence}");
    }
    let unknown = carol.posts(&json!({ "action": "login", "invitation": carol.token })).await;
    let sentence = unknown.refused(400, "unknown_action")["errormessage"].clone();
    assert_eq!(sentence, "action must be one of: invitation, register");
    carol.registers("Carol").await.ok();
}

#[tokio::test]
async fn guesses_of_tokens_are_limited_by_address_like_logins() {
    let place = Workplace::new();
    let server = place.serves(&[("CHATSERVER_LIMITS__FAILURES_PER_MINUTE", "3")]).await;
    let carol = place.invites(&server, "carol@example.com");
    let mallory = Guest { token: "0".repeat(40), ..carol };
    for _ in 0..3 {
        mallory.looks().await.refused(REFUSED.0, REFUSED.1);
    }
    let limited = mallory.looks().await;
    limited.refused(429, "rate_limited");
    assert!(limited.headers.contains_key("retry-after"));
    // The same count as that of logins.
    let login = Person::added(
        &json!({
            "email": "x@example.com", "userid": "0".repeat(32), "apikey": ApiKey::generate().as_str(),
            "encryptionpassword": PASSWORD,
        }),
        server.address,
    );
    login.logs_in().await.refused(429, "rate_limited");
    let carol = place.invites(&server, "carol@example.com");
    carol.registers("Carol").await.ok();
}

#[tokio::test]
async fn neither_the_database_nor_the_log_has_the_token_of_an_invitation() {
    let place = Workplace::new();
    let server = place.serves(&[("CHATSERVER_LOG__FILTER", "debug")]).await;
    let carol = place.invites(&server, "carol@example.com");
    carol.looks().await.ok();
    let columns = "SELECT concat(email, ' ', token_digest, ' ', nick) FROM invitations";
    let rows = place.opens_database().await.texts(columns).await.join("\n");
    assert!(rows.contains("carol@example.com") && !rows.contains(&carol.token), "{rows}");
    let registered = carol.registers("Carol").await.ok();
    let line = r#"api="chatregister" action="register" outcome="ok""#;
    place.logs(line).await;
    let log = place.log();
    for secret in [carol.token.as_str(), registered["apikey"].as_str().unwrap()] {
        assert!(!log.contains(secret), "the log has a secret");
    }
}

#[test]
fn invitations_are_listed_and_wrong_ones_are_refused_with_a_sentence() {
    let place = Workplace::new();
    place.tells(&["user", "add", "alice@example.com", "--nick", "Alice"]);
    let invite = |arguments: &[&str]| place.fails(&[&["user", "invite"], arguments].concat());
    assert!(invite(&["alice@example.com"]).contains("there is a user alice@example.com already"));
    assert!(invite(&["alice"]).contains("EMAIL must be an e-mail address"));
    assert!(invite(&["bob@example.com", "--nick", ""]).contains("--nick must be"));
    assert!(invite(&["bob@example.com", "--expires", "91d"]).contains("up to 90d"));
    let told = place.tells(&["user", "invite", "bob@example.com", "--nick", "Bob"]);
    assert_eq!(token(&told).len(), 40);
    place.tells(&["user", "invite", "carol@example.com", "--expires", "30m"]);
    let listed = place.tells(&["user", "invitations"]);
    let listed = listed["invitations"].as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(
        (&listed[0]["email"], &listed[0]["nick"]),
        (&json!("bob@example.com"), &json!("Bob"))
    );
    assert_eq!(listed[0]["expires"], told["expires"]);
    assert!(!listed[0].to_string().contains(token(&told)), "a token is shown once");
    let mut command = place.command(&["user", "invite", "dave@example.com", "--json"]);
    let output = command.env("CHATSERVER_AUTH__REGISTRATION", "closed").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["errorcode"], "registration_closed");
    assert!(error["errormessage"].as_str().unwrap().contains("auth.registration"), "{error}");
    let mut command = place.command(&["user", "invite", "dave@example.com"]);
    command.env("CHATSERVER_HTTP__WEB", "false");
    command.env("CHATSERVER_HTTP__PUBLIC_URL", "https://chat.example.com/chat/");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\nhttps://chat.example.com/chat/app/invite.html#invite="), "{text}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("http.web is false"));
}
