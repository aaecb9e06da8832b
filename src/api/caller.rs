//! Who calls: the three headers, the signature, the rates, the freshness.

use std::net::IpAddr;

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};

use super::fields::Fields;
use super::observe::Seen;
use super::{Api, Shows, client};
use crate::app::App;
use crate::clock::Timestamp;
use crate::config::MAX_CLOCK_SKEW_SECONDS;
use crate::error::Error;
use crate::id::{Parse, Signature, StationId, UserId};
use crate::signature::Signed;
use crate::users::Caller;

pub const STATION: HeaderName = HeaderName::from_static("ozeki-station");
pub const USER: HeaderName = HeaderName::from_static("ozeki-user");
pub const SIGNATURE: HeaderName = HeaderName::from_static("ozeki-signature");

/// The station that a login names. It is read like a field: there is no signature that it could spoil.
pub fn station_of_login(headers: &HeaderMap) -> Result<StationId, Error> {
    header(headers, &STATION)
        .map_err(|problem| Error::InvalidField { field: "Ozeki-Station".to_owned(), problem })
}

/// Who has signed a request, whose timestamp is still to be looked at.
pub struct Signer {
    user: UserId,
    station: Option<StationId>,
    /// A notification is told without one, too.
    signature: Option<Signature>,
    client: Option<IpAddr>,
}

/// Verifies the signature of a request and counts it against its user; a failure, against its address.
pub async fn verify(
    app: &App,
    head: &Parts,
    api: Api,
    body: &[u8],
    seen: &mut Seen,
) -> Result<Signer, Error> {
    let client = client::address(head, &app.config.http.trusted_proxies.0);
    match verified(app, &head.headers, api, body, client).await {
        Ok(signer) => {
            seen.user = Some(signer.user);
            let rate = app.rates.count(&signer.user);
            rate.map_err(|retry_after| Error::RateLimited { retry_after })?;
            Ok(signer)
        }
        Err(error) => Err(count_failure(app, head, error)),
    }
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
        Ok(Signer { user, station, signature: Some(signature), client })
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
        users = app.store.users_at(station, named).await?;
    }
    if let [user] = users[..] {
        return Ok(Signer { user, station: Some(station), signature: None, client });
    }
    let sentence = "Ozeki-Signature is missing, and without it a station is served that one user alone has \
                    bound, or the one whom Ozeki-User names";
    Err(Error::InvalidSignature(sentence.to_owned()))
}

/// A failure to show who one is: told as it is, or as too many of them.
pub fn count_failure(app: &App, head: &Parts, error: Error) -> Error {
    app.count_failure(client::address(head, &app.config.http.trusted_proxies.0), error)
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

/// A station that asks what is new.
pub struct Asker {
    pub user: UserId,
    pub station: StationId,
    pub is_signed: bool,
}

impl Signer {
    /// The caller of an API that takes signed requests alone, if the request is fresh.
    pub fn at(self, app: &App, api: Api, fields: &Fields<'_>) -> Result<Caller, Error> {
        let (timestamp, signature) = (self.fresh(app, api, fields)?, self.signature);
        let unsigned = || Error::InvalidSignature("Ozeki-Signature is missing".to_owned());
        Ok(Caller {
            user: self.user,
            station: self.station,
            signature: signature.ok_or_else(unsigned)?,
            expires_at: timestamp.plus_seconds(MAX_CLOCK_SKEW_SECONDS.into()),
            client: self.client,
        })
    }

    /// The station that asks what is new, if the request is fresh.
    pub fn asker(self, app: &App, api: Api, fields: &Fields<'_>) -> Result<Asker, Error> {
        self.fresh(app, api, fields)?;
        let nowhere = || Error::InvalidSignature("Ozeki-Station is missing".to_owned());
        let station = self.station.ok_or_else(nowhere)?;
        Ok(Asker { user: self.user, station, is_signed: self.signature.is_some() })
    }

    /// The request's timestamp, if it is fresh; then its user has shown a sign of life.
    fn fresh(&self, app: &App, api: Api, fields: &Fields<'_>) -> Result<Timestamp, Error> {
        let timestamp: Timestamp = match fields.optional("timestamp")? {
            None if api.shows == Shows::SignatureAlone => app.clock.now(),
            None => fields.required("timestamp")?,
            Some(timestamp) => timestamp,
        };
        app.refuse_stale(timestamp)?;
        app.presence.sign(self.user);
        Ok(timestamp)
    }
}
