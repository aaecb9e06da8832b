//! One client that listens: it subscribes, is told what is pending, acknowledges it, and so on.
//!
//! Most listeners are idle at most times, so what is done now and then is boxed: while a listener waits, it takes no
//! memory for that. `chatserver-load listeners` measures what is left.

use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout};

use super::Place;
use super::hub::{Bell, Entered};
use super::socket::{End, Received, Socket};
use crate::app::App;
use crate::clock::Timestamp;
use crate::envelope::{self, Reply};
use crate::error::Error;
use crate::fields::Fields;
use crate::id::{Parse, Signature, StationId, UserId};
use crate::notifications::{Inbox, Reach, Sequence};
use crate::signature::{Signed, SigningKey};
use crate::store;

/// How long a client may take to subscribe.
const SUBSCRIBE_WITHIN: Duration = Duration::from_secs(10);

/// How long the next notification waits for the last one to be acknowledged.
const HOLD: Duration = Duration::from_secs(1);

/// What a subscription signs as its API.
const API: &str = "chatlistener";

/// Converses with a client until one of the two ends it.
pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    app: Arc<App>,
    io: S,
    client: Option<IpAddr>,
    _place: Place,
) {
    let open = gauge!("chatserver_listeners");
    open.increment(1);
    let mut socket = Box::pin(Socket::new(io)).await;
    let since = Instant::now();
    let mut user = None;
    let end = tokio::select! {
        end = converse(&app, &mut socket, client, &mut user) => end,
        () = app.shutdown.closing() => End::Closing,
    };
    let (user, code, reason) = (user.as_ref().map(UserId::as_str), end.code(), end.reason());
    let seconds = since.elapsed().as_secs();
    let client = client.map(tracing::field::display);
    tracing::info!(client, user, code, reason, seconds, "a listener ended");
    Box::pin(socket.close(&end)).await;
    open.decrement(1);
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    app: &Arc<App>,
    socket: &mut Socket<S>,
    client: Option<IpAddr>,
    user: &mut Option<UserId>,
) -> End {
    match Box::pin(subscribe(app, socket, client)).await {
        Ok(subscription) => {
            *user = Some(subscription.shown.user);
            subscription.listen(app, socket).await
        }
        Err(end) => end,
    }
}

/// Whom a client listens for, and what shows that it may.
struct Subscription {
    shown: Shown,
    entered: Entered,
}

/// What a client has shown to subscribe.
pub(super) struct Shown {
    user: UserId,
    station: StationId,
    timestamp: String,
    signature: Signature,
}

impl Shown {
    /// Reads the first frame, which must subscribe, and when it was made.
    pub(super) fn read(frame: &[u8]) -> Result<(Self, Timestamp), Error> {
        let fields = Fields::of_body(frame)?;
        refuse_other(&fields, "subscribe")?;
        let (user, station) = (fields.required("userid")?, fields.required("stationid")?);
        let made: Timestamp = fields.required("timestamp")?;
        let (timestamp, signature) = (made.to_string(), fields.required("signature")?);
        Ok((Self { user, station, timestamp, signature }, made))
    }

    fn signed(&self) -> Signed<'_> {
        Signed {
            srv: "chatserver",
            api: API,
            user: self.user,
            station: Some(self.station),
            body: self.timestamp.as_bytes(),
        }
    }
}

/// Waits for the first frame, which must subscribe, and answers it.
async fn subscribe<S: AsyncRead + AsyncWrite + Unpin>(
    app: &Arc<App>,
    socket: &mut Socket<S>,
    client: Option<IpAddr>,
) -> Result<Subscription, End> {
    let first = async {
        loop {
            match socket.receive().await? {
                Received::Text(text) => return Ok(text),
                Received::Sign => socket.answer().await?,
            }
        }
    };
    let late = |_| Err(End::Malformed("the first frame did not come in time".to_owned()));
    let first = timeout(SUBSCRIBE_WITHIN, first).await.unwrap_or_else(late)?;
    match admit(app, first.as_bytes(), client).await {
        Ok(subscription) => {
            socket.send(Reply::ok().into_bytes()).await?;
            Ok(subscription)
        }
        Err(error) => {
            if let Some(cause) = error.source() {
                tracing::error!(error = cause, "a listener can't subscribe");
            }
            socket.send(envelope::refusal(&error).into_bytes()).await?;
            Err(End::Malformed(error.to_string()))
        }
    }
}

/// Looks at a subscription as at any signed request.
async fn admit(
    app: &Arc<App>,
    frame: &[u8],
    client: Option<IpAddr>,
) -> Result<Subscription, Error> {
    let (shown, timestamp) = Shown::read(frame)?;
    let (user, station) = (shown.user, shown.station);
    if !app.verifier.verify(&app.store, &shown.signed(), &shown.signature).await? {
        let sentence = "the signature is not the one of an enabled user's API key";
        let error = Error::InvalidSignature(sentence.to_owned());
        return Err(app.count_failure(client, error));
    }
    app.rates.count(&user).map_err(|retry_after| Error::RateLimited { retry_after })?;
    app.refuse_stale(timestamp)?;
    let entered = app.hub.enter(user, station)?;
    app.station_used(user, station, true).await?;
    Ok(Subscription { shown, entered })
}

/// Reads a frame behind the first one, which must acknowledge.
pub(super) fn acknowledged(frame: &[u8]) -> Result<Sequence, Error> {
    let fields = Fields::of_body(frame)?;
    refuse_other(&fields, "ack")?;
    fields.number("sequence").map(Sequence::said)
}

/// Refuses a frame that asks for any other action.
fn refuse_other(fields: &Fields<'_>, action: &'static str) -> Result<(), Error> {
    let asked: Action = fields.required("action")?;
    if asked.0 == action { Ok(()) } else { Err(Error::UnknownAction { known: action.to_owned() }) }
}

struct Action(String);

impl Parse for Action {
    const EXPECTED: &'static str = "subscribe in the first frame and ack in any other";

    fn parse(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }
}

impl Subscription {
    async fn listen<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        app: &Arc<App>,
        socket: &mut Socket<S>,
    ) -> End {
        let _listens = app.presence.listens(self.shown.user);
        let every = app.config.http.listener_ping_seconds.duration();
        let mut ping = interval_at(Instant::now() + every, every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let listening = Listening {
            app,
            socket,
            shown: &self.shown,
            bell: &self.entered.bell,
            ping,
            is_rung: true,
            told: None,
            sent: None,
            held_until: None,
            acknowledged: None,
            is_heard: true,
        };
        listening.run().await
    }
}

/// A client that is told what is new.
struct Listening<'a, S> {
    app: &'a Arc<App>,
    socket: &'a mut Socket<S>,
    shown: &'a Shown,
    bell: &'a Bell,
    ping: Interval,
    /// Whether there may be something new.
    is_rung: bool,
    /// How far the client was told on this connection.
    told: Option<Reach>,
    /// The newest notification.
    sent: Option<Sequence>,
    /// Until when the next one waits, for the last one to be acknowledged or for the store to have room.
    held_until: Option<Instant>,
    /// The newest that was acknowledged. Whoever repeats that costs nothing.
    acknowledged: Option<Sequence>,
    /// Whether the client has shown a sign of life since the last ping.
    is_heard: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Listening<'_, S> {
    async fn run(mut self) -> End {
        loop {
            if let Err(end) = self.step().await {
                return end;
            }
        }
    }

    async fn step(&mut self) -> Result<(), End> {
        if self.bell.is_replaced() {
            return Err(End::Replaced);
        }
        if self.is_rung && self.held_until.is_none() {
            Box::pin(self.tell()).await?;
        }
        let held_until = self.held_until.unwrap_or_else(Instant::now);
        tokio::select! {
            biased;
            () = self.bell.rung() => self.is_rung = true,
            () = sleep_until(held_until), if self.held_until.is_some() => self.held_until = None,
            received = self.socket.receive() => {
                self.is_heard = true;
                match received? {
                    Received::Text(text) => Box::pin(self.hear(text.as_bytes())).await?,
                    Received::Sign => Box::pin(self.socket.answer()).await?,
                }
            }
            // A sign of life that has come counts, though it is read only now.
            _ = self.ping.tick() => {
                if !std::mem::take(&mut self.is_heard) {
                    return Err(End::Slow);
                }
                Box::pin(self.socket.ping()).await?;
            }
        }
        Ok(())
    }

    fn inbox(&self) -> Inbox<'_> {
        Inbox {
            store: &self.app.store,
            hints: &self.app.hints,
            user: self.shown.user,
            station: self.shown.station,
        }
    }

    /// Tells what is new, if anything is.
    async fn tell(&mut self) -> Result<(), End> {
        self.is_rung = false;
        let pending = match self.inbox().peek(self.told).await {
            Err(store::Error::QueueFull) => {
                self.is_rung = true;
                self.held_until = Some(Instant::now() + HOLD);
                return Ok(());
            }
            pending => pending.map_err(|error| failed(&error))?,
        };
        let Some(notification) = pending else {
            self.app.stations.forget(self.shown.user, self.shown.station);
            return Err(End::Refused);
        };
        let key = SigningKey::new(&notification.api_key);
        if !key.verifies(&self.shown.signed(), &self.shown.signature) {
            return Err(End::Refused);
        }
        if notification.is_empty() {
            return Ok(());
        }
        let event = Reply::event("notification").with("sequence", &notification.sequence.get());
        self.socket.send(notification.on(event).into_bytes()).await?;
        counter!("chatserver_listener_notifications_total").increment(1);
        self.told = Some(notification.told);
        self.sent = Some(notification.sequence);
        self.held_until = Some(Instant::now() + HOLD);
        Ok(())
    }

    /// A frame behind the first one, which must acknowledge.
    async fn hear(&mut self, frame: &[u8]) -> Result<(), End> {
        let malformed = |error: Error| End::Malformed(error.to_string());
        let sequence = acknowledged(frame).map_err(malformed)?;
        if self.acknowledged >= Some(sequence) {
            return Ok(());
        }
        let is_newest = self.sent == Some(sequence);
        let acknowledged = if is_newest {
            self.inbox().acknowledge_sent(sequence).await
        } else {
            self.inbox().acknowledge(sequence).await
        };
        match acknowledged {
            // What it covers is told again on the next connection.
            Err(store::Error::QueueFull) => return Ok(()),
            acknowledged => acknowledged.map_err(|error| failed(&error))?,
        }
        if is_newest {
            self.acknowledged = Some(sequence);
            self.held_until = None;
        }
        Ok(())
    }
}

fn failed(error: &store::Error) -> End {
    tracing::error!(error = error as &dyn std::error::Error, "a listener can't be told");
    End::Failed
}
