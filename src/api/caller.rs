//! Who calls: the three headers, the signature, the rates, the freshness.

use std::net::IpAddr;

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};

use super::fields::Fields;
use super::observe::Seen;
use super::{Api, Shows, action_of, client};
use crate::app::App;
use crate::clock::Timestamp;
use crate::config::MAX_CLOCK_SKEW_SECONDS;
use crate::error::Error;
use crate::id::{Parse, Signature, StationId, UserId};
use crate::notifications::Poll;
use crate::signature::{self, Signed};
use crate::store::Replay;
use crate::users::Caller;

pub const STATION: HeaderName = HeaderName::from_static("ozeki-station");
pub const USER: HeaderName = HeaderName::from_static("ozeki-user");
pub const SIGNATURE: HeaderName = HeaderName::from_static("ozeki-signature");

/// The station that a login names. It is read like a field: there is no signature that it could spoil.
pub fn station_of_login(headers: &HeaderMap) -> Result<StationId, Error> {
    header(headers, &STATION)
        .map_err(|problem| Error::InvalidField { field: "Ozeki-Station".to_owned(), problem })
}

/// The verified user and station of a fresh request.
pub struct Signer {
    user: UserId,
    station: Option<StationId>,
    /// A notification is told without one, too.
    signature: Option<Signature>,
    client: Option<IpAddr>,
    /// `None` where the API takes requests without one.
    timestamp: Option<Timestamp>,
}

/// Verifies the signature and the freshness of a request, and only then counts it against its user: an old request
/// that is captured and sent again must not use up its owner's rate. A failure counts against the client's address.
pub async fn verify<'a>(
    app: &App,
    head: &Parts,
    api: Api,
    body: &'a [u8],
    seen: &mut Seen,
) -> Result<(Signer, Fields<'a>), Error> {
    let client = client::address(head);
    let verified = async {
        let mut signer = verified(app, &head.headers, api, body, client).await?;
        seen.user = Some(signer.user);
        let fields = Fields::of_body(body)?;
        seen.action = action_of(api, &fields).map_or(seen.action, |action| action.name);
        signer.timestamp = fresh(app, api, &fields)?;
        Ok((signer, fields))
    };
    let verified = verified.await.map_err(|error| app.count_failure(client, error));
    let (signer, fields) = verified?;
    if signer.timestamp.is_some() {
        app.charge(signer.user)?;
    } else {
        let counted = app.undated_rates.count(&signer.user);
        counted.map_err(|retry_after| Error::RateLimited { retry_after })?;
    }
    app.presence.sign(signer.user);
    Ok((signer, fields))
}

/// The timestamp of a request, which must be fresh.
fn fresh(app: &App, api: Api, fields: &Fields<'_>) -> Result<Option<Timestamp>, Error> {
    let timestamp: Timestamp = match fields.optional("timestamp")? {
        None if api.shows == Shows::SignatureAlone => return Ok(None),
        None => fields.required("timestamp")?,
        Some(timestamp) => timestamp,
    };
    app.refuse_stale(timestamp)?;
    Ok(Some(timestamp))
}

async fn verified(
    app: &App,
    headers: &HeaderMap,
    api: Api,
    body: &[u8],
    client: Option<IpAddr>,
) -> Result<Signer, Error> {
    if api.shows == Shows::Station && !headers.contains_key(&SIGNATURE) {
        return at_a_bound_station(app, headers, client).await;
    }
    let station = match api.shows {
        Shows::SignatureAlone if !headers.contains_key(&STATION) => None,
        _ => Some(signed_header(headers, &STATION, "Ozeki-Station")?),
    };
    let user = signed_header(headers, &USER, "Ozeki-User")?;
    let signature = signed_header(headers, &SIGNATURE, "Ozeki-Signature")?;
    let signed = Signed { srv: api.srv, api: api.name, user, station, body };
    if app.verifier.verify(&app.store, &signed, &signature).await? {
        Ok(Signer { user, station, signature: Some(signature), client, timestamp: None })
    } else {
        let sentence =
            "the signature is not the one of an enabled user's API key over this request";
        Err(Error::InvalidSignature(sentence.to_owned()))
    }
}

/// Who has bound the station, where that is one enabled user, or the one who is named.
async fn at_a_bound_station(
    app: &App,
    headers: &HeaderMap,
    client: Option<IpAddr>,
) -> Result<Signer, Error> {
    let station = signed_header(headers, &STATION, "Ozeki-Station")?;
    let named = headers.contains_key(&USER);
    let named = named.then(|| signed_header(headers, &USER, "Ozeki-User")).transpose()?;
    let mut users = Vec::new();
    if app.config.auth.unsigned_notifications.is_on() {
        // A login is answered before its station is bound.
        app.stations.settled(station).await;
        users = app.store.users_at(station, named).await?;
    }
    if let [user] = users[..] {
        return Ok(Signer {
            user,
            station: Some(station),
            signature: None,
            client,
            timestamp: None,
        });
    }
    let sentence = "Ozeki-Signature is missing, and without it a station is served that one user alone has \
                    bound, or the one whom Ozeki-User names";
    Err(Error::InvalidSignature(sentence.to_owned()))
}

/// Counts a failure of the client at the other end, see [`App::count_failure`].
pub fn count_failure(app: &App, head: &Parts, error: Error) -> Error {
    app.count_failure(client::address(head), error)
}

fn signed_header<T: Parse>(
    headers: &HeaderMap,
    name: &HeaderName,
    shown: &str,
) -> Result<T, Error> {
    let invalid = |problem| Error::InvalidSignature(format!("{shown} {problem}"));
    header(headers, name).map_err(invalid)
}

/// A header that must be there once and well-formed, or what is wrong with it.
pub(super) fn header<T: Parse>(headers: &HeaderMap, name: &HeaderName) -> Result<T, String> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Err(format!("is missing, it must be {}", T::EXPECTED));
    };
    let further = values.count();
    if further > 0 {
        return Err(format!("was sent {} times: it must be sent once", further + 1));
    }
    let value = value.to_str().ok();
    value.and_then(T::parse).ok_or_else(|| format!("must be {}", T::EXPECTED))
}

/// Until when a request with this timestamp could be fresh.
fn expiry(timestamp: Timestamp) -> Timestamp {
    timestamp.plus_seconds(MAX_CLOCK_SKEW_SECONDS.into())
}

/// A station that asks what is new.
pub struct Asker {
    pub user: UserId,
    pub station: StationId,
    pub is_signed: bool,
    pub poll: Poll,
}

impl Signer {
    pub fn user(&self) -> UserId {
        self.user
    }

    /// The caller of an API that takes signed requests alone.
    pub fn caller(self, app: &App) -> Result<Caller, Error> {
        let unsigned = || Error::InvalidSignature("Ozeki-Signature is missing".to_owned());
        let timestamp = self.timestamp.unwrap_or_else(|| app.clock.now());
        Ok(Caller {
            user: self.user,
            station: self.station,
            signature: self.signature.ok_or_else(unsigned)?,
            expires_at: expiry(timestamp),
            client: self.client,
        })
    }

    /// The station that asks what is new.
    pub fn asker(self, app: &App, body: &[u8]) -> Result<Asker, Error> {
        let nowhere = || Error::InvalidSignature("Ozeki-Station is missing".to_owned());
        let (user, station) = (self.user, self.station.ok_or_else(nowhere)?);
        let now = app.clock.now();
        let timestamp = self.timestamp.unwrap_or(now);
        let replay = Replay {
            user,
            signature: self.signature.unwrap_or_else(|| signature::of_unsigned(station, body)),
            expires_at: expiry(timestamp),
        };
        let poll = Poll { replay, timestamp, now };
        Ok(Asker { user, station, is_signed: self.signature.is_some(), poll })
    }
}
