//! The section `[admin]`: what the admin page is served on.

use serde::Deserialize;

use super::http::wrong;
use super::values::{Listen, parsed};
use super::{Error, Http};
use crate::domain::Parse;

/// The section `[admin]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Admin {
    #[serde(deserialize_with = "parsed")]
    pub(crate) listen: AdminListen,
}

/// The socket of the admin page, or none. Only this machine reaches it.
#[derive(Clone, Debug)]
pub(crate) struct AdminListen(pub(crate) Option<Listen>);

impl Parse for AdminListen {
    const EXPECTED: &'static str = "empty or a loopback address and a port, such as 127.0.0.1:8081, or unix: and an absolute path, such as unix:/run/chatserver/admin.sock";

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(None));
        }
        match Listen::parse(text)? {
            Listen::Address(address) if !address.ip().is_loopback() => None,
            Listen::Systemd => None,
            local => Some(Self(Some(local))),
        }
    }

    fn objection(text: &str) -> Option<&'static str> {
        matches!(Listen::parse(text), Some(Listen::Address(_))).then_some(
            "other machines could reach this address: forward a port by SSH instead, such as ssh -L 8081:127.0.0.1:8081",
        )
    }
}

impl Admin {
    /// Refuses an address that the API or the metrics have.
    pub(super) fn agree(&self, http: &Http) -> Result<(), Error> {
        let Some(listen) = &self.listen.0 else { return Ok(()) };
        let metrics = http.metrics_listen.0.map(Listen::Address);
        let others = [("http.listen", Some(http.listen.clone())), ("http.metrics_listen", metrics)];
        for (name, other) in others {
            if let Some(other) = other.filter(|other| listen.overlaps(other)) {
                let problem = format!("must not be the address of {name} = {other}");
                return wrong("admin.listen", &listen.to_string(), &problem);
            }
        }
        Ok(())
    }
}
