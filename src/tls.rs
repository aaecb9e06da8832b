//! TLS of the API: handshakes, and a certificate that is replaced while connections stay open.
//!
//! The certificate comes from two files, or from an ACME server (RFC 8555). Either way one task keeps it fresh, and a
//! failure to do so leaves the old one in use.

mod acme;
mod files;
mod pair;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs::{self, Ticketer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::clock::Clock;
use crate::config::Http;
use crate::domain::Timestamp;
use crate::listen::Socket;
use crate::telemetry;
use acme::Acme;
use files::Files;
pub(crate) use pair::{Pair, Validity};

/// The only protocol of the API. WebSockets begin in it.
const HTTP: &[u8] = b"http/1.1";

/// The protocol of an ACME server that validates a name (RFC 8737).
const ACME: &[u8] = b"acme-tls/1";

/// Maximum bytes of TLS records that wait for a client. As much is lost to the sight of the server's write time-out.
const RECORDS: usize = 16 * 1024;

/// Interval of the metric, and of the looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Interval of the warnings that the certificate expires.
const WARN_EVERY: Duration = Duration::from_hours(24);

/// A connection of a client or a proxy, with TLS or without.
pub(crate) type Channel = Either<Socket, Box<TlsStream<Socket>>>;

/// Why the certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file, or a folder, of the settings.
    #[error("{setting} = {path}: {problem}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// Its value.
        path: String,
        /// The problem, and what to do.
        problem: String,
    },
    /// The TLS library refuses its parameters.
    #[error("TLS can't be set up: {0}")]
    Library(#[from] rustls::Error),
}

impl Error {
    fn setting(setting: &'static str, path: &Path, problem: impl Into<String>) -> Self {
        Self::Setting { setting, path: path.display().to_string(), problem: problem.into() }
    }
}

/// Reads the certificate that the settings name, or that ACME has left, without changing anything. Returns `None` where
/// there is none.
///
/// # Errors
///
/// [`Error`] as at a start of the server.
pub(crate) fn look(http: &Http) -> Result<Option<Pair>, Error> {
    match (&http.tls_certificate.0, &http.tls_key.0) {
        (Some(certificate), Some(key)) => Pair::read(certificate, key).map(Some),
        _ => Acme::look(http),
    }
}

/// The server's side of TLS.
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    certificates: Arc<Certificates>,
    source: Source,
    clock: Clock,
}

enum Source {
    Files(Files),
    Acme(Box<Acme>),
}

impl Tls {
    /// Reads the certificate that the settings name. Returns `None` where they name none.
    ///
    /// # Errors
    ///
    /// [`Error`] where a file or the folder of ACME can't be used.
    pub(crate) fn open(http: &Http, clock: Clock) -> Result<Option<Self>, Error> {
        let (source, pair) = match (&http.tls_certificate.0, &http.tls_key.0, Acme::open(http)?) {
            (Some(certificate), Some(key), _) => {
                let (files, pair) = Files::open(certificate, key)?;
                (Source::Files(files), Some(pair))
            }
            (.., Some((acme, pair))) => (Source::Acme(Box::new(acme)), pair),
            _ => return Ok(None),
        };
        let certificates = Arc::new(Certificates::default());
        if let Some(pair) = pair {
            certificates.replace(pair);
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols.push(HTTP.to_vec());
        if matches!(source, Source::Acme(_)) {
            config.alpn_protocols.push(ACME.to_vec());
        }
        // Clients that come back after a restart of a proxy or a network resume without a signature.
        config.ticketer = Ticketer::new()?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Some(Self { acceptor, certificates, source, clock }))
    }

    /// Makes a handshake. Returns `None` for one of an ACME server, which sends no request. The caller bounds its time.
    pub(crate) async fn handshake(&self, socket: Socket) -> io::Result<Option<Channel>> {
        let shaking = self.acceptor.accept_with(socket, |session| {
            session.set_buffer_limit(Some(RECORDS));
        });
        let mut stream = shaking.await?;
        if stream.get_ref().1.alpn_protocol() == Some(ACME) {
            stream.shutdown().await?;
            return Ok(None);
        }
        Ok(Some(Either::Right(Box::new(stream))))
    }

    /// Keeps the certificate fresh, and reports when it expires. Never returns.
    pub(crate) async fn keep(&self) {
        let keep_fresh = async {
            match &self.source {
                Source::Files(files) => files.keep(&self.certificates).await,
                Source::Acme(acme) => acme.keep(&self.certificates, &self.clock).await,
            }
        };
        future::join(keep_fresh, self.certificates.report(&self.clock)).await;
    }
}

/// The certificates in use. A handshake takes the newest one, and open connections keep theirs.
#[derive(Debug, Default)]
struct Certificates {
    current: RwLock<Option<Arc<Pair>>>,
    /// Certificates for an ACME server that validates, by name.
    challenges: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

impl Certificates {
    fn current(&self) -> Option<Arc<Pair>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, pair: Pair) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(pair));
    }

    fn challenge(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let challenges = self.challenges.read().unwrap_or_else(PoisonError::into_inner);
        challenges.get(name).cloned()
    }

    fn set_challenges(&self, challenges: HashMap<String, Arc<CertifiedKey>>) {
        *self.challenges.write().unwrap_or_else(PoisonError::into_inner) = challenges;
    }

    /// Sets the metric, and warns once a day of a certificate that expires soon. Never returns.
    async fn report(&self, clock: &Clock) {
        let mut warned: Option<(Timestamp, Instant)> = None;
        loop {
            if let Some(pair) = self.current() {
                let Validity { until, .. } = pair.validity;
                telemetry::certificate_expires(until);
                let is_known =
                    warned.is_some_and(|(of, at)| of == until && at.elapsed() < WARN_EVERY);
                if !is_known && pair.validity.warn(clock.now()) {
                    warned = Some((until, Instant::now()));
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if hello.alpn().is_some_and(|mut offered| offered.all(|one| one == ACME)) {
            return self.challenge(hello.server_name()?);
        }
        self.current().map(|pair| Arc::clone(&pair.key))
    }
}
