//! Answers each message once with "you said: …".
//!
//! `cargo run --example bot -- https://chat.example.com/ bot.json`, where bot.json is what `chatserver user add … --json`
//! prints. Keep it at mode 0600: it holds the keys. The bot records beside it, in bot.json.rs.positions, how far it has read.

use std::process::ExitCode;
use std::{env, error, fs};

use chatserver::client::{Inbox, Positions, Save, Session, derived_id, persist};
use chatserver::domain::{ApiKey, Parse as _, StationId};
use chatserver::keys::EncryptionPassword;
use serde_json::{Value, json};
use url::Url;

#[tokio::main]
async fn main() -> ExitCode {
    let Err(error) = run().await else { return ExitCode::SUCCESS };
    eprintln!("{error}");
    ExitCode::FAILURE
}

async fn run() -> Result<(), Box<dyn error::Error>> {
    let arguments: Vec<String> = env::args().collect();
    let [_, url, file] = arguments.as_slice() else { return Err("usage: bot URL FILE".into()) };
    let keys: Value = serde_json::from_slice(&fs::read(file)?)?;
    let secret = |name: &str| keys[name].as_str().unwrap_or_default();
    let api_key = ApiKey::parse(secret("apikey")).ok_or("the file has no API key")?;
    let password = EncryptionPassword::parse(secret("encryptionpassword"));
    let password = password.ok_or("the file has no encryption password")?;
    // A station is a device. It follows from the API key, so that each run is the same device.
    let station = StationId::parse(&derived_id(&["bot", api_key.as_str()])).ok_or("no station")?;
    let url = url.parse()?;
    let log_in = async || Session::log_in(Url::clone(&url), &api_key, &password, station).await;
    let (session, _) = persist(log_in, |error| eprintln!("{error}; trying again")).await?;
    session.call("chatavailability", &json!({ "action": "useravailable" })).await?;

    // The first run begins with the messages that come from now on.
    let positions = Positions::open(&session, format!("{file}.rs.positions").as_ref()).await?;
    let mut inbox = Inbox::new(&session, session.credentials.clone(), positions);
    inbox.warn = |sentence| eprintln!("{sentence}");
    eprintln!("answering at {url}");
    let run = inbox.run(async |conversation, message| {
        let Ok(text) = &message.text else { return Ok(Save::WithPage) };
        if message.sender == Some(session.user()) {
            return Ok(Save::WithPage);
        }
        let text: String = text.chars().take(1000).collect();
        // A repeat after a crash is stored once: the ID of an answer follows from that of its message.
        match session.answer(conversation, &message.id, &format!("you said: {text}")).await {
            Err(error) if error.refuses_message() => {}
            sent => sent?,
        }
        Ok(Save::Now)
    });
    Ok(run.await?)
}
