//! Signs requests and subscriptions for one user on one device.

use serde_json::json;

use crate::domain::{ApiKey, Signature, StationId, UserId};
use crate::signature::{Signed, SigningKey};

/// The service of every API that a client signs for here.
const SERVICE: &str = "chatserver";

/// A user, one of the user's devices, and the key that signs for both.
#[derive(Clone)]
pub struct Credentials {
    /// The user who signs.
    pub user: UserId,
    /// The device. Its id is a secret.
    pub station: StationId,
    key: SigningKey,
}

impl Credentials {
    /// Prepares the API key of this user for signing.
    #[must_use]
    pub fn new(user: UserId, station: StationId, api_key: &ApiKey) -> Self {
        Self { user, station, key: SigningKey::new(api_key) }
    }

    /// Returns the same user on another device.
    #[must_use]
    pub fn at(&self, station: StationId) -> Self {
        Self { station, ..self.clone() }
    }

    /// Returns the key, which also verifies.
    #[must_use]
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Returns the value of `Ozeki-Signature` for a body (docs/protocol.md#signature-c).
    #[must_use]
    pub fn sign(&self, api: &str, body: &[u8]) -> Signature {
        self.sign_for(SERVICE, api, body)
    }

    /// Returns the value of `Ozeki-Signature` for a body and an API of any service.
    #[must_use]
    pub fn sign_for(&self, srv: &str, api: &str, body: &[u8]) -> Signature {
        let (user, station) = (self.user, Some(self.station));
        self.key.sign(&Signed { srv, api, user, station, body })
    }

    /// Returns the first frame of a listener (docs/protocol.md#opening). A nonce tells apart two frames of one second.
    #[must_use]
    pub fn subscription(&self, timestamp: &str, nonce: Option<&str>) -> String {
        let signed = match nonce {
            Some(nonce) => format!("{timestamp}\n{nonce}"),
            None => timestamp.to_owned(),
        };
        let signature = self.sign("chatlistener", signed.as_bytes());
        let mut frame = json!({
            "action": "subscribe", "userid": self.user.as_str(), "stationid": self.station.as_str(),
            "timestamp": timestamp, "signature": signature.as_str(),
        });
        if let Some(nonce) = nonce {
            frame["nonce"] = nonce.into();
        }
        frame.to_string()
    }
}
