//! The measured server: started here, or running already.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
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

/// Flags that choose the measured server.
#[derive(Args, Clone)]
pub struct ServerArgs {
    /// The chatserver to start; default: the one beside this program
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "pid"])]
    server: Option<PathBuf>,
    /// The folder for the database of the started server; default: one in $TMPDIR or /tmp
    #[arg(long, value_name = "DIR", conflicts_with_all = ["url", "database_url", "pid"])]
    data: Option<PathBuf>,
    /// A server that runs already, with `limits.requests_per_second = 0`, such as <http://127.0.0.1:8080/>
    #[arg(long, value_name = "URL", requires = "database_url")]
    url: Option<Url>,
    /// Its database, to which this run adds users. Without --url: a `PostgreSQL` database, on which the server is started
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Its process id on this machine, to measure its CPU time and memory
    #[arg(long, requires = "url")]
    pid: Option<i32>,
}

/// Address of a server, and its process id if that is known.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub host: String,
    pub path: String,
    pub pid: Option<i32>,
}

/// A run's folder and database, and the options that start or find its server.
pub struct Testbed {
    args: ServerArgs,
    folder: TempDir,
    database_url: String,
}

impl ServerArgs {
    /// Whether this program starts the server.
    pub fn is_started(&self) -> bool {
        self.url.is_none()
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
        let folder = match &self.data {
            Some(data) => TempDir::new_in(data)?,
            None => TempDir::new()?,
        };
        let is_file = self.database_url.as_ref().is_some_and(|url| url.starts_with("sqlite:"));
        if is_file && self.is_started() {
            return Err(
                "--database-url without --url must be postgres://…: the run makes its own file"
                    .into(),
            );
        }
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

impl Testbed {
    /// Starts the server with these settings. With `--url`, checks that the running server is ready and ignores the
    /// settings.
    pub async fn serve(&self, settings: &[(&str, String)]) -> Result<Server, BoxError> {
        if let Some(url) = &self.args.url {
            return Server::running(url, self.args.pid).await;
        }
        let mut command = Command::new(self.args.program()?);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--json", "--database-url"])
            .arg(&self.database_url)
            .env("CHATSERVER_HTTP__METRICS_LISTEN", "127.0.0.1:0")
            .env("CHATSERVER_LIMITS__REQUESTS_PER_SECOND", "0")
            .env("CHATSERVER_LIMITS__CONNECTIONS_PER_ADDRESS", "0")
            .envs(settings.iter().map(|(name, value)| (*name, value)))
            .stderr(self.log()?);
        Server::start(command).await
    }

    /// Opens the database. Migrates it only if this program starts the server.
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

    /// Returns the CPU time and memory of the process, or `None` if the process is unknown.
    pub fn usage(&self) -> Result<Option<Usage>, BoxError> {
        self.pid.map(Usage::of).transpose()
    }
}
