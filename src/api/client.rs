//! The address of the client, behind proxies or not.

use std::net::{IpAddr, SocketAddr};

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};

use super::server::Connection;
use crate::app::App;
use crate::config::Network;
use crate::error::Error;
use crate::limits::AddressPermit;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address of the client, as a request carries it.
#[derive(Clone, Copy)]
struct Client(IpAddr);

/// Finds the address that a request comes from, and leaves it on the request. Only trusted proxies are believed in what they add to
/// `X-Forwarded-For`: the client is the last address in it that is not such a proxy.
pub fn find(head: &mut Parts, trusted: &[Network]) {
    if let Some(connection) = head.extensions.get::<Connection>() {
        let peer = connection.peer.ip().to_canonical();
        let client = behind_proxies(peer, &head.headers, trusted);
        head.extensions.insert(Client(client));
    }
}

/// The address that a request comes from, once it was found.
pub fn address(head: &Parts) -> Option<IpAddr> {
    head.extensions.get::<Client>().map(|client| client.0)
}

/// Whether this address is one of `http.trusted_proxies`.
pub fn is_trusted(app: &App, address: IpAddr) -> bool {
    app.config.http.trusted_proxies.0.iter().any(|network| network.0.contains(&address))
}

/// Counts a request of a client behind a trusted proxy as one connection, until the permit is dropped: how many
/// connections the proxy itself has open is the proxy's choice. The last of several proxies may name another one as its client.
pub fn count_behind_proxy(app: &App, head: &Parts) -> Result<Option<AddressPermit>, Error> {
    let peer = head.extensions.get::<Connection>().map(|one| one.peer.ip().to_canonical());
    match (peer, address(head)) {
        (Some(peer), Some(client)) if peer != client && !is_trusted(app, client) => {
            app.count_connection(client).map(Some)
        }
        _ => Ok(None),
    }
}

pub(super) fn behind_proxies(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.0.contains(address));
    let values = headers.get_all(FORWARDED_FOR).iter().rev();
    // Bytes, not text: what a client has put in front must not spoil what the proxy has added behind it.
    let elements = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    let mut client = peer;
    for element in elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty()) {
        if !is_trusted(&client) {
            break;
        }
        // What is no address was not added by a proxy that knows what it does.
        let Some(address) = forwarded(element) else { break };
        client = address;
    }
    client
}

/// The address in one element of the list: alone or with a port, IPv6 also in brackets, all of it perhaps in quotes.
fn forwarded(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?;
    let text = within(text, '"', '"').unwrap_or(text).trim();
    let bare = within(text, '[', ']').unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address = bare.parse::<IpAddr>().ok().or_else(with_port)?;
    Some(address.to_canonical())
}

fn within(text: &str, open: char, close: char) -> Option<&str> {
    text.strip_prefix(open)?.strip_suffix(close)
}
