//! Connecting to a PostgreSQL server that this version can use.

use std::fs::File;
use std::io;
use std::time::Duration;

use sqlx::{ConnectOptions as _, PgConnection};
use tokio::time::timeout;

use super::url::PgUrl;
use crate::bounded;
use crate::store::OpenError;

/// Maximum time to connect, with TLS, the password and the first query.
const PATIENCE: Duration = Duration::from_secs(5);

/// Maximum bytes of the file of `sslrootcert`: that of all public authorities has a quarter of it.
const AUTHORITY_BYTES: u64 = 1024 * 1024;

/// The oldest version of PostgreSQL, in the form of `server_version_num`.
const OLDEST: u32 = 150_000;

/// Settings of a session that migrates.
///
/// With `tcp_…`, the server ends the session of a process that has vanished, which frees its locks. A migration takes as
/// long as it takes: time limits that the user has in the database must not cut it. It sets its own where it waits for a
/// lock that requests need, see `migrations/README.md`.
const SESSION: [(&str, &str); 7] = [
    ("tcp_user_timeout", "10s"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
];

/// Reads whether a server takes changes, and its encoding. `default_transaction_read_only` may be on for the user, the database or the server.
const LOOK: &str = "SELECT current_setting('transaction_read_only')::boolean, pg_is_in_recovery(),
                           current_setting('server_encoding')";

/// Connects, and refuses a server that is too old, takes no changes, or can't store every character.
pub(crate) async fn connect(url: &PgUrl) -> Result<PgConnection, OpenError> {
    let connected = timeout(PATIENCE, connect_and_look(url)).await;
    connected.unwrap_or_else(|_| {
        let sentence = format!("no answer within {} s", PATIENCE.as_secs());
        let source = io::Error::new(io::ErrorKind::TimedOut, sentence);
        Err(OpenError::Unreachable { url: url.to_string(), source })
    })
}

async fn connect_and_look(url: &PgUrl) -> Result<PgConnection, OpenError> {
    let mut options = url.options().options(SESSION);
    if let Some(path) = url.authority() {
        let file = File::open(path).and_then(|file| bounded::read(file, AUTHORITY_BYTES));
        let unusable = |source| OpenError::Authority { path: path.display().to_string(), source };
        options = options.ssl_root_cert_from_pem(file.map_err(unusable)?);
    }
    let connection = options.connect().await;
    let mut connection = connection.map_err(|source| failed(url, source))?;
    let found = connection.server_version_num().unwrap_or_default();
    if found < OLDEST {
        let found = format!("{}.{}", found / 10_000, found % 10_000);
        return Err(OpenError::TooOld { url: url.to_string(), found });
    }
    let looked = sqlx::query_as(LOOK).fetch_one(&mut connection).await;
    let (is_read_only, is_standby, encoding): (bool, bool, String) =
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
        source => OpenError::Refused { url, source },
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
            "; sslrootcert must name the file of the authority that signed the server's certificate, which must be for \
             the host of the URL"
        }
        _ => "",
    }
}
