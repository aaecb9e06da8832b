//! The measured servers: started here, or running already.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use chatserver::store::Schema;
use clap::Args;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::lookup_host;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::BoxError;
use super::client::Client;
use super::population::Database;
use super::usage::{self, Usage};

/// Maximum time for a server to start or to stop.
const PATIENCE: Duration = Duration::from_mins(1);

/// Flags that choose the measured servers.
#[derive(Args, Clone)]
pub struct ServerArgs {
    /// The chatserver to start; default: the one beside this program
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "pid"])]
    server: Option<PathBuf>,
    /// The folder for the database of the started server; default: one in $TMPDIR or /tmp
    #[arg(long, value_name = "DIR", conflicts_with_all = ["url", "database_url", "pid"])]
    data: Option<PathBuf>,
    /// A server that runs already, with `limits.requests_per_second = 0`, such as <http://127.0.0.1:8080/>. Repeat it
    /// for each node that serves the same database
    #[arg(long, value_name = "URL", requires = "database_url")]
    url: Vec<Url>,
    /// With --url: the database of that server. Without: a `PostgreSQL` database (postgres://…) to migrate and to start
    /// servers on. The users of the run are added to it and stay there
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Servers to start on the `PostgreSQL` database. Connections take turns over them, and their CPU time and memory
    /// are summed
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "url", value_parser = clap::value_parser!(u32).range(1..=8))]
    nodes: u32,
    /// The process id of the running server on this machine, to measure its CPU time and memory. Repeat it for each --url
    #[arg(long, requires = "url")]
    pid: Vec<i32>,
}

/// Address of a server, and its process id if that is known.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub host: String,
    pub path: String,
    pub pid: Option<i32>,
}

/// A run's folder and database, and the options that start or find its servers.
pub struct Testbed {
    args: ServerArgs,
    folder: TempDir,
    database_url: String,
}

impl ServerArgs {
    /// Whether this program starts the servers.
    pub fn is_started(&self) -> bool {
        self.url.is_empty()
    }

    /// Returns the number of measured servers.
    pub fn nodes(&self) -> usize {
        let started = usize::try_from(self.nodes).unwrap_or(usize::MAX);
        if self.is_started() { started } else { self.url.len() }
    }

    /// Refuses several servers, for a scenario that measures one.
    pub fn must_be_one(&self, scenario: &str) -> Result<(), BoxError> {
        match self.nodes() {
            1 => Ok(()),
            nodes => Err(format!("{scenario} measures one server, not {nodes}").into()),
        }
    }

    /// Refuses a database other than a file of the run's own, for a scenario that looks into that file.
    pub fn must_be_own_file(&self, scenario: &str) -> Result<(), BoxError> {
        if self.database_url.is_some() {
            let sentence = format!(
                "{scenario} measures a file of SQLite's of its own: it can't have --database-url"
            );
            return Err(sentence.into());
        }
        Ok(())
    }

    fn check(&self) -> Result<(), BoxError> {
        let is_postgres = self.database_url.as_deref().is_some_and(is_postgres);
        if self.is_started() && self.database_url.is_some() && !is_postgres {
            let sentence = "--database-url without --url must be postgres://…: a run on SQLite makes its own file";
            return Err(sentence.into());
        }
        if self.nodes() > 1 && !is_postgres {
            let sentence = "several nodes need a PostgreSQL database: --database-url postgres://…";
            return Err(sentence.into());
        }
        let (pids, urls) = (self.pid.len(), self.url.len());
        if pids != 0 && pids != urls {
            let sentence = format!("{pids} --pid for {urls} --url: each server has one");
            return Err(sentence.into());
        }
        Ok(())
    }

    /// Returns a note on the rate limit of users.
    pub fn rate_limit_note(&self) -> &'static str {
        if self.is_started() {
            "limits.requests_per_second is set to 0: no limit for one user"
        } else {
            "limits.requests_per_second must be 0 at that server: otherwise rate_limited errors are counted below"
        }
    }

    /// Makes a temporary folder for the run. The database is a new one in it, or the one of `--database-url`.
    pub fn testbed(&self) -> Result<Testbed, BoxError> {
        self.check()?;
        let folder = match &self.data {
            Some(data) => TempDir::new_in(data)?,
            None => TempDir::new()?,
        };
        let own = || format!("sqlite://{}", folder.path().join("chat.db").display());
        let database_url = self.database_url.clone().unwrap_or_else(own);
        Ok(Testbed { args: self.clone(), folder, database_url })
    }

    fn program(&self) -> Result<PathBuf, BoxError> {
        if let Some(server) = &self.server {
            return Ok(server.clone());
        }
        let beside = std::env::current_exe()?.with_file_name("chatserver");
        if beside.exists() {
            return Ok(beside);
        }
        let missing =
            format!("there is no {}: build it, or name it with --server", beside.display());
        Err(missing.into())
    }
}

/// Whether the URL of a database is one of PostgreSQL.
fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres:") || url.starts_with("postgresql:")
}

impl Testbed {
    /// Starts the servers with these settings, or finds those of `--url`, see [`Self::serve_one`].
    pub async fn serve(&self, settings: &[(&str, String)]) -> Result<Nodes, BoxError> {
        let mut nodes = Vec::new();
        if self.args.is_started() {
            for _ in 0..self.args.nodes {
                nodes.push(self.serve_one(settings).await?);
            }
        }
        for (nth, url) in self.args.url.iter().enumerate() {
            nodes.push(Server::running(url, self.args.pid.get(nth).copied()).await?);
        }
        Ok(Nodes(nodes))
    }

    /// Starts a server with these settings. With `--url`, checks that the running server is ready and ignores the
    /// settings.
    pub async fn serve_one(&self, settings: &[(&str, String)]) -> Result<Server, BoxError> {
        if let Some(url) = self.args.url.first() {
            return Server::running(url, self.args.pid.first().copied()).await;
        }
        let mut command = Command::new(self.args.program()?);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--json"])
            // Not as a flag: other users of the machine may read those, and the URL may hold a password.
            .env("CHATSERVER_DATABASE__URL", &self.database_url)
            .env("CHATSERVER_HTTP__METRICS_LISTEN", "127.0.0.1:0")
            .env("CHATSERVER_LIMITS__REQUESTS_PER_SECOND", "0")
            .env("CHATSERVER_LIMITS__CONNECTIONS_PER_ADDRESS", "0")
            .envs(settings.iter().map(|(name, value)| (*name, value)))
            .stderr(self.log()?);
        Server::start(command).await
    }

    /// Returns the URL of the database if it is one of PostgreSQL.
    pub fn postgres(&self) -> Option<&str> {
        Some(self.database_url.as_str()).filter(|url| is_postgres(url))
    }

    /// Opens the database. Migrates it only if this program starts the servers.
    pub async fn database(&self) -> Result<Database, BoxError> {
        let schema = if self.args.is_started() { Schema::Migrate } else { Schema::MustBeCurrent };
        Database::open(&self.database_url, schema).await
    }

    /// Returns the folder, for files that are deleted after the run.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Opens the file that the server logs to, as a server in production does.
    fn log(&self) -> Result<File, BoxError> {
        let path = self.folder.path().join("server.log");
        Ok(File::options().create(true).append(true).open(path)?)
    }
}

/// The measured servers: one, or several nodes on one database.
pub struct Nodes(Vec<Server>);

impl Nodes {
    /// Returns the servers in the order in which connections take turns over them.
    pub fn targets(&self) -> Vec<Arc<Target>> {
        self.0.iter().map(|node| Arc::new(node.target.clone())).collect()
    }

    /// Stops all servers, see [`Server::stop`].
    pub async fn stop(self) -> Result<(), BoxError> {
        for node in self.0 {
            node.stop().await?;
        }
        Ok(())
    }
}

/// A server that listens.
pub struct Server {
    pub target: Target,
    /// `None` if it was not started here.
    child: Option<Child>,
    /// Time from the start of the process to the first success of `/readyz`. Zero if it was not started here.
    pub ready_after: Duration,
}

/// The line that a server prints once it listens.
#[derive(Deserialize)]
struct Listening {
    listen: SocketAddr,
}

impl Server {
    /// Starts a program that prints its address, and waits until it is ready.
    pub async fn start(mut command: Command) -> Result<Self, BoxError> {
        let since = Instant::now();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| {
            let program = command.as_std().get_program().display();
            format!("{program} could not be started: {error}")
        })?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let line = timeout(PATIENCE, BufReader::new(stdout).lines().next_line()).await??;
        let line = line.ok_or("the server ended at once; its log says why")?;
        let Listening { listen } = serde_json::from_str(&line)?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let target = Target { address: listen, host: listen.to_string(), path: "/".into(), pid };
        while !target.is_ready().await {
            if since.elapsed() > PATIENCE {
                return Err("the server is not ready".into());
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(Self { target, child: Some(child), ready_after: since.elapsed() })
    }

    async fn running(url: &Url, pid: Option<i32>) -> Result<Self, BoxError> {
        if url.scheme() != "http" {
            return Err("--url must be http: TLS is not measured".into());
        }
        let host = url.host_str().ok_or("--url names no host")?;
        let host = format!("{host}:{}", url.port_or_known_default().unwrap_or(80));
        let address = lookup_host(&host).await?.next().ok_or("--url names an unknown host")?;
        let target = Target { address, host, path: url.path().to_owned(), pid };
        if !target.is_ready().await {
            return Err(format!("{url} is not ready: /readyz does not answer 200").into());
        }
        Ok(Self { target, child: None, ready_after: Duration::ZERO })
    }

    /// Stops the server with SIGTERM and waits for its exit. Does nothing if it was not started here.
    pub async fn stop(mut self) -> Result<(), BoxError> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let pid =
            child.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.ok_or("the server ended by itself; its log says why")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = timeout(PATIENCE, child.wait()).await??;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the server ended with {status}").into())
        }
    }

    /// Kills the server with SIGKILL. Does nothing if it was not started here.
    pub async fn kill(mut self) -> Result<(), BoxError> {
        if let Some(child) = &mut self.child {
            child.kill().await?;
        }
        Ok(())
    }
}

impl Target {
    async fn is_ready(&self) -> bool {
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        let Ok(mut client) = Client::connect(self.address).await else { return false };
        let answer = client.call(request.as_bytes()).await;
        matches!(answer, Ok(Some(answer)) if answer.status == 200)
    }

    /// Returns the peak memory of the process since [`Self::forget_peak`], in bytes.
    pub fn peak_rss(&self) -> Result<u64, BoxError> {
        usage::peak_rss(self.known_pid()?)
    }

    /// Resets the peak memory to the present memory.
    pub fn forget_peak(&self) -> Result<(), BoxError> {
        usage::forget_peak(self.known_pid()?)
    }

    fn known_pid(&self) -> Result<i32, BoxError> {
        Ok(self.pid.ok_or("the process is not known: name it with --pid")?)
    }

    /// Returns the sum of the CPU time and memory of these processes, or `None` if one is unknown.
    pub fn usage(targets: &[Arc<Self>]) -> Result<Option<Usage>, BoxError> {
        let mut sum = Usage::default();
        for target in targets {
            let Some(pid) = target.pid else { return Ok(None) };
            let Usage { cpu, rss } = Usage::of(pid)?;
            sum = Usage { cpu: sum.cpu + cpu, rss: sum.rss + rss };
        }
        Ok(Some(sum))
    }
}
