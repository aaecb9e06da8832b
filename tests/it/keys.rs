//! Key material, opened with the real `openssl` command.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use crate::world::{Person, World};

/// Runs `openssl`, asserts that it succeeds, and returns its output.
fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the tests need the openssl command");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}: {output:?}");
    output.stdout
}

/// Writes the private key from a person's login to a file and returns its path.
async fn key_file(person: &Person, folder: &Path) -> String {
    let login = person.logs_in().await.ok();
    let path = folder.join(format!("{}.pem", person.user));
    std::fs::write(&path, login["rsakey"].as_str().unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Unwraps a value for a person, in the way the protocol documents.
fn unwrap(person: &Person, key: &str, wrapped: &Value) -> Vec<u8> {
    let password = format!("pass:{}", person.password.as_str());
    let arguments = [
        "pkeyutl",
        "-decrypt",
        "-inkey",
        key,
        "-passin",
        &password,
        "-pkeyopt",
        "rsa_padding_mode:oaep",
        "-pkeyopt",
        "rsa_oaep_md:sha256",
        "-pkeyopt",
        "rsa_mgf1_md:sha256",
    ];
    openssl(&arguments, &BASE64.decode(wrapped.as_str().unwrap()).unwrap())
}

#[tokio::test]
async fn openssl_opens_what_the_server_hands_out() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let folder = tempfile::tempdir().unwrap();
    let mut secrets = Vec::new();
    for (person, other) in [(&alice, "Bob"), (&bob, "Alice")] {
        let key = key_file(person, folder.path()).await;
        let password = format!("pass:{}", person.password.as_str());
        let check = openssl(&["rsa", "-in", &key, "-passin", &password, "-check", "-noout"], b"");
        assert_eq!(String::from_utf8(check).unwrap().trim(), "RSA key ok");
        let seen = person.sees().await;
        secrets.push(unwrap(person, &key, &seen["secret"]));
        assert_eq!(unwrap(person, &key, &seen["displayname"]), other.as_bytes());
    }
    assert_eq!(secrets[0].len(), 32);
    assert_eq!(secrets[0], secrets[1], "both open the same secret");
}

#[tokio::test]
async fn the_public_key_that_friends_get_is_the_one_of_the_private_key() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let folder = tempfile::tempdir().unwrap();
    let key = key_file(&bob, folder.path()).await;
    let password = format!("pass:{}", bob.password.as_str());
    let arguments = ["rsa", "-in", &key, "-passin", &password, "-pubout", "-outform", "DER"];
    let public = BASE64.encode(openssl(&arguments, b""));
    let friends = alice.prepares("chatfriends", "list", &serde_json::json!({})).sent().await.ok();
    assert_eq!(friends["availabilities"][0]["publickey"], public);
    let text = openssl(
        &["rsa", "-pubin", "-inform", "DER", "-text", "-noout"],
        &BASE64.decode(&public).unwrap(),
    );
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("2048 bit") && text.contains("65537"), "{text}");
}
