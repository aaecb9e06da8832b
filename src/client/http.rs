//! Signed requests, their envelopes, and retries by the protocol's rules.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use hyper::body::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use url::Url;
use uuid::Uuid;

use super::backoff::Backoff;
use super::error::Failure;
use super::transport::{RawResponse, Socket, Transport};
use super::{Credentials, Error, Login};
use crate::clock::Clock;
use crate::domain::{ApiKey, Parse as _, StationId, Timestamp};

/// Time that a request is sent again, while the server gives no answer or is busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// Maximum corrections of the clock for one request. After a restore, the second one waits for the next second.
const CORRECTIONS: u32 = 2;

/// A server as a client sees it. The requests of all its users share the connections and the clock.
pub struct Api {
    transport: Transport,
    url: Url,
    clock: Clock,
    /// Seconds that the server's clock is ahead.
    offset: AtomicI64,
}

impl Api {
    /// Takes the URL of a server: http or https, without credentials, query and fragment. Adds a missing `/` to its path.
    ///
    /// # Errors
    ///
    /// [`Error::Url`] for another URL, [`Error::Unreachable`] if the machine has no root certificates for https.
    pub fn new(url: Url, clock: Clock) -> Result<Self, Error> {
        let url = server_url(url)?;
        Ok(Self { transport: Transport::new(&url)?, url, clock, offset: AtomicI64::new(0) })
    }

    /// Returns the URL of the server.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Returns the present date by the server's clock, as far as it is known.
    #[must_use]
    pub fn now(&self) -> String {
        let now = self.clock.now();
        let shifted = now.unix().saturating_add(self.offset.load(Ordering::Relaxed));
        Timestamp::from_unix(shifted).unwrap_or(now).to_string()
    }

    /// Corrects the clock by `servertime`. Returns whether the text is a date.
    pub(super) fn correct_clock(&self, server_time: &str) -> bool {
        let server_time = Timestamp::parse(server_time);
        if let Some(server_time) = server_time {
            let offset = server_time.unix() - self.clock.now().unix();
            self.offset.store(offset, Ordering::Relaxed);
        }
        server_time.is_some()
    }

    /// Logs in (docs/protocol.md#4-login).
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn login(&self, station: StationId, api_key: &ApiKey) -> Result<Login, Error> {
        let body = json!({ "action": "login", "apikey": api_key.as_str(), "clientversioncode": 3 });
        let url = self.url_of("chatlogin");
        let body = Bytes::from(body.to_string());
        let answer = self.with_retries(async || {
            let headers = [("Ozeki-Station", station.as_str())];
            parse_envelope(self.transport.post(&url, &headers, body.clone()).await?)
        });
        answer.await?.parse()
    }

    /// Makes a signed request with these fields, `clientversioncode`, `timestamp` and a `nonce`. Sends it again while there
    /// is no answer, for at most 10 s (docs/protocol.md#doing-it-twice-c). Returns the envelope of a success, or that of
    /// `replayed` if an attempt without an answer was carried out.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn call(
        &self,
        credentials: &Credentials,
        api: &str,
        fields: &Value,
    ) -> Result<Answer, Error> {
        let nonce = Uuid::new_v4().to_string();
        let url = self.url_of(api);
        let mut corrections = 0;
        loop {
            // The same bytes in each attempt, so that the server recognizes them.
            let body = self.body(fields, &nonce);
            let signature = credentials.sign(api, &body);
            let headers = [
                ("Ozeki-Station", credentials.station.as_str()),
                ("Ozeki-User", credentials.user.as_str()),
                ("Ozeki-Signature", signature.as_str()),
            ];
            let mut attempts = 0;
            let answer = self.with_retries(async || {
                attempts += 1;
                let response = self.transport.post(&url, &headers, body.clone()).await?;
                match parse_envelope(response) {
                    Err(failure) if attempts > 1 && failure.error.is("replayed") => {
                        Ok(Answer(failure.envelope))
                    }
                    parsed => parsed,
                }
            });
            let failed = match answer.await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let is_late = failed.error.is("timestamp_out_of_range") && corrections < CORRECTIONS;
            let envelope: Option<Envelope> = serde_json::from_slice(&failed.envelope).ok();
            let server_time = envelope.and_then(|envelope| envelope.servertime);
            let server_time = server_time.filter(|_| is_late);
            if !server_time.is_some_and(|server_time| self.correct_clock(&server_time)) {
                return Err(failed.error);
            }
            if corrections > 0 {
                sleep(Duration::from_secs(1)).await;
            }
            corrections += 1;
        }
    }

    /// Opens a WebSocket at `ws` beside the URL: `/ws` or `/ozeki/ws` (docs/protocol.md#opening).
    pub(super) async fn open_listener(&self) -> Result<Socket, Error> {
        let url = self.url.join("ws").expect("an http URL has a path");
        self.transport.open(&url).await
    }

    fn url_of(&self, api: &str) -> Url {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("srv", "chatserver").append_pair("api", api);
        url
    }

    fn body(&self, fields: &Value, nonce: &str) -> Bytes {
        let mut body = fields.clone();
        body["clientversioncode"] = 3.into();
        body["timestamp"] = self.now().into();
        body["nonce"] = nonce.into();
        body.to_string().into()
    }

    /// Repeats an attempt that may pass later, with increasing delays or after `Retry-After`.
    async fn with_retries(
        &self,
        mut attempt: impl AsyncFnMut() -> Result<Answer, Failure>,
    ) -> Result<Answer, Failure> {
        let give_up_at = Instant::now() + PATIENCE;
        let mut backoff = Backoff::default();
        loop {
            let failed = match attempt().await {
                Err(failed) if failed.error.may_pass() => failed,
                done => return done,
            };
            let delay = failed.retry_after.unwrap_or_default().max(backoff.next());
            // `Retry-After` may be any number of seconds.
            if delay > give_up_at.saturating_duration_since(Instant::now()) {
                return Err(failed);
            }
            sleep(delay).await;
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// Checks the URL of a server. Completes its path to one that ends in `/` or `/index.php`, as `http.public_url` does: `ws` is
/// beside it.
///
/// # Errors
///
/// [`Error::Url`] unless it is http or https, without credentials, query and fragment.
pub fn server_url(mut url: Url) -> Result<Url, Error> {
    let is_http = ["http", "https"].contains(&url.scheme()) && url.host_str().is_some();
    let is_bare = url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if !is_http || !is_bare {
        return Err(Error::Url);
    }
    // The web client's address, which a browser shows.
    if let Some(server) = url.path().strip_suffix("/app/").or(url.path().strip_suffix("/app")) {
        let server = format!("{server}/");
        url.set_path(&server);
    }
    if !url.path().ends_with('/') && !url.path().ends_with("/index.php") {
        let folder = format!("{}/", url.path());
        url.set_path(&folder);
    }
    Ok(url)
}

/// The envelope of a success. It stays bytes until its type is known: as a `Value`, JSON takes 50 times its size.
#[derive(Debug)]
pub struct Answer(Bytes);

impl Answer {
    /// Reads the fields of this type and ignores all others.
    ///
    /// # Errors
    ///
    /// [`Error::Answer`].
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.0).map_err(|error| Error::Answer(error.to_string()))
    }
}

/// The fields that tell a success from a refusal.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Envelope {
    status: String,
    errormessage: String,
    errorcode: String,
    servertime: Option<String>,
}

fn parse_envelope(response: RawResponse) -> Result<Answer, Failure> {
    let RawResponse { status, retry_after, body, .. } = response;
    let Ok(envelope) = serde_json::from_slice::<Envelope>(&body) else {
        return Err(without_envelope(status, retry_after));
    };
    match envelope.status.as_str() {
        "OK" => Ok(Answer(body)),
        "ERROR" => {
            let error = Error::refused(envelope.errorcode, envelope.errormessage);
            Err(Failure { error, retry_after, envelope: body })
        }
        _ => Err(without_envelope(status, retry_after)),
    }
}

/// A bare 408 or 429 of the server, and 502 to 504 of a proxy whose server restarts, may pass.
fn without_envelope(status: hyper::StatusCode, retry_after: Option<Duration>) -> Failure {
    let sentence = format!("HTTP {status} without an envelope");
    let error = match status.as_u16() {
        429 => Error::Refused { code: "rate_limited".to_owned(), sentence },
        408 | 502..=504 => Error::Refused { code: "unavailable".to_owned(), sentence },
        _ => Error::Answer(sentence),
    };
    let mut failure = Failure::from(error);
    failure.retry_after = retry_after;
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listener_is_beside_the_path() {
        for (url, expected) in [
            ("http://chat.example.com", "http://chat.example.com/ws"),
            ("http://chat.example.com/ozeki", "http://chat.example.com/ozeki/ws"),
            ("http://chat.example.com/ozeki/", "http://chat.example.com/ozeki/ws"),
            ("http://chat.example.com/ozeki/index.php", "http://chat.example.com/ozeki/ws"),
        ] {
            let url = server_url(Url::parse(url).expect("a URL")).expect("that of a server");
            assert_eq!(url.join("ws").expect("a URL").as_str(), expected);
        }
    }
}
