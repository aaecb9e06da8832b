//! A certificate from an ACME server (RFC 8555), by TLS-ALPN-01 (RFC 8737): the server proves that it is reached by a
//! name with a certificate that it presents in a handshake on its own port.

mod cache;
mod http;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, KeyAuthorization, NewAccount,
    NewOrder, Order, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::crypto::aws_lc_rs::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::pair::Problem;
use super::{Certificates, Error, Pair};
use crate::clock::Clock;
use crate::config::Http;
use crate::domain::Timestamp;
use cache::Cache;
use http::Transport;

/// Interval of the looks whether the certificate is due. Short, because the wall clock may be set.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Pauses after failures in a row; the last one repeats. Let's Encrypt allows five failed validations an hour.
const PAUSES: [Duration; 4] = [
    Duration::from_mins(1),
    Duration::from_mins(10),
    Duration::from_mins(20),
    Duration::from_hours(1),
];

/// Maximum time to get a certificate.
const ORDER_WITHIN: Duration = Duration::from_mins(5);

/// Maximum time of each step that the ACME server takes, such as its connection to this server.
const STEP_WITHIN: Duration = Duration::from_mins(1);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The names to get a certificate for, and whom from.
pub(super) struct Acme {
    domains: Vec<String>,
    contact: Option<String>,
    directory: String,
    cache: Cache,
}

impl Acme {
    /// Opens the folder of the settings, and reads the certificate that an earlier run has left. Returns `None` where
    /// the settings name no domain.
    pub(super) fn open(settings: &Http) -> Result<Option<(Self, Option<Pair>)>, Error> {
        let domains = domains(settings);
        let (Some(folder), false) = (&settings.acme_cache.0, domains.is_empty()) else {
            return Ok(None);
        };
        let directory = settings.acme_directory.0.to_string();
        let contact = settings.acme_contact.0.as_ref().map(|email| format!("mailto:{email}"));
        let cache = Cache::open(folder, &directory, &domains)?;
        let pair = kept(&cache);
        Ok(Some((Self { domains, contact, directory, cache }, pair)))
    }

    /// Checks the folder of the settings, and reads the certificate in it. Makes nothing.
    pub(super) fn look(settings: &Http) -> Result<Option<Pair>, Error> {
        let domains = domains(settings);
        let (Some(folder), false) = (&settings.acme_cache.0, domains.is_empty()) else {
            return Ok(None);
        };
        let cache = Cache::look(folder, settings.acme_directory.0.as_str(), &domains)?;
        Ok(cache.and_then(|cache| kept(&cache)))
    }

    /// Gets a certificate where there is none, and a new one when a third of its lifetime is left. Never returns.
    pub(super) async fn keep(&self, certificates: &Certificates, clock: &Clock) {
        let mut failures = 0;
        loop {
            let is_due =
                certificates.current().is_none_or(|pair| pair.validity.is_due(clock.now()));
            if !is_due {
                sleep(LOOK_EVERY).await;
                continue;
            }
            let names = self.domains.join(", ");
            tracing::info!(names, directory = self.directory, "asking for a TLS certificate");
            let renewed = timeout(ORDER_WITHIN, self.renew(certificates)).await;
            certificates.set_challenges(HashMap::new());
            match renewed.map_err(BoxError::from).flatten() {
                Ok(expires) => {
                    failures = 0;
                    tracing::info!(names, %expires, "got a TLS certificate");
                }
                Err(error) => {
                    let pause = PAUSES[failures.min(PAUSES.len() - 1)];
                    failures += 1;
                    let retry_seconds = pause.as_secs();
                    tracing::error!(
                        error = &*error as &dyn std::error::Error,
                        names,
                        directory = self.directory,
                        retry_seconds,
                        "getting a TLS certificate failed"
                    );
                    sleep(pause).await;
                }
            }
        }
    }

    /// Gets a certificate, uses and keeps it. Returns when it expires.
    async fn renew(&self, certificates: &Certificates) -> Result<Timestamp, BoxError> {
        let account = self.account().await?;
        let names: Vec<_> = self.domains.iter().cloned().map(Identifier::Dns).collect();
        let mut order = account.new_order(&NewOrder::new(&names)).await?;
        validate(&mut order, certificates).await?;
        let steps = RetryPolicy::new().timeout(STEP_WITHIN);
        order.poll_ready(&steps).await?;
        let key = order.finalize().await?;
        let chain = order.poll_certificate(&steps).await?;
        let pem = [key.as_str(), chain.as_str()].join("\n");
        let pair =
            Pair::parse(pem.as_bytes(), pem.as_bytes()).map_err(|problem| match problem {
                Problem::Certificate(problem) | Problem::Key(problem) => BoxError::from(problem),
            })?;
        let expires = pair.validity.until;
        certificates.replace(pair);
        if let Err(error) = self.cache.keep_certificate(pem.as_bytes()) {
            tracing::error!(%error, "the TLS certificate can't be kept in http.acme_cache: a restart asks for another one");
        }
        Ok(expires)
    }

    /// Returns the account of an earlier run, or makes one.
    async fn account(&self) -> Result<Account, BoxError> {
        let transport = || Transport::new().map(Box::new);
        if let Some(credentials) = self.cache.account() {
            return Ok(Account::builder_with_http(transport()?)
                .from_credentials(credentials)
                .await?);
        }
        let contact: Vec<_> = self.contact.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let builder = Account::builder_with_http(transport()?);
        let (account, credentials) = builder.create(&new, self.directory.clone(), None).await?;
        self.cache.keep_account(&credentials)?;
        Ok(account)
    }
}

fn domains(settings: &Http) -> Vec<String> {
    settings.acme_domains.0.iter().map(|domain| domain.0.clone()).collect()
}

/// Returns the certificate that an earlier run has kept.
fn kept(cache: &Cache) -> Option<Pair> {
    let pem = cache.certificate()?;
    match Pair::parse(&pem, &pem) {
        Ok(pair) => Some(pair),
        Err(Problem::Certificate(problem) | Problem::Key(problem)) => {
            tracing::warn!(problem, "the kept certificate can't be used: getting a new one");
            None
        }
    }
}

/// Presents what the ACME server is to find for each name, and tells it to look.
async fn validate(order: &mut Order, certificates: &Certificates) -> Result<(), BoxError> {
    let mut presented = HashMap::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = authorization.identifier().to_string();
        let mut challenge = authorization
            .challenge(ChallengeType::TlsAlpn01)
            .ok_or("the ACME server does not offer the challenge tls-alpn-01")?;
        presented.insert(name.clone(), proof(&name, &challenge.key_authorization())?);
        certificates.set_challenges(presented.clone());
        challenge.set_ready().await?;
    }
    Ok(())
}

/// Makes the certificate that proves control of a name (RFC 8737, section 3).
fn proof(name: &str, authorization: &KeyAuthorization) -> Result<Arc<CertifiedKey>, BoxError> {
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    let digest = authorization.digest();
    params.custom_extensions.push(CustomExtension::new_acme_identifier(digest.as_ref()));
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = any_supported_type(&key)?;
    // Not `from_der`: it refuses the extension, which is critical.
    Ok(Arc::new(CertifiedKey::new(vec![certificate], key)))
}
