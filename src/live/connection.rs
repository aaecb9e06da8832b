//! The connection of a listener: the client subscribes, receives what is pending, acknowledges it, and so on.
//!
//! Most listeners are idle most of the time, so rare work is boxed and takes no memory while a listener waits.
//! `chatserver-load listeners` measures the memory that remains.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};

use super::hub::{Mailbox, SocketPermit};
use super::socket::{End, Received, Socket};
use super::subscription::{Action, SubscribeFrame, Subscription, subscribe};
use crate::app::App;
use crate::domain::{Timestamp, UserId};
use crate::envelope::Reply;
use crate::error::Error;
use crate::fields::Fields;
use crate::notifications::{Inbox, Notification, Sequence, Watermark};
use crate::signature::SigningKey;
use crate::stations::TOUCH_AFTER;
use crate::store::{self, Epoch, News};

/// Maximum time that the next notification waits for the last one's acknowledgement, and the delay where the store could
/// not read what is new.
const HOLD: Duration = Duration::from_secs(1);

/// Serves a listener until the client or the server ends it, then logs the reason and closes the socket.
pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    app: Arc<App>,
    io: S,
    client: Option<IpAddr>,
    mut permit: SocketPermit,
) {
    let mut socket = Box::pin(Socket::new(io)).await;
    let since = Instant::now();
    let mut user = None;
    let end = tokio::select! {
        end = converse(&app, &mut socket, client, &mut permit, &mut user) => end,
        () = app.shutdown.closing() => End::Closing,
    };
    let (user, code, reason) = (user.as_ref().map(UserId::as_str), end.code(), end.reason());
    let seconds = since.elapsed().as_secs();
    let client = client.map(tracing::field::display);
    tracing::info!(client, user, code, reason, seconds, "a listener ended");
    Box::pin(socket.close(&end)).await;
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    app: &Arc<App>,
    socket: &mut Socket<S>,
    client: Option<IpAddr>,
    permit: &mut SocketPermit,
    user: &mut Option<UserId>,
) -> End {
    match Box::pin(subscribe(app, socket, client)).await {
        Ok((subscription, subscribed)) => {
            *permit = subscribed;
            *user = Some(subscription.frame.user);
            subscription.listen(app, socket).await
        }
        Err(end) => end,
    }
}

impl Subscription {
    async fn listen<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        app: &Arc<App>,
        socket: &mut Socket<S>,
    ) -> End {
        let _listens = app.presence.listens(self.frame.user);
        let every = app.config.http.listener_ping_seconds.duration();
        let mut ping = interval_at(Instant::now() + every, every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let listening = Listening {
            app,
            socket,
            frame: &self.frame,
            mailbox: &self.registration.mailbox,
            ping,
            is_woken: true,
            epoch: app.store.epoch(),
            delivered: None,
            sent: None,
            held_until: None,
            acknowledged: None,
            is_heard: true,
            used_at: app.clock.now(),
        };
        listening.run().await
    }
}

/// A subscribed client, and how far it was told.
struct Listening<'a, S> {
    app: &'a Arc<App>,
    socket: &'a mut Socket<S>,
    frame: &'a SubscribeFrame,
    mailbox: &'a Mailbox,
    ping: Interval,
    /// Whether there may be something new.
    is_woken: bool,
    /// The epoch of what follows.
    epoch: Arc<Epoch>,
    /// Watermark up to which the client was told on this connection.
    delivered: Option<Watermark>,
    /// Sequence number of the newest notification sent.
    sent: Option<Sequence>,
    /// End of the wait before the next notification, for the last acknowledgement or for room in the store's queue.
    held_until: Option<Instant>,
    /// The newest acknowledged sequence number. Repeating it costs nothing.
    acknowledged: Option<Sequence>,
    /// Whether the client has given a sign of life since the last ping.
    is_heard: bool,
    /// Time at which the use of the station was last recorded.
    used_at: Timestamp,
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
        if self.mailbox.is_replaced() {
            return Err(End::Replaced);
        }
        if self.is_woken && self.held_until.is_none() {
            Box::pin(self.send_news()).await?;
        }
        let held_until = self.held_until.unwrap_or_else(Instant::now);
        tokio::select! {
            biased;
            () = self.mailbox.woken() => self.is_woken = true,
            () = sleep_until(held_until), if self.held_until.is_some() => self.held_until = None,
            received = self.socket.receive() => {
                self.is_heard = true;
                match received? {
                    Received::Text(text) => Box::pin(self.hear(text.as_bytes())).await?,
                    Received::Sign => Box::pin(self.socket.answer()).await?,
                }
            }
            // Comes last: a sign of life that has arrived counts, though it is read only now.
            _ = self.ping.tick() => {
                if !std::mem::take(&mut self.is_heard) {
                    return Err(End::Slow);
                }
                self.note_use();
                Box::pin(self.socket.ping()).await?;
            }
        }
        Ok(())
    }

    fn inbox(&self) -> Inbox<'_> {
        self.app.inbox(self.frame.user, self.frame.station)
    }

    /// Sends what is new, if there is anything.
    async fn send_news(&mut self) -> Result<(), End> {
        self.is_woken = false;
        self.enter_epoch();
        let notification = match self.take_news() {
            Some(notification) => Some(notification),
            None => self.read_news().await?,
        };
        let Some(notification) = notification else { return Ok(()) };
        self.delivered = Some(notification.watermark);
        if notification.is_empty() {
            return Ok(());
        }
        let event = Reply::event("notification").with("sequence", &notification.sequence.get());
        let event = event.with("epoch", &self.epoch.id);
        self.socket.send(notification.on(event).into_bytes()).await?;
        counter!("chatserver_listener_notifications_total").increment(1);
        self.sent = Some(notification.sequence);
        self.held_until = Some(Instant::now() + HOLD);
        Ok(())
    }

    /// Returns what commits say to this listener; `None` where only the store knows what is new. It takes the news in any
    /// case, since the read that follows covers them.
    fn take_news(&self) -> Option<Notification> {
        let news = self.mailbox.take_news();
        self.inbox().notification_from(self.delivered?, &news?)
    }

    /// Reads what is new, and whether the client may still listen. Returns `None` where the store can't tell at the
    /// moment, and is asked again later.
    async fn read_news(&mut self) -> Result<Option<Notification>, End> {
        counter!("chatserver_listener_reads_total").increment(1);
        let pending = match self.inbox().peek(self.delivered).await {
            Err(error) if error.is_temporary() => {
                // News that arrive meanwhile must not replace the read: it may find that the client is locked out.
                self.mailbox.put(&News::Unknown);
                self.is_woken = true;
                self.held_until = Some(Instant::now() + HOLD);
                return Ok(None);
            }
            pending => pending.map_err(|error| failed(&error))?,
        };
        let Some((api_key, notification)) = pending else {
            let (user, station) = (self.frame.user, self.frame.station);
            self.app.stations.forget(user, station);
            self.app.positions.forget(user, station);
            return Err(End::Refused);
        };
        let key = SigningKey::new(&api_key);
        if !key.verifies(&self.frame.signed(), self.frame.signature()) {
            return Err(End::Refused);
        }
        Ok(Some(notification))
    }

    /// Forgets how far the client was told if another epoch has begun, whose numbers have another meaning.
    fn enter_epoch(&mut self) {
        let epoch = self.app.store.epoch();
        if self.epoch.id != epoch.id {
            (self.delivered, self.sent, self.acknowledged) = (None, None, None);
            self.epoch = epoch;
        }
    }

    /// Records that the station is in use, since an open listener is a use of its station. Writes to the store at most
    /// every [`TOUCH_AFTER`] seconds.
    fn note_use(&mut self) {
        let (user, station, now) = (self.frame.user, self.frame.station, self.app.clock.now());
        self.app.stations.heard(user, station);
        if now.distance(self.used_at) >= TOUCH_AFTER {
            self.used_at = now;
            self.app.store.touch_station(user, station, now);
        }
    }

    /// Handles a frame after the first one.
    async fn hear(&mut self, frame: &[u8]) -> Result<(), End> {
        match Heard::read(frame).map_err(|error| End::Malformed(error.to_string()))? {
            Heard::Acknowledgement(sequence) => self.acknowledge(sequence).await,
            Heard::Ping => self.socket.send(Reply::event("pong").into_bytes()).await,
        }
    }

    async fn acknowledge(&mut self, sequence: Sequence) -> Result<(), End> {
        if self.acknowledged >= Some(sequence) {
            return Ok(());
        }
        let is_newest = self.sent == Some(sequence);
        // An older number costs a read of the database, so it counts against the user's rate. No client sends many.
        if !is_newest && self.app.charge(self.frame.user).is_err() {
            return Ok(());
        }
        if is_newest {
            self.inbox().acknowledge_sent(sequence);
            self.acknowledged = Some(sequence);
            self.held_until = None;
            self.app.stations.heard(self.frame.user, self.frame.station);
            return Ok(());
        }
        match self.inbox().acknowledge(sequence).await {
            // The next connection is told again what this would have acknowledged.
            Err(error) if error.is_temporary() => Ok(()),
            acknowledged => acknowledged.map_err(|error| failed(&error)),
        }
    }
}

/// The content of a frame after the first one.
pub(super) enum Heard {
    Acknowledgement(Sequence),
    Ping,
}

impl Heard {
    pub(super) fn read(frame: &[u8]) -> Result<Self, Error> {
        let fields = Fields::of_body(frame)?;
        let action: Action = fields.required("action")?;
        match action.0.as_str() {
            "ack" => {
                fields.number("sequence").map(Sequence::from_client).map(Self::Acknowledgement)
            }
            "ping" => Ok(Self::Ping),
            _ => Err(Error::UnknownAction { known: "ack, ping".to_owned() }),
        }
    }
}

fn failed(error: &store::Error) -> End {
    tracing::error!(error = error as &dyn std::error::Error, "notifying a listener failed");
    End::Failed
}
