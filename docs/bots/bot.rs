//! Answers each message once with "you said: …".
//!
//! `cargo run --example bot -- https://chat.example.com/ bot.json`, where bot.json is what `chatserver user add … --json`
//! prints. Keep it at mode 0600: it holds the keys. The bot records beside it, in bot.json.positions, how far it has read.

use std::path::PathBuf;
use std::{env, error, fs};

use chatserver::client::{Conversation, Error, Inbox, Positions, Received, Session};
use chatserver::domain::{ApiKey, MessageId, Parse as _, StationId};
use chatserver::keys::EncryptionPassword;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Refusals after which the message stays without an answer, or has it already.
const PERMANENT: [&str; 5] =
    ["message_conflict", "not_friends", "blocked", "quota_exceeded", "too_large"];

#[tokio::main]
async fn main() -> Result<(), Box<dyn error::Error>> {
    let arguments: Vec<String> = env::args().collect();
    let [_, url, file] = arguments.as_slice() else { return Err("usage: bot URL FILE".into()) };
    let keys: Value = serde_json::from_slice(&fs::read(file)?)?;
    let secret = |name: &str| keys[name].as_str().unwrap_or_default();
    let api_key = ApiKey::parse(secret("apikey")).ok_or("the file has no API key")?;
    let password = EncryptionPassword::parse(secret("encryptionpassword"));
    let password = password.ok_or("the file has no encryption password")?;
    // A station is a device. It follows from the API key, so that each run is the same device.
    let station = StationId::parse(&digest(&["bot", api_key.as_str()])).ok_or("no station")?;
    let profile = Session::log_in(url.parse()?, &api_key, &password, station).await?;
    let session = Session::of(&profile, file.as_ref())?;
    session.call("chatavailability", &json!({ "action": "useravailable" })).await?;

    let path = PathBuf::from(format!("{file}.positions"));
    let positions = if let Some(positions) = Positions::load(&path)? {
        positions
    } else {
        // The first run begins with the messages that come from now on.
        let positions = Positions::at_the_end(&session.conversations().await?, &session.api.now());
        positions.save(&path)?;
        positions
    };
    let mut inbox = Inbox::new(&session, session.credentials.clone(), positions);
    let run = inbox.run(async |conversation, message, positions| {
        answer(&session, conversation, &message).await?;
        Ok(positions.save(&path)?)
    });
    Ok(run.await?)
}

/// Answers a message. The ID follows from the message: a repeat after a crash is a `message_conflict`, and the answer is
/// stored once.
async fn answer(session: &Session, to: &Conversation, message: &Received) -> Result<(), Error> {
    let Ok(text) = &message.text else { return Ok(()) };
    if message.sender == Some(session.user()) {
        return Ok(());
    }
    let text: String = text.chars().take(1000).collect();
    let id = MessageId::parse(&digest(&[&to.id, &to.instance, message.id.as_str()]));
    match session.send(to, &format!("you said: {text}"), id).await {
        Err(error) if PERMANENT.iter().any(|code| error.is(code)) => Ok(()),
        sent => sent.map(drop),
    }
}

fn digest(parts: &[&str]) -> String {
    hex::encode(&Sha256::digest(parts.join("\n"))[..16])
}
