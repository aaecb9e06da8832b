//! The way from clients to the server: the public URL, and the proxy in front of it.

use std::net::IpAddr;

use url::{Host, Url};

use super::Report;
use crate::client;
use crate::config::{Config, Listen};
use crate::store::{DatabaseUrl, ServerLock};

/// An address that no client has (RFC 5737), which this command claims to come from.
const CLAIMED: &str = "192.0.2.1";

const NO_ANSWER: &str = "does the server run, does the name lead here, and does the proxy pass requests \
     on?";

const NO_UPGRADE: &str = "the proxy must pass the headers Upgrade and Connection on, in HTTP/1.1; \
     packaging/nginx.conf shows how";

const BELIEVED: &str = "fine if this machine is a trusted proxy itself. If not, the proxy passes \
     X-Forwarded-For on as it comes: it must add the address that it sees";

const HIDDEN: &str = "let the proxy add the client's address to X-Forwarded-For: all clients share its \
     counts";

const NOT_TRUSTED: &str = "if a proxy is in front, name its address in http.trusted_proxies: all clients \
     share its counts";

pub(super) async fn look(config: &Config, report: &mut Report) {
    let address = match config.http.listen {
        Listen::Address(address) => Some(address),
        Listen::Unix(_) | Listen::Systemd => None,
    };
    let Some(url) = config.http.url_at(address) else {
        return report.note(
            "publicurl",
            "http.public_url is not set",
            "set it to the URL by which clients reach the server",
        );
    };
    if let DatabaseUrl::Sqlite(file) = &config.database.url
        && matches!(ServerLock::holder(file), Ok(None))
    {
        return report.note(
            "publicurl",
            format!("{url} is not checked, because no server runs"),
            "start the server, and run this again",
        );
    }
    match client::probe(&url, CLAIMED).await {
        Ok(seen) => proxy(config, &url, seen, report),
        Err(error) => {
            return report.problem("publicurl", format!("{url}: {error}"), NO_ANSWER);
        }
    }
    match client::probe_socket(&url).await {
        Ok(()) => report.ok("websocket", "a WebSocket opens through http.public_url"),
        Err(error) => report.problem("websocket", error.to_string(), NO_UPGRADE),
    }
}

/// Reports which address the server has seen this command come from.
fn proxy(config: &Config, url: &Url, seen: Option<IpAddr>, report: &mut Report) {
    report.ok("publicurl", format!("{url} answers"));
    let Some(seen) = seen else {
        let advice = "is it another program, or an older version?";
        return report.problem(
            "proxy",
            format!("{url} answers without the address of its client"),
            advice,
        );
    };
    let is_here = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback() || address.is_unspecified(),
        Some(Host::Ipv6(address)) => address.is_loopback() || address.is_unspecified(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    let is_trusted = config.http.trusted_proxies.0.iter().any(|network| network.0.contains(&seen));
    if seen.to_string() == CLAIMED {
        let found = format!("the server believed the address that this command claimed, {CLAIMED}");
        report.note("proxy", found, BELIEVED);
    } else if is_trusted {
        let found = format!("the server took {seen}, a trusted proxy, for the client");
        report.problem("proxy", found, HIDDEN);
    } else if seen.is_loopback() && !is_here {
        report.note("proxy", format!("the server took {seen} for the client"), NOT_TRUSTED);
    } else {
        report.ok("proxy", format!("the server took {seen} for the client"));
    }
}
