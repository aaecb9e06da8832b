//! The PostgreSQL-only part of the store: the URL, connecting, the schema, and what is between the nodes.

pub(crate) mod arrays;
pub(crate) mod bus;
pub(crate) mod checkup;
pub(crate) mod codes;
pub(crate) mod connect;
mod payload;
pub(crate) mod presence;
pub(crate) mod schema;
pub(crate) mod server;
pub(crate) mod session;
pub(crate) mod url;
