//! Authentication: the three headers, the signature, freshness and rate limits.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};

use super::actions::{Action, Api, AuthScheme, action_of};
use super::client;
use super::observe::RequestOutcome;
use super::registration;
use super::request::Request;
use crate::app::App;
use crate::config::MAX_CLOCK_SKEW_SECONDS;
use crate::domain::{ApiKey, Parse, Replay, Signature, StationId, Timestamp, UserId};
use crate::error::Error;
use crate::fields::Fields;
use crate::limits::MemoryPermit;
use crate::signature::{self, Signed};
use crate::users::Caller;

pub(crate) const STATION: HeaderName = HeaderName::from_static("ozeki-station");
pub(crate) const USER: HeaderName = HeaderName::from_static("ozeki-user");
pub(crate) const SIGNATURE: HeaderName = HeaderName::from_static("ozeki-signature");

/// Authenticates a request in the documented order (docs/protocol.md#order-c) and finds its action.
///
/// A request counts against its user's rate only once its signature and freshness are verified. Otherwise replays of a
/// captured old request would use up its owner's rate. A request without a timestamp counts against a separate rate. A
/// failure counts against the client's address.
pub(crate) async fn authenticate<'a>(
    app: &'a Arc<App>,
    head: &Parts,
    api: Api,
    (body, memory): (&'a [u8], &mut MemoryPermit),
    outcome: &mut RequestOutcome,
) -> Result<(&'static Action, Request<'a>), Error> {
    let client = client::address(head);
    if api.auth == AuthScheme::ApiKey {
        let (action, caller) = log_in(app, head, api, body, outcome).await?;
        return Ok((action, Request { app, caller, fields: Fields::default() }));
    }
    if api.auth == AuthScheme::Invitation {
        let (action, caller, fields) = take_invitation(app, client, api, body, outcome).await?;
        return Ok((action, Request { app, caller, fields }));
    }
    let verified = async {
        let proof = verify(app, &head.headers, api, body).await?;
        outcome.user = Some(proof.user);
        let fields = Fields::of_body(body)?;
        let action = action_of(api, &fields);
        outcome.action = action.as_ref().map_or(outcome.action, |action| action.name);
        let timestamp = fresh_timestamp(app, api, &fields)?;
        Ok((proof, timestamp, action, fields))
    };
    let verified = verified.await.map_err(|error| app.count_failure(client, error));
    let (Proof { user, station, signature }, timestamp, action, fields) = verified?;
    if timestamp.is_some() {
        app.charge(user)?;
    } else {
        app.charge_undated(user)?;
    }
    app.presence.record_sign(user);
    app.charge_body(memory, user)?;
    let digest = || signature::of_unsigned(station, body);
    let timestamp = timestamp.unwrap_or_else(|| app.clock.now());
    let caller = Caller {
        user,
        station,
        is_signed: signature.is_some(),
        replay: replay(user, signature.unwrap_or_else(digest), timestamp),
        timestamp,
        client,
    };
    // An unknown action is refused last: it counts against the rate of its user.
    Ok((action?, Request { app, caller, fields }))
}

/// Authenticates a login by the API key itself. Looks up every key, even a malformed one.
async fn log_in(
    app: &App,
    head: &Parts,
    api: Api,
    body: &[u8],
    outcome: &mut RequestOutcome,
) -> Result<(&'static Action, Caller), Error> {
    // A bad header is an invalid field here. It can't spoil a signature, because a login has none.
    let station: StationId = header(&head.headers, &STATION)
        .map_err(|problem| Error::InvalidField { field: "Ozeki-Station".to_owned(), problem })?;
    let (action, api_key) = Fields::of_body(body)?.take(|fields| {
        let action = action_of(api, fields)?;
        outcome.action = action.name;
        Ok((action, fields.required::<PresentedKey>("apikey")?))
    })?;
    let client = client::address(head);
    // Looks up a random key instead of a malformed one, so that the answer takes the same time.
    let api_key = ApiKey::parse(&api_key.0).unwrap_or_else(ApiKey::generate);
    let user = app.store.user_with_key(&api_key).await?;
    let user = user.ok_or_else(|| app.count_failure(client, Error::InvalidCredentials))?;
    outcome.user = Some(user);
    app.charge(user)?;
    app.presence.record_sign(user);
    let timestamp = app.clock.now();
    let replay = replay(user, signature::of_unsigned(Some(station), body), timestamp);
    let caller =
        Caller { user, station: Some(station), is_signed: false, replay, timestamp, client };
    Ok((action, caller))
}

/// Authenticates a registration by the token of its invitation. The caller is the user that the invitation is for.
async fn take_invitation<'a>(
    app: &App,
    client: Option<IpAddr>,
    api: Api,
    body: &'a [u8],
    outcome: &mut RequestOutcome,
) -> Result<(&'static Action, Caller, Fields<'a>), Error> {
    let fields = Fields::of_body(body)?;
    let action = action_of(api, &fields)?;
    outcome.action = action.name;
    let (token, timestamp) = (registration::token(&fields)?, app.clock.now());
    let invitation = registration::find(app, &token, timestamp).await;
    let invitation = invitation.map_err(|error| app.count_failure(client, error))?;
    let user = UserId::of(&invitation.email);
    outcome.user = Some(user);
    app.charge(user)?;
    let replay = replay(user, signature::of_unsigned(None, body), timestamp);
    let caller = Caller { user, station: None, is_signed: false, replay, timestamp, client };
    Ok((action, caller, fields))
}

/// An API key as the client sent it. Any text parses, because a malformed key is answered like a wrong one.
struct PresentedKey(String);

impl Parse for PresentedKey {
    const EXPECTED: &'static str = "the API key, 64 lower-case hexadecimal characters";

    fn parse(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }
}

/// Returns the record that identifies a request until every timestamp of its age is refused, whatever
/// `auth.clock_skew_seconds` is set to.
fn replay(user: UserId, signature: Signature, timestamp: Timestamp) -> Replay {
    let expires_at = timestamp.plus_seconds(MAX_CLOCK_SKEW_SECONDS.into());
    Replay { user, signature, expires_at }
}

/// Returns the timestamp of a request after checking that it is fresh. Returns `None` where the API accepts a request
/// without one.
fn fresh_timestamp(app: &App, api: Api, fields: &Fields<'_>) -> Result<Option<Timestamp>, Error> {
    let timestamp: Timestamp = match fields.optional("timestamp")? {
        None if api.auth == AuthScheme::SignatureAlone => return Ok(None),
        None => fields.required("timestamp")?,
        Some(timestamp) => timestamp,
    };
    app.refuse_stale(timestamp)?;
    Ok(Some(timestamp))
}

/// The user of a request, and the proof of it: a signature, or the station alone.
struct Proof {
    user: UserId,
    station: Option<StationId>,
    signature: Option<Signature>,
}

async fn verify(app: &App, headers: &HeaderMap, api: Api, body: &[u8]) -> Result<Proof, Error> {
    if api.auth == AuthScheme::Station && !headers.contains_key(&SIGNATURE) {
        return at_a_bound_station(app, headers).await;
    }
    let station = match api.auth {
        AuthScheme::SignatureAlone if !headers.contains_key(&STATION) => None,
        _ => Some(signed_header(headers, &STATION, "Ozeki-Station")?),
    };
    let user = signed_header(headers, &USER, "Ozeki-User")?;
    let signature = signed_header(headers, &SIGNATURE, "Ozeki-Signature")?;
    let signed = Signed { srv: api.srv, api: api.name, user, station, body };
    let now = app.clock.read().monotonic;
    if app.verifier.verify(&app.store, &signed, &signature, now).await? {
        Ok(Proof { user, station, signature: Some(signature) })
    } else {
        let sentence = "Ozeki-Signature does not verify: the user is unknown or disabled, or the API key or a signed \
                        byte differs";
        Err(Error::InvalidSignature(sentence.to_owned()))
    }
}

/// Authenticates a request by its station alone. Finds the enabled user that has bound the station: the user that
/// `Ozeki-User` names, or else the only one.
async fn at_a_bound_station(app: &App, headers: &HeaderMap) -> Result<Proof, Error> {
    let station = signed_header(headers, &STATION, "Ozeki-Station")?;
    let named = headers.contains_key(&USER);
    let named = named.then(|| signed_header(headers, &USER, "Ozeki-User")).transpose()?;
    let mut users = Vec::new();
    if app.config.auth.unsigned_notifications.is_on() {
        // A login is answered before its station is bound, so the binding may still be pending.
        app.stations.settled(station).await;
        users = app.store.users_at(station, named).await?;
    }
    if let [user] = users[..] {
        return Ok(Proof { user, station: Some(station), signature: None });
    }
    let sentence = "Ozeki-Signature is missing; an unsigned request needs a station that exactly one user has bound, \
                    or that the user in Ozeki-User has bound";
    Err(Error::InvalidSignature(sentence.to_owned()))
}

fn signed_header<T: Parse>(
    headers: &HeaderMap,
    name: &HeaderName,
    shown: &str,
) -> Result<T, Error> {
    let invalid = |problem| Error::InvalidSignature(format!("{shown} {problem}"));
    header(headers, name).map_err(invalid)
}

/// Reads a header that must be present once and be well-formed. The error says what is wrong with it.
pub(super) fn header<T: Parse>(headers: &HeaderMap, name: &HeaderName) -> Result<T, String> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Err(format!("is missing; it must be {}", T::EXPECTED));
    };
    let further = values.count();
    if further > 0 {
        return Err(format!("was sent {} times: it must be sent once", further + 1));
    }
    let value = value.to_str().ok();
    value.and_then(T::parse).ok_or_else(|| format!("must be {}", T::EXPECTED))
}
