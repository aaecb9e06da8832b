//! The binary, run as an operator runs it.

use std::fmt::Debug;
use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;

use super::database::Database;
use super::home::Home;
use super::person::Person;
use super::postgres::PostgresDatabase;
use super::world::until;

/// User id of `nobody`.
pub const NOBODY: u32 = 65_534;

/// The setting of the address for metrics.
const METRICS_LISTEN: &str = "CHATSERVER_HTTP__METRICS_LISTEN";

/// The setting of the key file.
pub const KEY_FILE: &str = "CHATSERVER_AUTH__KEY_FILE";

/// A temporary folder in which the binary runs.
pub struct Workplace {
    home: Home,
    /// Whether all databases have the key file of [`Self::key_file`], files of SQLite's included.
    shares_key_file: bool,
}

impl Workplace {
    pub fn new() -> Self {
        Self { home: Home::new("chatserver.db"), shares_key_file: false }
    }

    /// Runs all commands with one key file, as for copies between databases.
    pub fn with_key_file() -> Self {
        Self { shares_key_file: true, ..Self::new() }
    }

    /// Runs commands on a database of PostgreSQL's.
    pub fn on(database: Arc<PostgresDatabase>) -> Self {
        Self { home: Home::on(database), shares_key_file: false }
    }

    pub fn path(&self) -> &Path {
        self.home.folder.path()
    }

    /// Returns the path of the default database.
    pub fn database(&self) -> PathBuf {
        self.home.file()
    }

    /// Returns the path of the key file beside the default database.
    pub fn database_key_file(&self) -> PathBuf {
        self.path().join("chatserver.db.key")
    }

    /// Returns the path of the key file that a database gets which has none beside it.
    pub fn key_file(&self) -> PathBuf {
        match self.home.server() {
            Some(server) => server.key_file(),
            None => self.path().join("keys"),
        }
    }

    /// Opens the default database as another process does.
    pub async fn opens_database(&self) -> Database {
        self.home.opens().await
    }

    /// Makes a FIFO in this folder and returns its path.
    pub fn makes_fifo(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    }

    /// Builds the command with these arguments, in this folder and with an empty environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chatserver"));
        command.args(arguments).current_dir(self.path()).env_clear();
        if let Some(server) = self.home.server() {
            command.env("CHATSERVER_DATABASE__URL", server.url());
        }
        let names_postgres = arguments.iter().any(|argument| argument.starts_with("postgres:"));
        if self.home.server().is_some() || names_postgres || self.shares_key_file {
            command.env(KEY_FILE, self.key_file());
        }
        command
    }

    /// Runs a command to its end, without stdin.
    pub fn runs(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command to its end with this text on stdin and these environment variables.
    pub fn runs_with(
        &self,
        arguments: &[&str],
        stdin: &str,
        environment: &[(&str, &str)],
    ) -> Output {
        let mut command = self.command(arguments);
        command.envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Runs a command with `--json` and returns the object that it prints. Asserts that it succeeds.
    #[track_caller]
    pub fn tells(&self, arguments: &[&str]) -> Value {
        let output = self.runs(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Like [`Self::tells`], but does not block the runtime while the command runs.
    pub async fn tells_meanwhile(&self, arguments: &[&str]) -> Value {
        let mut command = self.command(&[arguments, &["--json"]].concat());
        let running = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = running.spawn().unwrap();
        let output = tokio::task::spawn_blocking(|| running.wait_with_output().unwrap());
        let output = output.await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a command, asserts that it fails with exit code 1, and returns its stderr.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.runs(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Like [`Self::fails`], but runs the command without root's rights: as `nobody`, who owns no file, if the test runs
    /// as root.
    #[track_caller]
    pub fn fails_as_nobody(&self, arguments: &[&str]) -> String {
        let binary = self.path().join("chatserver");
        if !binary.exists() {
            let built = Path::new(env!("CARGO_BIN_EXE_chatserver"));
            fs::hard_link(built, &binary).or_else(|_| fs::copy(built, &binary).map(drop)).unwrap();
            fs::set_permissions(self.path(), Permissions::from_mode(0o755)).unwrap();
        }
        let mut command = Command::new(binary);
        command.args(arguments).current_dir(self.path()).env_clear().stdin(Stdio::null());
        let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Adds a user on the command line and returns them as a client of this process.
    pub fn adds(&self, process: &Process, nick: &str) -> Person {
        let email = format!("{}@example.com", nick.to_lowercase());
        let told = self.tells(&["user", "add", &email, "--nick", nick]);
        Person::added(&told, process.address)
    }

    /// Makes two users friends on the command line and selects their conversation for both.
    pub fn befriends(&self, one: &mut Person, other: &mut Person) {
        let told = self.tells(&["friend", "add", &one.email, &other.email]);
        told["conversationid"].as_str().unwrap().clone_into(&mut one.conversation);
        other.conversation.clone_from(&one.conversation);
    }

    /// Adds Alice and Bob, who are friends, as clients of this process.
    pub fn alice_and_bob(&self, process: &Process) -> (Person, Person) {
        let mut alice = self.adds(process, "Alice");
        let mut bob = self.adds(process, "Bob");
        self.befriends(&mut alice, &mut bob);
        (alice, bob)
    }

    /// Starts a server and waits until it is ready. It logs to `log.txt` in this folder.
    pub async fn serves(&self, settings: &[(&str, &str)]) -> Process {
        self.starts(&["serve"], settings).await
    }

    /// Starts a serving command and waits until it is ready.
    pub async fn starts(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Process {
        self.starts_at(free_address(), arguments, settings).await
    }

    /// Starts a serving command at this address and waits until it is ready.
    pub async fn starts_at(
        &self,
        address: SocketAddr,
        arguments: &[&str],
        settings: &[(&str, &str)],
    ) -> Process {
        self.ready(self.starts_without_waiting(address, arguments, settings)).await
    }

    /// Waits until `/readyz` succeeds. Panics with the log if the process ends first.
    pub async fn ready(&self, mut process: Process) -> Process {
        until("the server is ready", async || {
            assert!(process.child.try_wait().unwrap().is_none(), "{}", self.log());
            process.is_ready().await
        })
        .await;
        process
    }

    /// Starts a serving command at this address without waiting. It logs to `log.txt` in this folder.
    pub fn starts_without_waiting(
        &self,
        address: SocketAddr,
        arguments: &[&str],
        settings: &[(&str, &str)],
    ) -> Process {
        let metrics = free_address();
        let mut command = self.serving(arguments, &address.to_string());
        command.env(METRICS_LISTEN, metrics.to_string()).envs(settings.iter().copied());
        let mut process = Process::of(command, address);
        process.metrics = Some(metrics);
        process
    }

    /// Builds a serving command for this value of `http.listen`, without metrics. It logs to `log.txt` in this folder.
    pub fn serving(&self, arguments: &[&str], listen: &str) -> Command {
        let create = |name| File::create(self.path().join(name)).unwrap();
        let (log, printed) = (create("log.txt"), create("printed.txt"));
        let mut command = self.command(arguments);
        command.args(["--listen", listen]);
        command.env(METRICS_LISTEN, "");
        command.env("CHATSERVER_LIMITS__REQUESTS_PER_SECOND", "0");
        command.env("CHATSERVER_LIMITS__CONNECTIONS_PER_ADDRESS", "0");
        command.stdin(Stdio::null()).stdout(printed).stderr(log);
        command
    }

    /// Starts a server, stops it as soon as it listens, and returns its log.
    pub async fn log_of_start(&self, listen: &str, public_url: &str) -> String {
        let log = File::create(self.path().join("log.txt")).unwrap();
        let mut command = self.command(&["serve", "--listen", listen]);
        command.env(METRICS_LISTEN, "");
        command.env("CHATSERVER_HTTP__PUBLIC_URL", public_url);
        command.stdin(Stdio::null()).stderr(log);
        let process = Process::of(command, listen.parse().unwrap());
        self.logs("listening").await;
        process.stops(self).await;
        let log = self.log();
        assert!(log.lines().last().unwrap().ends_with("stopped"), "{log}");
        log
    }

    /// Returns the log of the server that was started last. Panics if `log.txt` is not a regular file: a pipe in its
    /// place is left to the test.
    pub fn log(&self) -> String {
        let path = self.path().join("log.txt");
        assert!(path.is_file(), "the log is no file that could be read");
        fs::read_to_string(path).unwrap()
    }

    /// Waits until the log of the server that was started last has this text. A thread of the server writes it, so it may
    /// come later than an answer.
    pub async fn logs(&self, text: &str) {
        let logged = async || self.log().contains(text);
        until(&format!("the log has {text:?}"), logged).await;
    }

    /// Returns the stdout of the serving command that was started last.
    pub fn printed(&self) -> String {
        fs::read_to_string(self.path().join("printed.txt")).unwrap()
    }
}

/// Returns a loopback address that is not in use and stays free: its port is below the ephemeral ports, and
/// each call gets another one.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        // Concurrent test runs have other process ids, so they start at another offset.
        let offset = std::process::id() * 97 + u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + u16::try_from(offset % 20_000).unwrap();
        if let Ok(listener) = std::net::TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().unwrap();
        }
    }
}

/// A serving process. Dropping it kills the process.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    /// Address of the metrics, if the harness chose one.
    metrics: Option<SocketAddr>,
}

impl Process {
    /// Starts this command, which serves at this address.
    pub fn of(mut command: Command, address: SocketAddr) -> Self {
        Self { child: command.spawn().unwrap(), address, metrics: None }
    }

    /// Requests a path with GET and returns the status and the body.
    pub async fn gets(&self, path: &str) -> (u16, String) {
        get(self.address, path).await.expect("an answer")
    }

    /// Returns whether `/readyz` succeeds.
    pub async fn is_ready(&self) -> bool {
        get(self.address, "/readyz").await.is_some_and(|(status, _)| status == 200)
    }

    /// Returns the address of the metrics.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics.expect("an address for metrics")
    }

    /// Returns all metrics in text form.
    pub async fn metrics(&self) -> String {
        let (status, text) = get(self.metrics_address(), "/metrics").await.expect("an answer");
        assert_eq!(status, 200, "{text}");
        text
    }

    /// Returns the value of a metric. `name` includes its labels.
    pub async fn metric<T: FromStr<Err: Debug>>(&self, name: &str) -> T {
        let text = self.metrics().await;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
    }

    /// Returns how often listeners have read in the store what is new.
    pub async fn listener_reads(&self) -> usize {
        self.metric("chatserver_listener_reads_total").await
    }

    /// Returns the age of the oldest queued change, in seconds. It is 0 where no change is queued.
    pub async fn oldest_change(&self) -> f64 {
        self.metric("chatserver_store_oldest_change_seconds").await
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().unwrap();
        assert!(sent.success());
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the resident memory of the process in bytes.
    pub fn memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        kibibytes.trim_end_matches("kB").trim().parse::<usize>().unwrap() * 1024
    }

    /// Waits for the process to end.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the process has ended", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// Stops the process with SIGTERM and asserts exit code 0.
    pub async fn stops(mut self, place: &Workplace) {
        self.signal("TERM");
        assert_eq!(self.ended().await.code(), Some(0), "{}", place.log());
    }

    /// Kills the process, as a power cut would.
    pub async fn dies(mut self) {
        self.signal("KILL");
        assert_eq!(self.ended().await.code(), None, "it did not end by itself");
    }
}

/// Requests a path with GET and returns the status and the body. `None` where there is no answer.
pub async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let answer = reqwest::get(format!("http://{address}{path}")).await.ok()?;
    Some((answer.status().as_u16(), answer.text().await.ok()?))
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
