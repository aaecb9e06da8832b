//! A standby: a second cluster that has every commit before it is acknowledged, and can take over.

use std::fs;

use super::{Cluster, PostgresDatabase, SUPERUSER};

/// A standby of a database's server.
pub struct Standby(Cluster);

impl PostgresDatabase {
    /// Starts a standby, and has the server wait for it at each commit.
    pub fn gets_a_standby(&self) -> Standby {
        let primary = self.cluster;
        let standby = Cluster::prepare(primary.binaries.clone());
        let data = standby.folder.join("data");
        standby.succeeds("pg_basebackup", |copy| {
            copy.args(["-h", "127.0.0.1", "-p", &primary.port.to_string(), "-U", SUPERUSER]);
            copy.args(["--no-sync", "-c", "fast", "-R", "-D"]).arg(&data)
        });
        // The last setting of a name counts: those of the primary come before, and pg_basebackup has added its own.
        let file = data.join("postgresql.auto.conf");
        let settings = fs::read_to_string(&file).unwrap() + &standby.settings();
        fs::write(&file, settings).unwrap();
        standby.controls(&["-w", "start"]);
        primary.runs("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'");
        primary.runs("postgres", "SELECT pg_reload_conf()");
        Standby(standby)
    }
}

impl Standby {
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// Becomes a primary.
    pub fn takes_over(&self) {
        self.0.controls(&["-w", "promote"]);
    }
}
