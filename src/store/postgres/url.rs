//! The URL of a PostgreSQL database.
//!
//! It is read here and not by sqlx, which only logs a parameter that it does not know, trusts any certificate under
//! `sslmode=require` even with `sslrootcert`, and reads `~/.pgpass`, whose malformed lines it logs.

use std::fmt;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

use crate::domain::Parse;

/// The port of PostgreSQL, where a URL has none.
const PORT: u16 = 5432;

/// The location of a PostgreSQL database, and the user who opens it. Shown without user and password.
#[derive(Clone)]
pub struct PgUrl {
    options: PgConnectOptions,
    has_password: bool,
    /// The file with the certificate of an authority.
    authority: Option<PathBuf>,
    /// `postgres://`, host, port and database.
    shown: String,
}

impl PgUrl {
    /// Whether a URL is one of PostgreSQL, well-formed or not.
    pub(crate) fn is_meant(text: &str) -> bool {
        ["postgres:", "postgresql:"].iter().any(|scheme| text.starts_with(scheme))
    }

    pub(crate) fn has_password(&self) -> bool {
        self.has_password
    }

    /// Sets the password of the user.
    pub(crate) fn with_password(&self, password: &str) -> Self {
        let options = self.options.clone().password(password);
        Self { options, has_password: true, ..self.clone() }
    }

    pub(crate) fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// Returns the file of `sslrootcert`.
    pub(crate) fn authority(&self) -> Option<&Path> {
        self.authority.as_deref()
    }

    /// Reads a URL, or returns what is wrong with it.
    fn read(text: &str) -> Result<Self, &'static str> {
        let url = Url::parse(text)
            .map_err(|_| "it is no URL: in a password write %40 for @, %2F for /, %3A for :, %3F for ? and %23 for #")?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err("its scheme must be postgres");
        }
        if url.fragment().is_some() {
            return Err("it holds #: write %23");
        }
        // An IPv6 address has brackets in a URL only.
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let host = decoded(host).filter(|host| !host.is_empty());
        let host = host.ok_or("it names no host; that of a socket is its folder with %2F for /")?;
        let user = decoded(url.username()).filter(|user| !user.is_empty());
        let user = user.ok_or(
            "it names no user: write postgres://user@host/database, and in a password %40 for @, %3F for ?",
        )?;
        let path = url.path().strip_prefix('/').unwrap_or_default();
        if path.contains(['/', '@']) {
            // A password with / ends the host early. What is taken for the database is shown, so it must be none of that.
            return Err("its database holds / or @: write %2F and %40, in a password, too");
        }
        let database = decoded(path);
        let database = database.filter(|database| !database.is_empty());
        let database =
            database.ok_or("it names no database: write postgres://user@host/database")?;
        let port = url.port().unwrap_or(PORT);
        // Takes PGPASSWORD, PGOPTIONS and the names of certificates from the environment. The rest is set below.
        let options = PgConnectOptions::new_without_pgpass();
        let (options, shown) = if host.starts_with('/') {
            (options.socket(&host), format!("postgres://{host}:{port}/{database}"))
        } else {
            let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            (options, format!("postgres://{shown}:{port}/{database}"))
        };
        let mut options = options.host(&host).port(port).username(&user).database(&database);
        if let Some(password) = url.password() {
            options = options.password(&decoded(password).ok_or("its password is not UTF-8")?);
        }
        let has_password = url.password().is_some();
        let (mode, authority) = security(&url)?;
        let options = options.ssl_mode(mode).application_name("chatserver");
        Ok(Self { options: options.disable_statement_logging(), has_password, authority, shown })
    }
}

/// Reads the parameters, all of which are about TLS.
fn security(url: &Url) -> Result<(PgSslMode, Option<PathBuf>), &'static str> {
    let mut mode = PgSslMode::Prefer;
    let mut authority = None;
    for (name, value) in url.query_pairs() {
        match (&*name, &*value) {
            ("sslmode", "disable") => mode = PgSslMode::Disable,
            ("sslmode", "prefer") => mode = PgSslMode::Prefer,
            ("sslmode", "require") => mode = PgSslMode::Require,
            ("sslmode", "verify-ca") => mode = PgSslMode::VerifyCa,
            ("sslmode", "verify-full") => mode = PgSslMode::VerifyFull,
            ("sslmode", _) => {
                return Err("sslmode is disable, prefer, require, verify-ca or verify-full");
            }
            ("sslrootcert", file) if file.starts_with('/') => authority = Some(file.into()),
            ("sslrootcert", _) => return Err("sslrootcert is the absolute path of a file in PEM"),
            _ => return Err("its parameters can be sslmode and sslrootcert"),
        }
    }
    if authority.is_some() && !matches!(mode, PgSslMode::VerifyCa | PgSslMode::VerifyFull) {
        return Err(
            "sslrootcert needs sslmode=verify-full or verify-ca: no other mode looks at it",
        );
    }
    Ok((mode, authority))
}

/// Decodes `%40` and the like. Returns `None` where that is not UTF-8, or holds NUL, which ends a text of PostgreSQL's.
fn decoded(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    (!text.contains('\0')).then(|| text.into_owned())
}

impl Parse for PgUrl {
    const EXPECTED: &'static str =
        "the URL of a PostgreSQL database, such as postgres://chat@db.example.com/chat";

    fn parse(text: &str) -> Option<Self> {
        Self::read(text).ok()
    }

    fn objection(text: &str) -> Option<&'static str> {
        Self::read(text).err()
    }
}

impl fmt::Display for PgUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

impl fmt::Debug for PgUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_user_and_password() {
        for (text, shown) in [
            ("postgres://chat@db/chat", "postgres://db:5432/chat"),
            ("postgresql://chat:hunter2@db:1/chat", "postgres://db:1/chat"),
            ("postgres://ch%40t:h%2Fnter2@[::1]:1/ch%2Ft", "postgres://[::1]:1/ch/t"),
            ("postgres://chat@%2Frun%2Fpostgresql/chat", "postgres:///run/postgresql:5432/chat"),
            (
                "postgres://chat@db/chat?sslmode=verify-full&sslrootcert=/ca.pem",
                "postgres://db:5432/chat",
            ),
        ] {
            let url = PgUrl::parse(text).unwrap();
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.to_owned(), shown.to_owned()));
        }
    }

    #[test]
    fn a_url_names_host_port_user_and_database() {
        let options =
            PgUrl::parse("postgres://ch%40t@[::1]:1/ch%2Ft?sslmode=disable").unwrap().options();
        assert_eq!(options.get_host(), "::1");
        assert_eq!(options.get_port(), 1);
        assert_eq!(options.get_username(), "ch@t");
        assert_eq!(options.get_database(), Some("ch/t"));
        assert!(matches!(options.get_ssl_mode(), PgSslMode::Disable));
    }

    #[test]
    fn a_wrong_url_is_refused_with_what_is_wrong() {
        for (text, objection) in [
            ("postgres://chat@db", "names no database"),
            ("postgres://chat@db/", "names no database"),
            ("postgres://db/chat", "names no user"),
            ("postgres:///chat", "names no host"),
            ("postgres://chat:p@ss/word@db/chat", "holds / or @"),
            ("postgres://chat:pa#ss@db/chat", "no URL"),
            ("postgres://chat@db/chat#x", "%23"),
            ("postgres://chat@db:port/chat", "no URL"),
            ("postgres://chat@db/chat?sslmode=allow", "sslmode is"),
            ("postgres://chat@db/chat?sslmode=require&sslrootcert=/ca.pem", "no other mode"),
            ("postgres://chat@db/chat?sslmode=verify-full&sslrootcert=ca.pem", "absolute path"),
            ("postgres://chat@db/chat?sslmod=verify-full", "can be sslmode and sslrootcert"),
            ("postgres://chat@db/ch%00t", "names no database"),
        ] {
            let found = PgUrl::objection(text).unwrap_or_default();
            assert!(found.contains(objection), "{text}: {found}");
        }
    }
}
