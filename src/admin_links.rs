//! Links that open the admin page.

use url::Url;

use crate::config::Listen;
use crate::domain::{AdminToken, Timestamp};
use crate::store::{Error, MakeAdminLink, Store, WriteError};

/// Seconds in which a link can be used.
const LIFE_SECONDS: u64 = 600;

/// A link that has not been used.
pub struct NewLink {
    /// The secret in the link.
    pub token: AdminToken,
    /// The second from which the link is refused.
    pub(crate) expires_at: Timestamp,
}

/// Makes a link that can be used once. The audit log names `operator` as the one who enters with it.
///
/// # Errors
///
/// [`Error`] if the store failed.
pub async fn make(store: &Store, operator: &str, now: Timestamp) -> Result<NewLink, Error> {
    let (token, expires_at) = (AdminToken::generate(), now.plus_seconds(LIFE_SECONDS));
    let operator = operator.to_owned();
    match store.write(MakeAdminLink { token, operator, now, expires_at }).await {
        Ok(()) => Ok(NewLink { token, expires_at }),
        Err(WriteError::Failed(error)) => Err(error),
        Err(WriteError::Refused(never)) => match never {},
    }
}

/// Returns the URL of a link. A Unix socket has no host: its link is for a port that is forwarded to it.
pub(crate) fn url(listen: &Listen, token: &AdminToken) -> Url {
    let host = match listen {
        Listen::Address(address) => address.to_string(),
        Listen::Unix(_) | Listen::Systemd => format!("localhost:{FORWARDED_PORT}"),
    };
    let mut url = Url::parse(&format!("http://{host}/enter")).expect("a host makes a URL");
    url.query_pairs_mut().append_pair("token", token.as_str());
    url
}

/// The port of the operator's machine in the examples of `ssh -L`, and in a link to a Unix socket.
pub(crate) const FORWARDED_PORT: u16 = 8081;
