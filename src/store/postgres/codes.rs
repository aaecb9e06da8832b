//! Error codes of PostgreSQL (<https://www.postgresql.org/docs/current/errcodes-appendix.html>), and what an operator can do
//! about them.

use sqlx::postgres::PgDatabaseError;

/// Returns the code of an error of PostgreSQL's.
fn code(error: &sqlx::Error) -> Option<&str> {
    Some(error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?.code())
}

/// Whether the transaction met another one and succeeds when it is repeated: a failed serialization or a deadlock. A
/// unique key that two transactions took at once is reported before the serialization is looked at.
pub(crate) fn is_conflict(error: &sqlx::Error) -> bool {
    matches!(code(error), Some("40001" | "40P01" | "23505"))
}

/// Whether every statement would fail alike: the session has ended, or a lock was not free or the server not ready in
/// time.
pub(crate) fn is_for_all(error: &sqlx::Error) -> bool {
    ends_session(error) || matches!(code(error), Some("55P03" | "57014"))
}

/// Returns the cause of a failure as one of a few words.
pub(crate) fn cause(error: &sqlx::Error) -> Option<&'static str> {
    if ends_session(error) {
        return Some("disconnected");
    }
    Some(match code(error)? {
        "53100" => "full",
        "57014" => "timeout",
        "55P03" => "busy",
        code if code.starts_with("40") => "conflict",
        code if code.starts_with("23") => "constraint",
        _ => "other",
    })
}

/// Whether no other statement of the session can succeed. A primary that has become a standby takes no changes any more
/// (25006).
pub(crate) fn ends_session(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        error => code(error).is_some_and(|code| {
            code.starts_with("08") || code.starts_with("57P") || code == "25006"
        }),
    }
}

/// Returns what the server says, without the line of its source.
pub(crate) fn message(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// Returns what an operator can do about an error at opening or migrating, as a part of a sentence.
pub(crate) fn advice(error: &sqlx::Error) -> &'static str {
    match error {
        sqlx::Error::Tls(_) => {
            return "; sslmode asks for TLS: set ssl = on in postgresql.conf, or use sslmode=disable for a server that only this \
                    machine reaches";
        }
        sqlx::Error::Protocol(_) => {
            return "; check host and port: this does not answer like PostgreSQL";
        }
        _ => {}
    }
    match code(error) {
        Some("28P01" | "28000") => {
            "; the password belongs in CHATSERVER_DATABASE__PASSWORD or the file of database.password_file, and pg_hba.conf \
             decides who may connect"
        }
        Some("3D000") => "; create it first: CREATE DATABASE name OWNER user ENCODING 'UTF8'",
        Some("42501") => "; the user must own the database, or be allowed to create tables in it",
        Some("53100") => "; the disk of the database is full",
        Some("53300") => "; raise max_connections, or start fewer servers",
        Some("55P03") => "; a lock was not free in time: try again",
        Some("57P03") => "; try again in a moment",
        _ => "",
    }
}
