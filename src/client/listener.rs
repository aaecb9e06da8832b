//! A listener that stays: it subscribes, pings and reconnects (docs/protocol.md#12-the-listener).

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use super::backoff::Backoff;
use super::transport::{Socket, unreachable_at};
use super::{Api, Credentials, Error};
use crate::random::between_zero_and;

/// Silence after which the listener pings, and then once more until it reconnects. The server pings as often.
const SILENCE: Duration = Duration::from_secs(30);

/// Maximum time for the answer to a subscription.
const ANSWER: Duration = Duration::from_secs(10);

/// Maximum random delay after the server has stopped, so that its clients do not return at once.
const SPREAD: Duration = Duration::from_secs(3);

/// A hint that something has changed. It comes again until it is acknowledged.
#[derive(Clone, Debug, Deserialize)]
pub struct Notification {
    /// Acknowledge this number when everything up to it is processed.
    pub sequence: u64,
    /// Conversations that changed.
    pub conversationchangedof: Vec<String>,
    /// The caller's own id, if the lists changed.
    pub conversationlistchangedof: Vec<String>,
}

/// A subscription of one station.
pub struct Listener<'a> {
    api: &'a Api,
    credentials: Credentials,
    socket: Option<Socket>,
    /// The time of the last subscription.
    connected_at: Instant,
    /// Number of subscriptions so far.
    pub(super) subscriptions: u64,
    backoff: Backoff,
    pub(super) outage: Outage,
}

/// Tells once that the server does not answer, and once that it answers again.
pub(super) struct Outage {
    pub(super) warn: fn(&str),
    is_told: bool,
}

impl Outage {
    pub(super) fn begins(&mut self, error: &Error) {
        if !self.is_told {
            (self.warn)(&format!("{error}; trying again"));
            self.is_told = true;
        }
    }

    pub(super) fn ends(&mut self) {
        if self.is_told {
            (self.warn)("the server answers again");
            self.is_told = false;
        }
    }
}

/// The field that tells the events of a listener apart.
#[derive(Deserialize)]
struct Event {
    event: String,
}

/// The answer to a subscription.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Subscribed {
    status: String,
    errorcode: String,
    errormessage: String,
    servertime: String,
}

/// Why a connection ended.
enum Ended {
    /// It can be opened again.
    Again,
    /// It can be opened again once this failure has passed.
    Outage(Error),
    /// After a random delay.
    Later,
    /// For good.
    Error(Error),
}

impl<'a> Listener<'a> {
    /// Prepares a listener. The first [`Self::next`] connects it.
    #[must_use]
    pub fn new(api: &'a Api, credentials: Credentials) -> Self {
        let (connected_at, backoff) = (Instant::now(), Backoff::default());
        let outage = Outage { warn: |_| (), is_told: false };
        Self { api, credentials, socket: None, connected_at, subscriptions: 0, backoff, outage }
    }

    /// Waits for the next notification. Reconnects for as long as it takes, after delays of at most 15 s. What changes
    /// meanwhile is notified after the reconnection.
    ///
    /// # Errors
    ///
    /// [`Error::Replaced`] if another listener of the station took over, [`Error::Refused`] if the server refuses the
    /// credentials.
    pub async fn next(&mut self) -> Result<Notification, Error> {
        loop {
            let ended = match self.receive().await {
                Ok(notification) => return Ok(notification),
                Err(ended) => ended,
            };
            let connected = self.socket.take().map(|_| self.connected_at.elapsed());
            let delay = self.backoff.after(connected.unwrap_or_default());
            match ended {
                Ended::Again => sleep(delay).await,
                Ended::Outage(error) => {
                    self.outage.begins(&error);
                    sleep(delay).await;
                }
                Ended::Later => sleep(delay + between_zero_and(SPREAD)).await,
                Ended::Error(error) => return Err(error),
            }
        }
    }

    /// Acknowledges everything up to a notification. Without a connection this does nothing: the hint comes again.
    pub async fn acknowledge(&mut self, sequence: u64) {
        if let Some(socket) = &mut self.socket {
            let ack = json!({ "action": "ack", "sequence": sequence });
            // A broken connection is noticed by the next read.
            drop(socket.send(Message::text(ack.to_string())).await);
        }
    }

    async fn receive(&mut self) -> Result<Notification, Ended> {
        if self.socket.is_none() {
            self.socket = Some(self.subscribe().await?);
            self.connected_at = Instant::now();
            self.subscriptions += 1;
            self.outage.ends();
        }
        let socket = self.socket.as_mut().ok_or(Ended::Again)?;
        let mut has_pinged = false;
        loop {
            let frame = match timeout(SILENCE, socket.next()).await {
                Err(_) if has_pinged => return Err(Ended::Again),
                Err(_) => {
                    let ping = Message::text(r#"{"action":"ping"}"#);
                    socket.send(ping).await.map_err(|_| Ended::Again)?;
                    has_pinged = true;
                    continue;
                }
                Ok(frame) => frame.ok_or(Ended::Again)?.map_err(|_| Ended::Again)?,
            };
            has_pinged = false;
            match frame {
                Message::Text(text) => {
                    let event = serde_json::from_str::<Event>(&text);
                    if event.is_ok_and(|Event { event }| event == "notification") {
                        return serde_json::from_str(&text)
                            .map_err(|error| Ended::Error(Error::Answer(error.to_string())));
                    }
                }
                Message::Close(frame) => {
                    return Err(match frame.map(|frame| u16::from(frame.code)) {
                        Some(4001) => Ended::Error(Error::Replaced),
                        Some(1001) => Ended::Later,
                        // 4003 too: the next subscription gets the reason.
                        _ => Ended::Again,
                    });
                }
                _ => {}
            }
        }
    }

    async fn subscribe(&self) -> Result<Socket, Ended> {
        let mut socket = self.api.open_listener().await.map_err(Ended::of)?;
        let nonce = Uuid::new_v4().simple().to_string();
        let frame = self.credentials.subscription(&self.api.now(), Some(&nonce));
        socket.send(Message::text(frame)).await.map_err(|_| Ended::Again)?;
        let answer = timeout(ANSWER, socket.next()).await;
        let answer =
            answer.map_err(|silence| Ended::of(unreachable_at(self.api.url(), silence)))?;
        let Some(Ok(Message::Text(answer))) = answer else { return Err(Ended::Again) };
        let Subscribed { status, errorcode, errormessage, servertime } =
            serde_json::from_str(&answer).unwrap_or_default();
        let error = match status.as_str() {
            "OK" => return Ok(socket),
            "ERROR" => Error::refused(errorcode, errormessage),
            _ => Error::Answer("the subscription is answered without an envelope".to_owned()),
        };
        if error.is("timestamp_out_of_range") && self.api.correct_clock(&servertime) {
            return Err(Ended::Again);
        }
        Err(Ended::of(error))
    }
}

impl Ended {
    fn of(error: Error) -> Self {
        if error.may_pass() { Self::Outage(error) } else { Self::Error(error) }
    }
}
