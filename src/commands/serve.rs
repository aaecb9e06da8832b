//! `chatserver serve`: runs the server until a signal stops it. `chatserver demo` runs its server the same way.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use url::Host;

use super::output::Output;
use super::{Failed, Settings, failure};
use crate::app::App;
use crate::clock::Clock;
use crate::config::{Config, Listen};
use crate::server::{self, Server};
use crate::service_manager;
use crate::shutdown::{Hangup, Signals};
use crate::telemetry::{Logging, Metrics};

/// Open files besides clients' connections: the database, the listening sockets, the log.
const OTHER_FILES: u64 = 200;

#[derive(Args)]
pub(crate) struct Serve {
    /// The address to listen on
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

impl Serve {
    pub(crate) async fn run(self) -> Result<(), Failed> {
        let flags = self.listen.as_deref().map(|listen| ("http.listen", listen));
        let config = self.settings.load(flags.as_slice())?;
        let logging = Arc::new(Logging::start(&config.log)?);
        if config.log.is_json() {
            failure::report_as_json();
        }
        raise_open_files(&config);
        run(config, &logging, Hangup::Ignored, |server| self.print_addresses(server)).await
    }

    /// With `--json`, prints the address and the public URL. With port 0, a program can't know the port otherwise.
    fn print_addresses(&self, server: &Server) -> Result<(), Failed> {
        if !self.settings.json {
            return Ok(());
        }
        let url = server.app().public_url.as_str();
        let told =
            Output::new("", json!({ "listen": server.address().to_string(), "publicurl": url }))
                .print(true);
        // A closed stdout does not stop the server.
        told.or_else(
            |error| if failure::is_closed_pipe(error.as_ref()) { Ok(()) } else { Err(error) },
        )
    }
}

/// Runs a server until a signal ends it. Calls `ready` when the server listens but does not answer yet.
pub async fn run(
    config: Config,
    logging: &Arc<Logging>,
    on_hangup: Hangup,
    ready: impl FnOnce(&Server) -> Result<(), Failed>,
) -> Result<(), Failed> {
    let mut signals = Signals::listen(on_hangup)?;
    let metrics_listen = config.http.metrics_listen.0;
    // Runs in a task of its own, so that blocking on the database file does not delay the handling of signals.
    let binding = tokio::spawn(Server::bind(config, Clock::system()));
    let server = tokio::select! {
        bound = binding => bound??,
        signal = signals.next() => {
            tracing::warn!(signal, "exiting at once, before the server has started");
            return Err(format!("stopped by {signal} before the server was started").into());
        }
    };
    if metrics_listen.is_some() || server.admin_address().is_some() {
        start_metrics(&server, metrics_listen, logging)?;
    }
    ready(&server)?;
    announce(&server);
    service_manager::ready(&format!("serving at {}", server.app().public_url));
    let app = Arc::clone(server.app());
    tokio::select! {
        stopped = server.run() => stopped?,
        signal = stop_at_signals(signals, &app) => {
            tracing::warn!(signal, "second signal: exiting at once");
            return Err("stopped by a second signal".into());
        }
    }
    tracing::info!("stopped");
    Ok(())
}

/// Starts the metrics, which Prometheus and the admin page read.
fn start_metrics(
    server: &Server,
    listen: Option<SocketAddr>,
    logging: &Arc<Logging>,
) -> Result<(), Failed> {
    let metrics = Metrics::start()?;
    if server.admin_address().is_some() {
        server.keep_history(metrics.clone());
    }
    if let Some(address) = listen {
        let listener = server::listen("http.metrics_listen", &Listen::Address(address))?;
        tracing::info!(address = %listener.address(), "serving metrics");
        server.serve_metrics(listener, metrics, Arc::clone(logging));
    }
    Ok(())
}

/// Returns the number of open files that the settings may need.
pub(super) fn open_files_needed(config: &Config) -> u64 {
    // Twice: as many WebSockets again may be open that have not subscribed.
    let listeners = 2 * u64::from(config.http.listeners.get());
    u64::from(config.limits.connections.get()) + listeners + OTHER_FILES
}

/// Raises the limit on open files as far as the operating system allows: each connection takes one.
fn raise_open_files(config: &Config) {
    let needed = open_files_needed(config);
    match rlimit::increase_nofile_limit(needed) {
        Ok(open_files) if open_files < needed => {
            tracing::warn!(
                open_files,
                needed,
                "limits.connections and http.listeners need more open files than the limit of the process: raise it (ulimit -n, LimitNOFILE)"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "raising the limit of open files failed"),
    }
}

fn announce(server: &Server) {
    let address = server.address();
    let public_url = &server.app().public_url;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %address, %public_url, "listening");
    if !address.is_local() && public_url.scheme() != "https" {
        tracing::warn!(
            %address,
            "listening beyond loopback without TLS: anyone on the network path can read and change requests. \
             Put a TLS proxy in front and set http.public_url to its https URL, or set http.tls_certificate"
        );
    }
    let nowhere = match public_url.host() {
        Some(Host::Ipv4(ip)) => ip.is_unspecified(),
        Some(Host::Ipv6(ip)) => ip.is_unspecified(),
        _ => false,
    };
    if nowhere {
        tracing::warn!(%public_url, "clients can't connect to the announced URL: set http.public_url");
    }
}

/// Begins the shutdown at the first signal. Returns the name of the second one.
async fn stop_at_signals(mut signals: Signals, app: &App) -> &'static str {
    let signal = signals.next().await;
    let drain = app.config.http.drain_seconds.duration();
    tracing::info!(signal, drain_seconds = drain.as_secs(), "stopping");
    service_manager::stopping(&format!("stopping, after a drain of {} s", drain.as_secs()));
    tokio::select! {
        () = app.shutdown.begin(drain) => signals.next().await,
        signal = signals.next() => signal,
    }
}
