//! A real PostgreSQL: one cluster for each test process, a database for each test.

pub mod binaries;
pub mod small_disk;
pub mod standby;

use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};
use tempfile::TempDir;

use super::certificates::Certificates;
use super::left_out::left_out;
use super::process::{NOBODY, Workplace, free_address};

/// Free bytes of /dev/shm from which the cluster is there.
const ROOM: u64 = 2 << 30;

/// The superuser, who needs no password.
pub const SUPERUSER: &str = "chat";

/// A user who needs [`PASSWORD`].
pub const USER: &str = "careful";

pub const PASSWORD: &str = "hunter2";

/// The template of databases that have the newest schema.
const MIGRATED: &str = "migrated";

/// The tablespace in the folder of the cluster.
const IN_CLUSTER: &str = "pg_default";

/// Tells a process that its tests run on PostgreSQL: the port and the folder of the cluster of the process that started
/// it, with a colon between them.
const OF_PARENT: &str = "CHATSERVER_TEST_POSTGRES";

/// The cluster of this process, or of the one that started it. `None` where the machine has no PostgreSQL.
static CLUSTER: LazyLock<Option<Cluster>> = LazyLock::new(|| {
    let binaries = binaries::folder()?;
    Some(match env::var(OF_PARENT) {
        Ok(parent) => Cluster::of_parent(binaries, &parent),
        Err(_) => Cluster::start(binaries),
    })
});

/// [`CLUSTER`], with the template [`MIGRATED`].
static WITH_TEMPLATE: LazyLock<Option<&Cluster>> = LazyLock::new(|| {
    let cluster = CLUSTER.as_ref()?;
    if cluster.watchdog.is_none() {
        return Some(cluster);
    }
    cluster.runs("postgres", &format!("CREATE DATABASE {MIGRATED}"));
    let place = Workplace::new();
    place.tells(&["migrate", "--database-url", &cluster.url(MIGRATED)]);
    Some(cluster)
});

/// A running cluster. It ends with this process, see [`Cluster::start`].
struct Cluster {
    binaries: PathBuf,
    folder: PathBuf,
    port: u16,
    certificates: Certificates,
    /// Ends the cluster when its stdin is closed. No one closes it: the kernel does when this process ends. `None` in a
    /// process that did not start it.
    watchdog: Option<Child>,
}

/// Ends the cluster and removes its folder once stdin ends, as it does with the process that holds the other end of the
/// pipe: however that ends, a panic and `kill -9` included.
const WATCHDOG: &str = r#"read -r _; "$1/pg_ctl" -D "$2/data" -m immediate stop; rm -rf "$2""#;

/// Access rules (`pg_hba.conf`): a password for one user, none for all others. The cluster is on loopback, and its socket
/// in a folder of its own.
const ACCESS: &str = "\
local all all trust
host replication all 127.0.0.1/32 trust
host all careful 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
";

impl Cluster {
    /// Prepares the folder of a cluster that has no data yet, and what ends it.
    fn prepare(binaries: PathBuf) -> Self {
        let folder = TempDir::new_in(memory().unwrap_or(env::temp_dir())).unwrap().keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        let certificates = Certificates::make(&folder);
        for file in fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()) {
            give(&file);
        }
        give(&folder);
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", WATCHDOG, "watchdog"]).args([&binaries, &folder]);
        // In a process group of its own, it outlives a Ctrl-C. Without the output of the tests, nobody waits for it.
        watchdog.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let watchdog = Some(as_nobody(&mut watchdog, &folder).spawn().unwrap());
        Self { binaries, folder, port: free_address().port(), certificates, watchdog }
    }

    fn of_parent(binaries: PathBuf, parent: &str) -> Self {
        let (port, folder) = parent.split_once(':').unwrap();
        let (port, folder) = (port.parse().unwrap(), PathBuf::from(folder));
        let certificates = Certificates::made_in(&folder);
        Self { binaries, folder, port, certificates, watchdog: None }
    }

    /// Starts a cluster in a folder of its own, in memory if there is room: fsync stays on, but costs nothing there. A
    /// test that proves durability needs a cluster on a disk.
    ///
    /// Its locale sorts `a` before `B`, so that a text without `COLLATE "C"` is noticed.
    fn start(binaries: PathBuf) -> Self {
        let cluster = Self::prepare(binaries);
        let data = cluster.folder.join("data");
        let locale = ["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en"];
        let new = ["--username", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--no-sync", "-D"];
        cluster.succeeds("initdb", |initdb| initdb.args(locale).args(new).arg(&data));
        let settings = cluster.settings();
        for (name, text) in [("postgresql.auto.conf", settings.as_str()), ("pg_hba.conf", ACCESS)] {
            fs::write(data.join(name), text).unwrap();
        }
        cluster.controls(&["-w", "start"]);
        let user = format!("CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'");
        cluster.runs("postgres", &user);
        cluster
    }

    /// Starts or stops the server.
    fn controls(&self, how: &[&str]) {
        let (data, log) = (self.folder.join("data"), self.folder.join("log"));
        self.succeeds("pg_ctl", |control| control.arg("-D").arg(data).arg("-l").arg(log).args(how));
    }

    fn settings(&self) -> String {
        let folder = self.folder.display();
        let Certificates { certificate, key, .. } = &self.certificates;
        let (certificate, key) = (certificate.display(), key.display());
        let port = self.port;
        format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{folder}'\n\
             max_connections = 500\nshared_buffers = '64MB'\nmax_wal_size = '256MB'\n\
             ssl = on\nssl_cert_file = '{certificate}'\nssl_key_file = '{key}'\n"
        )
    }

    /// Runs a program of PostgreSQL. Asserts that it succeeds.
    fn succeeds(&self, program: &str, arguments: impl FnOnce(&mut Command) -> &mut Command) {
        let mut command = Command::new(self.binaries.join(program));
        arguments(&mut command);
        self.completes(command);
    }

    /// Runs a command in the cluster's folder, and not as root. Asserts that it succeeds.
    fn completes(&self, mut command: Command) {
        let output = as_nobody(command.stdin(Stdio::null()), &self.folder).output().unwrap();
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        assert!(output.status.success(), "{command:?}: {output:?}\n{log}");
    }

    /// Runs a statement as the superuser.
    fn runs(&self, database: &str, statement: &str) {
        let url = self.url(database);
        self.succeeds("psql", |psql| {
            psql.args(["-qX", "-v", "ON_ERROR_STOP=1", "-d", &url, "-c", statement])
        });
    }

    fn url(&self, database: &str) -> String {
        url(self.port, database)
    }
}

fn url(port: u16, database: &str) -> String {
    format!("postgres://{SUPERUSER}@127.0.0.1:{port}/{database}?sslmode=disable")
}

/// Returns the folder of a file system in memory that has room for a cluster.
fn memory() -> Option<PathBuf> {
    let folder = Path::new("/dev/shm");
    let found = rustix::fs::statvfs(folder).ok()?;
    (found.f_bavail * found.f_frsize > ROOM).then(|| folder.to_owned())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// PostgreSQL refuses to run as root.
fn as_nobody<'c>(command: &'c mut Command, folder: &Path) -> &'c mut Command {
    command.current_dir(folder);
    if is_root() { command.uid(NOBODY).gid(NOBODY) } else { command }
}

fn give(file: &Path) {
    if is_root() {
        chown(file, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// A database of the test's own. Dropping it removes it.
pub struct PostgresDatabase {
    cluster: &'static Cluster,
    pub name: String,
    /// The port of its URL: the cluster's, or that of a proxy.
    port: u16,
}

impl PostgresDatabase {
    /// Makes an empty database. Returns `None` where the machine has no PostgreSQL: the test is left out.
    pub fn empty() -> Option<Self> {
        Some(Self::create(found(CLUSTER.as_ref())?, "template1", IN_CLUSTER))
    }

    /// Makes a database with the newest schema. Returns `None` where the machine has no PostgreSQL.
    pub fn migrated() -> Option<Self> {
        Some(Self::create(found(*WITH_TEMPLATE)?, MIGRATED, IN_CLUSTER))
    }

    /// Makes a database with the newest schema on a server of its own, which the test may stop.
    pub fn on_a_server_of_its_own() -> Option<Self> {
        found(*WITH_TEMPLATE)?;
        let cluster = Box::leak(Box::new(Cluster::start(binaries::folder()?)));
        let database = Self::create(cluster, "template1", IN_CLUSTER);
        Workplace::new().tells(&["migrate", "--database-url", &database.url()]);
        Some(database)
    }

    /// Stops the server as a crash does.
    pub fn server_crashes(&self) {
        self.cluster.controls(&["-m", "immediate", "stop"]);
    }

    pub fn server_starts(&self) {
        self.cluster.controls(&["-w", "start"]);
    }

    /// Makes a database with the newest schema where the tests of this process run on PostgreSQL ([`on_postgres`]).
    pub fn if_asked_for() -> Option<Self> {
        env::var_os(OF_PARENT)?;
        Self::migrated()
    }

    fn create(cluster: &'static Cluster, template: &str, tablespace: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{number}", std::process::id());
        let create = format!("CREATE DATABASE {name} TEMPLATE {template} TABLESPACE {tablespace}");
        cluster.runs("postgres", &create);
        Self { cluster, name, port: cluster.port }
    }

    /// Returns the URL of the superuser, without TLS.
    pub fn url(&self) -> String {
        url(self.port, &self.name)
    }

    /// Returns the path of the key file, which all nodes share. The first one makes it.
    pub fn key_file(&self) -> PathBuf {
        self.cluster.folder.join(&self.name).with_extension("key")
    }

    /// Returns the database as it is reached through a proxy at this port.
    pub fn through(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Returns a URL with this user, host and query.
    pub fn url_of(&self, user: &str, host: &str, query: &str) -> String {
        format!("postgres://{user}@{host}:{}/{}?{query}", self.port(), self.name)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the folder of the cluster's socket.
    pub fn socket(&self) -> &Path {
        &self.cluster.folder
    }

    pub fn certificates(&self) -> &Certificates {
        &self.cluster.certificates
    }

    /// Runs a statement as the superuser.
    pub fn runs(&self, statement: &str) {
        self.cluster.runs(&self.name, statement);
    }

    /// Connects as another process does.
    pub async fn connects(&self) -> PgConnection {
        self.url().parse::<PgConnectOptions>().unwrap().connect().await.unwrap()
    }

    /// Returns the only column of all rows.
    pub async fn texts(&self, query: &str) -> Vec<String> {
        let mut connection = self.connects().await;
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&mut connection).await.unwrap()
    }

    /// Returns the number in the only row of a query.
    pub async fn number(&self, query: &str) -> i64 {
        let mut connection = self.connects().await;
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut connection).await.unwrap()
    }
}

impl Drop for PostgresDatabase {
    fn drop(&mut self) {
        // A server of the test's own ends with the process.
        if !std::thread::panicking() && std::ptr::eq(self.cluster, CLUSTER.as_ref().unwrap()) {
            self.cluster.runs("postgres", &format!("DROP DATABASE {} WITH (FORCE)", self.name));
        }
    }
}

/// Builds the command that runs tests of this binary on PostgreSQL. Returns `None` where the machine has none.
pub fn on_postgres(arguments: &[&str]) -> Option<Command> {
    let cluster = found(*WITH_TEMPLATE)?;
    let mut command = Command::new(env::current_exe().unwrap());
    let parent = format!("{}:{}", cluster.port, cluster.folder.display());
    command.args(arguments).env(OF_PARENT, parent).stdin(Stdio::null());
    Some(command)
}

/// Returns what was found. If there is no PostgreSQL, the test fails in CI, and elsewhere says that it is left out.
fn found(cluster: Option<&'static Cluster>) -> Option<&'static Cluster> {
    if cluster.is_none() {
        left_out(std::thread::current().name().unwrap_or_default(), "PostgreSQL");
    }
    cluster
}

/// Returns the number of migrations that an empty database needs.
pub fn migrations() -> u64 {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/postgres");
    fs::read_dir(folder).unwrap().count() as u64
}
