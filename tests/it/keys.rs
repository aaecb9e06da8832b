//! Key material, opened with the real `openssl` command.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use crate::harness::openssl::{SealedKey, openssl};
use crate::harness::world::World;

#[tokio::test]
async fn openssl_decrypts_the_keys_and_secrets_of_the_server() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let mut secrets = Vec::new();
    for (person, other) in [(&alice, "Bob"), (&bob, "Alice")] {
        let key = SealedKey::of(&person.logs_in().await.ok(), person.password.as_str());
        key.is_consistent();
        let seen = person.sees().await;
        secrets.push(key.unwraps(&seen["secret"]));
        assert_eq!(key.unwraps(&seen["displayname"]), other.as_bytes());
    }
    assert_eq!(secrets[0].len(), 32);
    assert_eq!(secrets[0], secrets[1], "both open the same secret");
}

#[tokio::test]
async fn friends_get_the_public_key_of_the_private_key() {
    let world = World::start().await;
    let (alice, bob) = world.alice_and_bob().await;
    let key = SealedKey::of(&bob.logs_in().await.ok(), bob.password.as_str());
    let public = key.public().expect("the password decrypts the key");
    let friends = alice.prepares("chatfriends", "list", &json!({})).sent().await.ok();
    assert_eq!(friends["availabilities"][0]["publickey"], public);
    let arguments = ["rsa", "-pubin", "-inform", "DER", "-text", "-noout"];
    let text = openssl(&arguments, &BASE64.decode(&public).unwrap()).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("2048 bit") && text.contains("65537"), "{text}");
}
