//! The first frame of a listener: its user and station, and the proof that it may listen.

use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::hub::{Registration, SocketPermit};
use super::socket::{End, Received, Socket};
use crate::app::App;
use crate::config::MAX_CLOCK_SKEW_SECONDS;
use crate::domain::{ApiKey, Parse, Refusal, Replay, Signature, StationId, Timestamp, UserId};
use crate::envelope::{self, Reply};
use crate::error::Error;
use crate::fields::Fields;
use crate::signature::Signed;
use crate::store::WriteError;

/// Maximum time for a client to subscribe.
const SUBSCRIBE_WITHIN: Duration = Duration::from_secs(10);

/// The API name that a subscription's signature covers.
const API: &str = "chatlistener";

/// A client that may listen, with its entry in the hub.
pub(super) struct Subscription {
    pub(super) frame: SubscribeFrame,
    pub(super) registration: Registration,
}

/// The fields of a frame that subscribes.
pub(super) struct SubscribeFrame {
    pub(super) user: UserId,
    pub(super) station: StationId,
    timestamp: Timestamp,
    /// The timestamp, followed by an LF and the nonce if there is one.
    signed: String,
    signature: Signature,
}

impl SubscribeFrame {
    /// Reads the first frame. Any action but `subscribe` is refused.
    pub(super) fn read(text: &[u8]) -> Result<Self, Error> {
        let fields = Fields::of_body(text)?;
        let action: Action = fields.required("action")?;
        if action.0 != "subscribe" {
            return Err(Error::UnknownAction { known: "subscribe".to_owned() });
        }
        let (user, station) = (fields.required("userid")?, fields.required("stationid")?);
        let timestamp: Timestamp = fields.required("timestamp")?;
        let nonce: Option<Nonce> = fields.optional("nonce")?;
        let signed = match nonce {
            None => timestamp.to_string(),
            Some(nonce) => format!("{timestamp}\n{}", nonce.0),
        };
        Ok(Self { user, station, timestamp, signed, signature: fields.required("signature")? })
    }

    pub(super) fn signed(&self) -> Signed<'_> {
        Signed {
            srv: "chatserver",
            api: API,
            user: self.user,
            station: Some(self.station),
            body: self.signed.as_bytes(),
        }
    }

    pub(super) fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Returns the record of the frame, which is accepted only once.
    fn replay(&self) -> Replay {
        let expires_at = self.timestamp.plus_seconds(MAX_CLOCK_SKEW_SECONDS.into());
        Replay { user: self.user, signature: self.signature, expires_at }
    }
}

/// Tells apart two frames of the same second.
struct Nonce(String);

impl Parse for Nonce {
    const EXPECTED: &'static str = "1 to 64 characters of A-Z, a-z, 0-9 and -";

    fn parse(text: &str) -> Option<Self> {
        let well_formed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_nonce = (1..=64).contains(&text.len()) && text.bytes().all(well_formed);
        is_nonce.then(|| Self(text.to_owned()))
    }
}

/// The action of a frame. Any text parses: the code that reads the frame knows the actions.
pub(super) struct Action(pub(super) String);

impl Parse for Action {
    const EXPECTED: &'static str = "subscribe in the first frame, ack or ping in later frames";

    fn parse(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }
}

/// Waits for the first frame, which must subscribe, and answers it.
pub(super) async fn subscribe<S: AsyncRead + AsyncWrite + Unpin>(
    app: &Arc<App>,
    socket: &mut Socket<S>,
    client: Option<IpAddr>,
) -> Result<(Subscription, SocketPermit), End> {
    let first = async {
        loop {
            match socket.receive().await? {
                Received::Text(text) => return Ok(text),
                Received::Sign => socket.answer().await?,
            }
        }
    };
    let late = |_| {
        let seconds = SUBSCRIBE_WITHIN.as_secs();
        Err(End::Malformed(format!("the first frame did not arrive within {seconds} s")))
    };
    let first = timeout(SUBSCRIBE_WITHIN, first).await.unwrap_or_else(late)?;
    match admit(app, first.as_bytes(), client).await {
        Ok(admitted) => {
            let reply = Reply::ok().with("epoch", &app.store.epoch().id);
            socket.send(reply.into_bytes()).await?;
            Ok(admitted)
        }
        Err(error) => {
            if let Some(cause) = error.source() {
                tracing::error!(error = cause, "subscribing a listener failed");
            }
            socket.send(envelope::refusal(&error).into_bytes()).await?;
            Err(End::Malformed(error.to_string()))
        }
    }
}

/// Admits a subscription. Unlike a request, it is never verified with a cached key, and the transaction that records the
/// frame checks the key again: a listener that is admitted with an old key would be closed at once. For the same reason
/// the station is looked up in the store.
///
/// An accepted frame replaces an earlier listener, so it is recorded first. A frame that is refused at a limit is not
/// recorded, unless the limit was reached at the last moment.
async fn admit(
    app: &Arc<App>,
    text: &[u8],
    client: Option<IpAddr>,
) -> Result<(Subscription, SocketPermit), Error> {
    let verified = verify(app, text).await;
    let (frame, api_key) = verified.map_err(|error| app.count_failure(client, error))?;
    let (user, station) = (frame.user, frame.station);
    app.charge(user)?;
    app.hub
        .refuse_excess(user, station)
        .inspect_err(|_| app.bounds.hit("http.listeners_per_user"))?;
    let permit = app.hub.subscribed().ok_or_else(|| {
        app.bounds.hit("http.listeners");
        Error::Crowded
    })?;
    match app.store.record_with_key(frame.replay(), api_key).await {
        Err(WriteError::Refused(Refusal::Outdated)) => {
            return Err(app.count_failure(client, unverified()));
        }
        recorded => recorded?,
    }
    app.stations.forget(user, station);
    app.station_used(user, station, true).await?;
    let registration = app.hub.enter(user, station)?;
    Ok((Subscription { frame, registration }, permit))
}

/// Verifies a subscription. Returns the key that it is signed with.
async fn verify(app: &App, text: &[u8]) -> Result<(SubscribeFrame, ApiKey), Error> {
    let frame = SubscribeFrame::read(text)?;
    let verified =
        app.verifier.verify_stored(&app.store, &frame.signed(), &frame.signature).await?;
    let api_key = verified.ok_or_else(unverified)?;
    app.refuse_stale(frame.timestamp)?;
    Ok((frame, api_key))
}

fn unverified() -> Error {
    let sentence = "signature does not verify: the user is unknown or disabled, or the API key or a signed byte differs";
    Error::InvalidSignature(sentence.to_owned())
}
