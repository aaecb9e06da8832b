//! Requests by which `chatserver doctor` looks at the way to a server.

use std::net::IpAddr;

use hyper::StatusCode;
use url::Url;

use super::Error;
use super::transport::Transport;

/// Asks a server for its health, and claims to come from another address. Returns the address of this client as the server
/// sees it.
pub(crate) async fn probe(url: &Url, claimed: &str) -> Result<Option<IpAddr>, Error> {
    let answer =
        Transport::new(url)?.get(&beside(url, "healthz"), &[("X-Forwarded-For", claimed)]).await?;
    if answer.status != StatusCode::OK || &*answer.body != b"OK\n" {
        return Err(Error::Answer(format!(
            "HTTP {} at healthz is not that of a chatserver",
            answer.status
        )));
    }
    Ok(answer.client_address)
}

/// Opens a WebSocket where login announces it, and closes it.
pub(crate) async fn probe_socket(url: &Url) -> Result<(), Error> {
    let mut socket = Transport::new(url)?.open(&beside(url, "ws")).await?;
    // A server that does not answer the close is none of this command's business.
    drop(socket.close(None).await);
    Ok(())
}

/// Returns a path beside the API. The health of a server is at its root alone.
fn beside(url: &Url, name: &str) -> Url {
    let mut url = url.clone();
    if name == "healthz" && url.path().starts_with("/ozeki/") {
        url.set_path("/");
    }
    url.join(name).unwrap_or(url)
}
