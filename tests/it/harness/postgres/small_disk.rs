//! A server with a database on a small disk, which a test can fill.
//!
//! Only the database is there, as a tablespace. The write-ahead log is elsewhere: without space for it, PostgreSQL ends
//! itself and does not come back until there is some.

use std::fs;
use std::process::{Command, Stdio};

use sqlx::PgConnection;
use sqlx::postgres::PgDatabaseError;

use super::{Cluster, PostgresDatabase, Workplace, as_nobody, binaries, found};
use crate::harness::left_out::left_out;

/// Runs its arguments where a file system in memory is mounted. To mount it needs a right that every user has in a user
/// namespace, on most systems. PostgreSQL refuses to run as root, so it gets a second namespace, in which it is not.
const MOUNT: &str = r#"mount -t tmpfs -o size=32m,mode=0700 tmpfs disk &&
                       exec unshare --user --map-user=1000 --map-group=1000 "$@""#;

fn mounted() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, "mounted"]);
    command
}

impl PostgresDatabase {
    /// Makes a database with the newest schema on a disk of 32 MiB. Returns `None` where the machine has no PostgreSQL or
    /// lets nobody mount: the test is left out.
    pub fn on_a_small_disk() -> Option<Self> {
        found(*super::WITH_TEMPLATE)?;
        let cluster = Box::leak(Box::new(Cluster::start(binaries::folder()?)));
        let (folder, disk) = (&cluster.folder, cluster.folder.join("disk"));
        fs::create_dir(&disk).unwrap();
        let mut trial = mounted();
        trial.arg("true").stdin(Stdio::null()).stderr(Stdio::null());
        if !as_nobody(&mut trial, folder).status().is_ok_and(|status| status.success()) {
            left_out("a full disk of PostgreSQL", "a user namespace in which it can mount a disk");
            return None;
        }
        cluster.controls(&["stop"]);
        let mut start = mounted();
        start.arg(cluster.binaries.join("pg_ctl")).args(["-D", "data", "-l", "log", "-w", "start"]);
        cluster.completes(start);
        let tablespace = format!("CREATE TABLESPACE small LOCATION '{}'", disk.display());
        cluster.runs("postgres", &tablespace);
        let database = Self::create(cluster, "template1", "small");
        Workplace::new().tells(&["migrate", "--database-url", &database.url()]);
        Some(database)
    }

    /// Fills the disk with another table. Returns the session that did, for [`frees_the_disk`]: a new one may find no space
    /// for its caches.
    pub async fn fills_the_disk(&self) -> PgConnection {
        self.runs("CREATE TABLE ballast (data text) WITH (autovacuum_enabled = off)");
        let mut connection = self.connects().await;
        // A row on each page.
        let fill = "INSERT INTO ballast SELECT repeat('x', 7000) FROM generate_series(1, 16)";
        let error = loop {
            match sqlx::query(fill).execute(&mut connection).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        let error = error.as_database_error().unwrap().downcast_ref::<PgDatabaseError>();
        assert_eq!(error.code(), "53100", "{error}");
        connection
    }
}

/// Makes room on the disk.
pub async fn frees_the_disk(mut filled: PgConnection) {
    sqlx::query("DROP TABLE ballast").execute(&mut filled).await.unwrap();
}
