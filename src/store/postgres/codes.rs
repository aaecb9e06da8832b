//! Error codes of PostgreSQL (<https://www.postgresql.org/docs/current/errcodes-appendix.html>), and what an operator can do
//! about them.

use sqlx::postgres::PgDatabaseError;

/// Returns what an operator can do about an error at opening or migrating, as a part of a sentence.
pub(crate) fn advice(error: &sqlx::Error) -> &'static str {
    let Some(error) = error.as_database_error() else { return "" };
    let code = error.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::code);
    match code {
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
