//! docs/vectors.json, which the tests of every client of the project read.

use chatserver::client::payload::{self, MessageAddress, OpenError};
use chatserver::client::{Credentials, PrivateKey};
use chatserver::domain::{
    ApiKey, ConversationId, Email, Instance, MessageId, Parse as _, StationId, UserId,
};
use chatserver::keys::{ConversationSecret, EncryptionPassword};
use chatserver::signature::{Signed, SigningKey};
use serde_json::Value;

use crate::harness::openssl::SealedKey;

fn vectors(of: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../docs/vectors.json")).unwrap();
    let vectors = all[of].as_array().unwrap().clone();
    assert!(vectors.len() > 1, "{of}");
    vectors
}

#[test]
fn signatures_are_reproduced() {
    for vector in vectors("signatures") {
        let text = |name: &str| vector[name].as_str().unwrap();
        let key = ApiKey::parse(text("apikey")).unwrap();
        let user = UserId::parse(text("userid")).unwrap();
        let station = StationId::parse(text("stationid"));
        let (srv, api, body) = (text("srv"), text("api"), text("body_utf8").as_bytes());
        let signature = SigningKey::new(&key).sign(&Signed { srv, api, user, station, body });
        assert_eq!(signature.as_str(), text("signature_hex"), "{vector}");
        if let Some(station) = station {
            let signature = Credentials::new(user, station, &key).sign_for(srv, api, body);
            assert_eq!(signature.as_str(), text("signature_hex"), "{vector}");
        }
    }
}

#[test]
fn ids_are_reproduced() {
    for vector in vectors("userids") {
        let email = Email::parse(vector["email_utf8"].as_str().unwrap()).unwrap();
        assert_eq!(UserId::of(&email).as_str(), vector["userid"]);
    }
    for vector in vectors("conversationids") {
        let [one, other] = [0, 1].map(|n| UserId::parse(vector["userids"][n].as_str().unwrap()));
        let conversation = ConversationId::one_to_one(one.unwrap(), other.unwrap());
        assert_eq!(conversation.as_str(), vector["conversationid"]);
    }
}

#[test]
fn private_keys_open_and_unwrap() {
    for vector in vectors("privatekeys") {
        let password = vector["encryptionpassword_utf8"].as_str().unwrap();
        let pem = vector["rsakey"].as_str().unwrap();
        let parsed = EncryptionPassword::parse(password).unwrap();
        for pem in [pem, &pem.replace("\r\n", "\n")] {
            let key = PrivateKey::open(pem, &parsed).unwrap();
            for wrapped in vectors("wrapped") {
                let plain = key.unwrap("a vector", wrapped["wrapped_base64"].as_str().unwrap());
                assert_eq!(hex::encode(&*plain.unwrap()), wrapped["plain_hex"]);
            }
            assert!(key.unwrap("a vector", "AQID").is_err());
        }
        let by_openssl = SealedKey::of(&vector, password);
        assert_eq!(by_openssl.public().unwrap(), vector["publickey_base64"]);

        let wrong = EncryptionPassword::parse("wrong password").unwrap();
        assert!(PrivateKey::open(pem, &wrong).is_err());
        for malformed in ["", "x", &pem.replace("CFB", "CBC"), &pem[..400]] {
            assert!(PrivateKey::open(malformed, &parsed).is_err());
        }
    }
}

fn opened(vector: &Value) -> Result<String, OpenError> {
    let text = |name: &str| vector[name].as_str().unwrap();
    let mut key = [0; 32];
    hex::decode_to_slice(text("key_hex"), &mut key).unwrap();
    let id = MessageId::parse(text("messageid")).unwrap();
    let place = MessageAddress {
        conversation: ConversationId::parse(text("conversationid")).unwrap(),
        instance: Instance::parse(text("instance")).unwrap(),
        id: &id,
    };
    let (secret, sender) = (ConversationSecret::from_bytes(key), UserId::parse(text("sender")));
    payload::open_from(&secret, &place, text("data_base64"), [sender.unwrap(); 2])
}

#[test]
fn payloads_open() {
    for vector in vectors("payloads") {
        assert_eq!(opened(&vector).unwrap(), vector["text_utf8"], "{vector}");
    }
}

#[test]
fn payloads_with_any_difference_do_not_open() {
    for vector in vectors("payloads_that_do_not_open") {
        assert!(opened(&vector).is_err(), "{vector}");
    }
}
