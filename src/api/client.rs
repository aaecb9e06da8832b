//! The connection of a request and the address of its client, with or without proxies in front of the server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};

use crate::app::App;
use crate::config::Network;
use crate::error::Error;
use crate::limits::AddressPermit;
use crate::listen::PeerAddress;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The connection of a request, in the request's extensions.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) peer: Peer,
    /// Counts the connection for its client's network, until the last clone of this is dropped.
    pub(super) _counted: Option<Arc<AddressPermit>>,
    /// Whether the request in progress has been received, or given up.
    pub(super) received: Arc<AtomicBool>,
}

/// The far end of a connection.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    /// Whether it may name its client by `X-Forwarded-For`.
    pub(super) is_proxy: bool,
}

impl Peer {
    /// A process on a Unix socket is a proxy, because the mode of the socket keeps others out. It has the address
    /// 127.0.0.1, for which its requests count where it names no client.
    pub(super) fn of(app: &App, address: PeerAddress) -> Self {
        match address {
            Some(address) => {
                let address = address.ip().to_canonical();
                Self { address, is_proxy: is_trusted(app, address) }
            }
            None => Self { address: IpAddr::V4(Ipv4Addr::LOCALHOST), is_proxy: true },
        }
    }
}

impl Connection {
    pub(super) fn received(&self) {
        self.received.store(true, Ordering::Relaxed);
    }
}

/// The client's address, stored in the extensions of a request.
#[derive(Clone, Copy)]
struct Client(IpAddr);

/// Finds the address that a request comes from and stores it in the request's extensions. `X-Forwarded-For` counts only
/// as far as trusted proxies added to it: the client is its last address that is not a trusted proxy.
pub(crate) fn find(head: &mut Parts, trusted: &[Network]) {
    if let Some(connection) = head.extensions.get::<Connection>() {
        let client = behind_proxies(connection.peer, &head.headers, trusted);
        head.extensions.insert(Client(client));
    }
}

/// Returns the address that [`find`] stored.
pub(crate) fn address(head: &Parts) -> Option<IpAddr> {
    head.extensions.get::<Client>().map(|client| client.0)
}

/// Returns whether this address is in `http.trusted_proxies`.
pub(crate) fn is_trusted(app: &App, address: IpAddr) -> bool {
    app.config.http.trusted_proxies.0.iter().any(|network| network.0.contains(&address))
}

/// Counts a request of a client behind a trusted proxy as one connection, until the permit is dropped. The proxy's own
/// connections are not counted, because the proxy chooses how many it opens. Returns `None` if the client's address is
/// a trusted proxy too: the last of several proxies may name another one as its client.
pub(crate) fn count_behind_proxy(app: &App, head: &Parts) -> Result<Option<AddressPermit>, Error> {
    let peer = head.extensions.get::<Connection>().map(|one| one.peer.address);
    match (peer, address(head)) {
        (Some(peer), Some(client)) if peer != client && !is_trusted(app, client) => {
            app.count_connection(client).map(Some)
        }
        _ => Ok(None),
    }
}

pub(super) fn behind_proxies(peer: Peer, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.0.contains(address));
    let values = headers.get_all(FORWARDED_FOR).iter().rev();
    // Split as bytes, not as text: what a client put in front must not spoil what the proxy added behind it.
    let elements = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    let (mut client, mut is_proxy) = (peer.address, peer.is_proxy);
    for element in elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty()) {
        if !is_proxy {
            break;
        }
        // A correctly working proxy adds only addresses, so this element and all before it are not believed.
        let Some(address) = forwarded(element) else { break };
        (client, is_proxy) = (address, is_trusted(&address));
    }
    client
}

/// Parses one element of the list: an address alone or with a port, IPv6 also in brackets, optionally all in quotes.
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
