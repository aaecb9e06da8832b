//! The section `[http]`: what the API is served on, to whom, and how slow a client may be.

use std::net::SocketAddr;

use serde::Deserialize;
use url::Url;

use super::Error;
use super::values::{
    AllowedOrigin, Bounded, Contact, DirectoryUrl, DomainName, ErrorStatus, List, Listen,
    MetricsListen, Network, OptionalPath, PublicUrl, Seconds, Switch, parsed,
};

/// The section `[http]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    #[serde(deserialize_with = "parsed")]
    pub(crate) listen: Listen,
    #[serde(deserialize_with = "parsed")]
    pub(crate) public_url: PublicUrl,
    #[serde(deserialize_with = "parsed")]
    pub(crate) tls_certificate: OptionalPath,
    #[serde(deserialize_with = "parsed")]
    pub(crate) tls_key: OptionalPath,
    pub(crate) acme_domains: List<DomainName>,
    #[serde(deserialize_with = "parsed")]
    pub(crate) acme_contact: Contact,
    #[serde(deserialize_with = "parsed")]
    pub(crate) acme_directory: DirectoryUrl,
    #[serde(deserialize_with = "parsed")]
    pub(crate) acme_cache: OptionalPath,
    #[serde(deserialize_with = "parsed")]
    pub(crate) error_status: ErrorStatus,
    /// Proxies that may name the client by `X-Forwarded-For`.
    pub trusted_proxies: List<Network>,
    pub(crate) cors_origins: List<AllowedOrigin>,
    pub(crate) listener_origins: List<AllowedOrigin>,
    /// Whether the web client is served at `/app/`.
    pub(crate) web: Switch,
    pub(crate) listeners: Bounded<1, 1_000_000>,
    pub(crate) listeners_per_user: Bounded<1, 1000>,
    pub(crate) listener_ping_seconds: Seconds<1>,
    pub(crate) drain_seconds: Seconds<0>,
    #[serde(deserialize_with = "parsed")]
    pub(crate) metrics_listen: MetricsListen,
    pub(crate) header_timeout_seconds: Seconds<1>,
    pub(crate) keep_alive_seconds: Seconds<1>,
    pub(crate) body_timeout_seconds: Seconds<1>,
    pub(crate) request_timeout_seconds: Seconds<1>,
    pub(crate) write_timeout_seconds: Seconds<1>,
}

impl Http {
    /// Returns the URL by which clients reach the server: `public_url`, or where none is set the URL of the first ACME
    /// domain, or of the address that the server listens on. Returns `None` where there is none of them.
    pub(crate) fn url_at(&self, address: Option<SocketAddr>) -> Option<Url> {
        if let Some(url) = self.public_url.get() {
            return Some(url.clone());
        }
        let scheme = if self.has_tls() { "https" } else { "http" };
        // The scope that an IPv6 address may have is left out, because no URL can carry it.
        let address = || address.map(|address| SocketAddr::new(address.ip(), address.port()));
        let domain = self.acme_domains.0.first().map(|domain| domain.0.clone());
        let host = domain.or_else(|| address().map(|address| address.to_string()))?;
        Some(Url::parse(&format!("{scheme}://{host}/")).expect("a host makes a URL"))
    }

    /// Whether the server speaks TLS itself.
    pub(crate) fn has_tls(&self) -> bool {
        self.tls_certificate.0.is_some() || self.has_acme()
    }

    fn has_acme(&self) -> bool {
        !self.acme_domains.0.is_empty()
    }

    /// Refuses settings that exclude each other.
    pub(super) fn agree(&self) -> Result<(), Error> {
        self.addresses_agree()?;
        self.certificates_agree()?;
        self.url_agrees()
    }

    /// Refuses the same address for `listen` and `metrics_listen`.
    fn addresses_agree(&self) -> Result<(), Error> {
        match self.metrics_listen.0.map(Listen::Address) {
            Some(metrics) if metrics.overlaps(&self.listen) => {
                let problem = format!("must not be the address of http.listen = {}", self.listen);
                wrong("http.metrics_listen", &metrics.to_string(), &problem)
            }
            _ => Ok(()),
        }
    }

    /// Refuses half a pair of certificate and key, and two sources of certificates.
    fn certificates_agree(&self) -> Result<(), Error> {
        match (&self.tls_certificate.0, &self.tls_key.0) {
            (Some(_), None) => {
                return wrong(
                    "http.tls_key",
                    "\"\"",
                    "must be set, because http.tls_certificate is",
                );
            }
            (None, Some(_)) => {
                return wrong(
                    "http.tls_certificate",
                    "\"\"",
                    "must be set, because http.tls_key is",
                );
            }
            (Some(path), Some(_)) if self.has_acme() => {
                let problem = "must be empty, because http.acme_domains gets a certificate by ACME";
                return wrong("http.tls_certificate", &path.display().to_string(), problem);
            }
            _ => {}
        }
        if self.has_acme() && self.acme_cache.0.is_none() {
            let problem =
                "must be set, because http.acme_domains is: the certificate is kept there";
            return wrong("http.acme_cache", "\"\"", problem);
        }
        Ok(())
    }

    /// Refuses an http URL of a server with TLS, and a Unix socket without a URL.
    fn url_agrees(&self) -> Result<(), Error> {
        match self.public_url.get() {
            Some(url) if self.has_tls() && url.scheme() != "https" => {
                let problem = "must be an https URL, because the server speaks TLS";
                wrong("http.public_url", url.as_str(), problem)
            }
            None if matches!(self.listen, Listen::Unix(_)) && !self.has_acme() => {
                let problem =
                    "must be set, because http.listen is a Unix socket, which clients can't reach";
                wrong("http.public_url", "\"\"", problem)
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn wrong(name: &str, value: &str, problem: &str) -> Result<(), Error> {
    let (name, value) = (name.to_owned(), value.to_owned());
    Err(Error::Wrong { name, value, problem: problem.to_owned() })
}
