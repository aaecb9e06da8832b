//! The place of a test's data: a file, or PostgreSQL where its process runs on that (`postgres/suites.rs`).

use std::path::PathBuf;
use std::sync::Arc;

use chatserver::domain::Parse as _;
use chatserver::key_file::KeyFile;
use chatserver::store::DatabaseUrl;
use tempfile::TempDir;

use super::database::Database;
use super::postgres::PostgresDatabase;

pub struct Home {
    pub folder: TempDir,
    file: &'static str,
    server: Option<Arc<PostgresDatabase>>,
}

impl Home {
    /// Makes a temporary folder, in which a file would have this name.
    pub fn new(file: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, file, server: PostgresDatabase::if_asked_for().map(Arc::new) }
    }

    /// Keeps the data in a database of PostgreSQL's.
    pub fn on(server: Arc<PostgresDatabase>) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), file: "none", server: Some(server) }
    }

    /// Returns the path of the database file.
    pub fn file(&self) -> PathBuf {
        assert!(
            self.server.is_none(),
            "this test needs a file: it has no place in a suite on PostgreSQL"
        );
        self.folder.path().join(self.file)
    }

    /// Returns the URL of the database.
    pub fn url(&self) -> String {
        match &self.server {
            Some(server) => server.url(),
            None => format!("sqlite://{}", self.file().display()),
        }
    }

    /// Returns the setting of the key file: empty for a database file, which has it beside it.
    pub fn key_file(&self) -> String {
        let path = self.server.as_ref().map(|server| server.key_file());
        path.unwrap_or_default().to_str().unwrap().to_owned()
    }

    /// Returns the key file for a store that this process opens.
    pub fn key_file_of_store(&self) -> KeyFile {
        match &self.server {
            Some(server) => KeyFile::at(server.key_file()),
            None => DatabaseUrl::parse(&self.url()).unwrap().key_file().unwrap(),
        }
    }

    /// Returns the database on PostgreSQL.
    pub fn server(&self) -> Option<&Arc<PostgresDatabase>> {
        self.server.as_ref()
    }

    /// Opens the database as another process does.
    pub async fn opens(&self) -> Database {
        match &self.server {
            Some(server) => Database::Server(server.connects().await),
            None => Database::opens(&self.file()).await,
        }
    }
}
