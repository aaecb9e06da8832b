//! Telemetry for operators: the log on stderr, and the metrics in Prometheus' text format.

mod history;
mod lines;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use tokio::time::sleep;
use tracing_subscriber::Layer as _;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::config::{Log, LogFormat};
use crate::domain::Timestamp;
use crate::store::Store;
pub(crate) use history::{Figure, History, KEPT, Point, SAMPLE_EVERY};
use lines::Lines;

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process already has a log.
    #[error("the log can't be set up")]
    Log(#[from] TryInitError),
    /// The thread that writes the log could not be started.
    #[error("the thread of the log can't be started")]
    LogThread(#[source] io::Error),
    /// The process already has a metrics recorder.
    #[error("the metrics can't be set up")]
    Metrics(#[from] BuildError),
}

/// The log of the process. Dropping it writes the lines still in memory, for at most one second.
pub(crate) struct Logging(Arc<Lines>);

impl Logging {
    /// Starts the log of the process. [`Error::Log`] where it has one already.
    pub(crate) fn start(log: &Log) -> Result<Self, Error> {
        let logging = Self(Lines::start().map_err(Error::LogThread)?);
        let layer = fmt::layer().with_writer(Arc::clone(&logging.0)).with_ansi(false);
        let layer = match log.format {
            LogFormat::Text => layer.boxed(),
            LogFormat::Json => layer.json().flatten_event(true).boxed(),
        };
        let filter = log.filter.layer_filter();
        tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
        Ok(logging)
    }

    pub(crate) fn dropped_lines(&self) -> u64 {
        self.0.dropped()
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[derive(Clone)]
pub(crate) struct Metrics {
    prometheus: PrometheusHandle,
    process: Collector,
}

const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Upper bounds of the latency buckets, in seconds: from a tenth of a commit to a slow request.
const SECONDS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Upper bounds of the buckets of changes per commit.
const CHANGES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

impl Metrics {
    /// Installs the metrics recorder of the process. [`Error::Metrics`] where it has one already.
    pub(crate) fn start() -> Result<Self, Error> {
        let seconds = Matcher::Suffix("_seconds".to_owned());
        let changes = Matcher::Suffix("_changes".to_owned());
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(seconds, &SECONDS)?
            .set_buckets_for_metric(changes, &CHANGES)?
            .install_recorder()?;
        describe();
        let process = Collector::default();
        process.describe();
        gauge!("chatserver_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
        Ok(Self { prometheus: handle, process })
    }

    /// Returns all metrics in Prometheus' text format, with the current values of this store and of the process.
    pub(crate) fn render(&self, store: &Store) -> String {
        self.process.collect();
        record_store(store);
        self.prometheus.render()
    }

    /// Puts recorded values into their buckets every 5 seconds; until then each value takes memory. Never returns.
    pub(crate) async fn upkeep(&self) {
        loop {
            sleep(UPKEEP_EVERY).await;
            self.prometheus.run_upkeep();
        }
    }
}

fn describe() {
    describe_counter!("chatserver_requests_total", "Requests by API, action and outcome");
    describe_histogram!(
        "chatserver_request_seconds",
        Unit::Seconds,
        "Time from the request's head to its answer"
    );
    describe_histogram!("chatserver_store_batch_changes", "Changes per commit");
    describe_histogram!(
        "chatserver_store_commit_seconds",
        Unit::Seconds,
        "Time of a transaction, including the wait for its begin"
    );
    describe_counter!(
        "chatserver_store_failed_batches_total",
        "Batches that were rolled back and retried one change at a time"
    );
    describe_counter!(
        "chatserver_store_repeated_batches_total",
        "Batches that were repeated because they met a change of another node"
    );
    describe_counter!("chatserver_store_failed_changes_total", "Changes that failed, by cause");
    describe_counter!(
        "chatserver_store_refused_changes_total",
        "Changes refused because the queue or the disk is full, by cause"
    );
    describe_gauge!("chatserver_store_queue_depth", "Changes waiting for the writer");
    describe_gauge!(
        "chatserver_store_oldest_change_seconds",
        Unit::Seconds,
        "Age of the oldest uncommitted change"
    );
    describe_gauge!("chatserver_store_database_bytes", Unit::Bytes, "Size of the database file");
    describe_gauge!("chatserver_store_log_bytes", Unit::Bytes, "Size of the write-ahead log");
    describe_gauge!(
        "chatserver_store_free_bytes",
        Unit::Bytes,
        "Free space on the database's disk"
    );
    describe_gauge!(
        "chatserver_store_is_full",
        "1 while changes that grow the data are refused, else 0"
    );
    describe_gauge!(
        "chatserver_store_is_sealing",
        "1 if new API keys are sealed, 0 until `chatserver keys rotate` seals those of an upgraded PostgreSQL database"
    );
    describe_gauge!("chatserver_build_info", "Always 1; the label is the version");
    describe_gauge!(
        "chatserver_tls_certificate_expiry_timestamp_seconds",
        Unit::Seconds,
        "When the certificate of the server's own TLS expires, in unix seconds"
    );
    describe_gauge!("chatserver_connections", "Open HTTP connections, without listeners");
    describe_gauge!("chatserver_listeners", "Open listeners that have subscribed");
    describe_gauge!(
        "chatserver_listeners_unsubscribed",
        "Open WebSockets that have not subscribed"
    );
    describe_counter!("chatserver_listener_notifications_total", "Events sent to listeners");
    describe_counter!(
        "chatserver_listener_reads_total",
        "Reads of what is new for listeners that no commit event told"
    );
    describe_counter!("chatserver_log_lines_dropped_total", "Log lines that were dropped");
}

fn record_store(store: &Store) {
    let measured = store.measure();
    gauge!("chatserver_store_queue_depth").set(number(measured.queue_depth as u64));
    gauge!("chatserver_store_oldest_change_seconds").set(measured.oldest_change);
    if let Some(file) = measured.file {
        gauge!("chatserver_store_database_bytes").set(number(file.database));
        gauge!("chatserver_store_log_bytes").set(number(file.log));
        gauge!("chatserver_store_free_bytes").set(number(file.free));
    }
    gauge!("chatserver_store_is_full").set(i32::from(store.is_storage_full()));
    gauge!("chatserver_store_is_sealing").set(i32::from(measured.is_sealing));
}

/// Records when the TLS certificate in use expires.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float; unix seconds are exact in it")]
pub(crate) fn certificate_expires(at: Timestamp) {
    gauge!("chatserver_tls_certificate_expiry_timestamp_seconds").set(at.unix() as f64);
}

pub(crate) fn count_request(
    api: &'static str,
    action: &'static str,
    outcome: &'static str,
    took: Duration,
) {
    counter!("chatserver_requests_total", "api" => api, "action" => action, "outcome" => outcome)
        .increment(1);
    histogram!("chatserver_request_seconds", "api" => api, "action" => action).record(took);
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float; sizes are exact up to 8 PiB")]
fn number(size: u64) -> f64 {
    size as f64
}
