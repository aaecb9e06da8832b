//! A second writer of the database.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};

use crate::world::World;

/// A connection that holds the write lock until it ends, as another process would.
pub struct OtherWriter(SqliteConnection);

impl OtherWriter {
    pub async fn begins(world: &World) -> Self {
        let options = SqliteConnectOptions::new().filename(world.database());
        let mut connection = options.connect().await.unwrap();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
        Self(connection)
    }

    pub async fn ends(mut self) {
        sqlx::query("ROLLBACK").execute(&mut self.0).await.unwrap();
    }
}
