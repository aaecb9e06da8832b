//! Connecting to a PostgreSQL server that this version can use.

use std::fs::File;
use std::io;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::time::timeout;

use super::session::{Losses, Session};
use super::url::PgUrl;
use crate::bounded;
use crate::store::OpenError;

/// Maximum time to connect, with TLS, the password and the first query.
const PATIENCE: Duration = Duration::from_secs(5);

/// Maximum bytes of the file of `sslrootcert`: that of all public authorities has a quarter of it.
const AUTHORITY_BYTES: u64 = 1024 * 1024;

/// The first line of a certificate in PEM.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

const NO_CERTIFICATE: &str =
    "it holds no certificate of an authority, which begins with -----BEGIN CERTIFICATE-----";

/// The oldest version of PostgreSQL, in the form of `server_version_num`.
const OLDEST: u32 = 150_000;

/// Settings of every session: the server ends that of a process that has vanished, which frees its locks.
const VANISHED: [(&str, &str); 4] = [
    ("tcp_user_timeout", "10s"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
];

/// Settings of a session that migrates. A migration takes as long as it takes: time limits that the user has in the
/// database must not cut it. It sets its own where it waits for a lock that requests need, see `migrations/README.md`.
const MIGRATING: [(&str, &str); 3] = [
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
];

/// Settings of a session that serves. The server gives a statement up before the client does
/// ([`Session`]), and a session that holds locks without a statement.
///
/// Every statement finds its rows by an index. Each is planned once, without its values, so that the statistics of a
/// young table lead to no other plan.
const SERVING: [(&str, &str); 8] = [
    ("statement_timeout", "8s"),
    ("lock_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "10s"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
];

/// Number of sessions that read. The server works on a few at a time: one per core and some that wait for a disk.
pub(crate) const READERS: usize = 4;

/// Prepared statements that a session keeps: all of the store's.
const STATEMENTS: usize = 512;

/// Reads whether a server takes changes, and its encoding. `default_transaction_read_only` may be on for the user, the
/// database or the server. Where `synchronous_commit` is off, acknowledged changes could be lost, so it is switched on.
const LOOK: &str = "SELECT current_setting('transaction_read_only')::boolean, pg_is_in_recovery(),
                           current_setting('server_encoding'),
                           set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), false)";

/// Connects for a migration. Refuses a server that is too old, takes no changes, or can't store every character.
pub(crate) async fn migrate(url: &PgUrl) -> Result<PgConnection, OpenError> {
    connect(url, &MIGRATING).await
}

/// Removes dead rows of users beside requests, however long it takes.
pub(crate) async fn vacuum_users(url: &PgUrl) -> Result<(), OpenError> {
    let mut connection = migrate(url).await?;
    let vacuumed = sqlx::raw_sql("VACUUM users").execute(&mut connection).await;
    vacuumed.map_err(|source| failed(url, source))?;
    connection.close().await.map_err(|source| failed(url, source))
}

/// Connects for requests, like [`migrate`].
pub(crate) async fn serve(url: &PgUrl, losses: Losses) -> Result<Session, OpenError> {
    Ok(Session::new(connect(url, &SERVING).await?, losses))
}

async fn connect(url: &PgUrl, settings: &[(&str, &str)]) -> Result<PgConnection, OpenError> {
    let connected = timeout(PATIENCE, connect_and_look(url, settings)).await;
    connected.unwrap_or_else(|_| {
        let sentence = format!("no answer within {} s", PATIENCE.as_secs());
        let source = io::Error::new(io::ErrorKind::TimedOut, sentence);
        Err(OpenError::Unreachable { url: url.to_string(), source })
    })
}

/// Returns the options of every session. Fails if the file of `sslrootcert` can't be read.
pub(crate) fn options(url: &PgUrl) -> io::Result<PgConnectOptions> {
    let options = url.options().options(VANISHED).statement_cache_capacity(STATEMENTS);
    let Some(path) = url.authority() else { return Ok(options) };
    let authority = bounded::read(File::open(path)?, AUTHORITY_BYTES)?;
    // sqlx would trust nobody without a word.
    let has_certificate = authority.windows(CERTIFICATE.len()).any(|part| part == CERTIFICATE);
    if !has_certificate {
        return Err(io::Error::new(io::ErrorKind::InvalidData, NO_CERTIFICATE));
    }
    Ok(options.ssl_root_cert_from_pem(authority))
}

/// Reads the file of `sslrootcert`, without connecting.
pub(crate) fn check_authority(url: &PgUrl) -> Result<(), OpenError> {
    options(url).map(drop).map_err(|source| unusable(url, source))
}

fn unusable(url: &PgUrl, source: io::Error) -> OpenError {
    let path = url.authority().map(|path| path.display().to_string()).unwrap_or_default();
    OpenError::Authority { path, source }
}

async fn connect_and_look(
    url: &PgUrl,
    settings: &[(&str, &str)],
) -> Result<PgConnection, OpenError> {
    let options =
        options(url).map_err(|source| unusable(url, source))?.options(settings.iter().copied());
    let connection = options.connect().await;
    let mut connection = connection.map_err(|source| failed(url, source))?;
    let found = connection.server_version_num().unwrap_or_default();
    if found < OLDEST {
        let found = format!("{}.{}", found / 10_000, found % 10_000);
        return Err(OpenError::TooOld { url: url.to_string(), found });
    }
    let looked = sqlx::query_as(LOOK).fetch_one(&mut connection).await;
    let (is_read_only, is_standby, encoding, _): (bool, bool, String, String) =
        looked.map_err(|source| failed(url, source))?;
    let url = url.to_string();
    match (is_read_only, is_standby) {
        (_, true) => Err(OpenError::ReadOnly { url, why: "it is a standby" }),
        (true, false) => {
            Err(OpenError::ReadOnly { url, why: "default_transaction_read_only is on" })
        }
        (false, false) if encoding != "UTF8" => Err(OpenError::Encoding { url, found: encoding }),
        (false, false) => Ok(connection),
    }
}

/// Returns why the database can't be opened.
pub(crate) fn failed(url: &PgUrl, source: sqlx::Error) -> OpenError {
    let url = url.to_string();
    match source {
        sqlx::Error::Io(source) => OpenError::Unreachable { url, source },
        cause => OpenError::Refused { url, cause },
    }
}

/// Returns what an operator can do about a server that can't be reached, as a part of a sentence. rustls reports what is
/// wrong with a certificate as invalid data.
pub(crate) fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::ConnectionRefused => {
            "; does it run, and does listen_addresses have this one?"
        }
        io::ErrorKind::InvalidData => {
            "; the server's certificate must be of X.509 version 3, have the host of the URL as subjectAltName, and be signed by \
             the authority in the file of sslrootcert, not by itself"
        }
        _ => "",
    }
}
