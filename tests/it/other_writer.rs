//! Another process that writes to the database.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};

use crate::world::World;

/// Another process that is writing, for as long as it likes.
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
