//! `chatserver health`: asks the running server whether it is ready, for images without curl.
//!
//! It asks at `http.metrics_listen`, which answers even when clients hold all connections of the API.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::failure::Refusal;
use super::output::Output;
use super::{Failed, Settings};

/// Maximum time for the answer. `/readyz` itself takes at most 4 s.
const PATIENCE: Duration = Duration::from_secs(8);

/// Maximum bytes of the answer. That of a server has some 150.
const ANSWER_BYTES: u64 = 16 * 1024;

const REQUEST: &[u8] = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

pub async fn run(settings: &Settings) -> Result<(), Failed> {
    let config = settings.load(&[])?;
    let Some(address) = config.http.metrics_listen.0 else {
        let sentence = "http.metrics_listen is empty: `health` asks the server there";
        return Err(Refusal::with_code("invalid_settings", sentence));
    };
    let answer = match timeout(PATIENCE, ask(address)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(unreachable(address, &error.to_string())),
        Err(_) => {
            let late = format!("no answer within {} s", PATIENCE.as_secs());
            return Err(unreachable(address, &late));
        }
    };
    let (head, state) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let state = state.trim_end();
    if !head.starts_with("HTTP/1.1 200 ") {
        let sentence = format!("the server at {address} is not ready: {state}");
        return Err(Refusal::with_code("not_ready", sentence));
    }
    Output::new(state, json!({ "state": state })).print(settings.json)
}

async fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(REQUEST).await?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES).read_to_string(&mut answer).await?;
    Ok(answer)
}

fn unreachable(address: SocketAddr, cause: &str) -> Failed {
    let sentence = format!("no server answers at http.metrics_listen = {address}: {cause}");
    Refusal::with_code("unreachable", sentence)
}
