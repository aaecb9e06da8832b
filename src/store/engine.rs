//! The database behind a store: a file of SQLite's or a PostgreSQL server.

use super::Error;
use super::postgres::server::Server;
use super::sql::Connection;
use super::sqlite::local::Local;

#[derive(Clone)]
pub(crate) enum Engine {
    Sqlite(Local),
    Postgres(Server),
}

impl Engine {
    /// Returns the parts of a database in a file.
    pub(crate) fn local(&self) -> Option<&Local> {
        match self {
            Self::Sqlite(local) => Some(local),
            Self::Postgres(_) => None,
        }
    }

    /// Opens a connection that may write, in place of one that is of no more use.
    pub(crate) async fn reconnect(&self) -> Result<Connection, Error> {
        match self {
            Self::Sqlite(local) => local.reconnect().await.map(Connection::Sqlite),
            Self::Postgres(server) => {
                server.connect().await.map(|session| Connection::Postgres(Box::new(session)))
            }
        }
    }
}
