//! The PostgreSQL-only part of the store: the URL, connecting, and the schema.

pub(crate) mod codes;
pub(crate) mod connect;
pub(crate) mod schema;
pub(crate) mod url;
