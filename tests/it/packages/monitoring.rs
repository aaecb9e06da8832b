//! The alert rules for Prometheus and the dashboard for Grafana, against the metrics of a real server.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use url::Url;

use crate::harness::certificates::Certificates;
use crate::harness::left_out::program;
use crate::harness::person::message;
use crate::harness::process::{Process, Workplace, free_address, get};
use crate::harness::world::until;

const RULES: &str = include_str!("../../../packaging/prometheus/chatserver.rules.yml");
const DASHBOARD: &str = include_str!("../../../packaging/grafana/chatserver.json");

fn folder_of_rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/prometheus")
}

/// Returns the names of metrics that a text has, without the suffixes of histograms.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_of_name(c));
    let names =
        words.filter(|word| word.starts_with("chatserver_") || word.starts_with("process_"));
    let plain = names.map(|name| {
        let suffix = ["_bucket", "_sum", "_count"].iter().find(|suffix| name.ends_with(**suffix));
        name.strip_suffix(suffix.unwrap_or(&"")).unwrap()
    });
    plain.collect()
}

/// Returns the expressions of the dashboard's panels, for all servers.
fn expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let plain = |target: &Value| {
        let expression = target["expr"].as_str().unwrap();
        expression.replace("$__rate_interval", "1m").replace("$instance", ".*")
    };
    targets.map(plain).collect()
}

/// Returns the metrics of servers with some successes, and with failures of each kind that the rules know.
async fn all_metrics() -> String {
    let (place, full) = (Workplace::new(), Workplace::new());
    let server = place.serves(&[]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let mut listener = bob.listens_from_now_on().await;
    alice.sends("hello").await;
    listener.takes().await;
    let text = message("not stored", &alice.date());
    place.opens_database().await.refuses("messages").await;
    alice.adds(&text).await.refused(503, "unavailable");
    let reserve = ("CHATSERVER_LIMITS__DISK_RESERVE_BYTES", "1000000000000000000");
    let full_server = full.serves(&[reserve]).await;
    let (alice, _bob) = full.alice_and_bob(&full_server);
    alice.adds(&text).await.refused(503, "storage_full");
    let own_tls = metrics_of_own_tls().await;
    [server.metrics().await, full_server.metrics().await, own_tls].concat()
}

async fn metrics_of_own_tls() -> String {
    let place = Workplace::new();
    let Certificates { certificate, key, .. } = Certificates::make(place.path());
    let settings = [
        ("CHATSERVER_HTTP__TLS_CERTIFICATE", certificate.to_str().unwrap()),
        ("CHATSERVER_HTTP__TLS_KEY", key.to_str().unwrap()),
    ];
    let server = place.starts_without_waiting(free_address(), &["serve"], &settings);
    place.logs("listening").await;
    let dated = async || server.metrics().await.contains("chatserver_tls_");
    until("the date of its certificate is known", dated).await;
    server.metrics().await
}

#[tokio::test]
async fn rules_and_dashboard_name_only_metrics_of_the_server() {
    let served = all_metrics().await;
    let served = metrics_in(&served);
    for text in [RULES, DASHBOARD] {
        let named = metrics_in(text);
        assert!(named.len() > 10, "{named:?}");
        let unknown: Vec<_> = named.difference(&served).collect();
        assert!(unknown.is_empty(), "{unknown:?} are not in {served:?}");
    }
}

#[test]
fn each_alert_fires_when_it_should() {
    let Some(promtool) = program("promtool", "the alert rules") else { return };
    for arguments in
        [["check", "rules", "chatserver.rules.yml"], ["test", "rules", "chatserver.rules.test.yml"]]
    {
        let mut command = Command::new(&promtool);
        let output = command.args(arguments).current_dir(folder_of_rules()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let tests = fs::read_to_string(folder_of_rules().join("chatserver.rules.test.yml")).unwrap();
    for rule in RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname=\"{rule}\"")), "{rule} has no test");
    }
}

/// A running Prometheus with the rules, which scrapes one server each second.
struct Prometheus {
    process: Process,
    _folder: TempDir,
}

impl Prometheus {
    fn start(program: PathBuf, scraped: SocketAddr) -> Self {
        let (folder, address) = (tempfile::tempdir().unwrap(), free_address());
        let configuration = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: ['{}/chatserver.rules.yml']\n\
             scrape_configs: [{{ job_name: chatserver, static_configs: [{{ targets: ['{scraped}'] }}] }}]\n",
            folder_of_rules().display()
        );
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, configuration).unwrap();
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { process: Process::of(command, address), _folder: folder }
    }

    /// Returns the data that a path of the API answers; null while it does not answer.
    async fn tells(&self, path: &str) -> Value {
        let Some((200, body)) = get(self.process.address, path).await else { return Value::Null };
        serde_json::from_str::<Value>(&body).unwrap()["data"].take()
    }

    /// Returns the result of an expression. Asserts that it has no error.
    async fn evaluates(&self, expression: &str) -> Vec<Value> {
        let base = format!("http://{}/api/v1/query", self.process.address);
        let url = Url::parse_with_params(&base, [("query", expression)]).unwrap();
        let path = format!("{}?{}", url.path(), url.query().unwrap());
        let data = self.tells(&path).await;
        data["result"].as_array().unwrap_or_else(|| panic!("{expression}: {data}")).clone()
    }

    /// Returns names and states of the alerts that are pending or fire.
    async fn alerts(&self) -> Vec<(String, String)> {
        let alerts = self.tells("/api/v1/alerts").await["alerts"].take();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let alerts = alerts.as_array().into_iter().flatten();
        alerts.map(|alert| (text(&alert["labels"]["alertname"]), text(&alert["state"]))).collect()
    }
}

#[tokio::test]
async fn prometheus_scrapes_a_server_and_notices_its_end() {
    let Some(program) = program("prometheus", "the alert rules with Prometheus") else { return };
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    let (alice, _bob) = place.alice_and_bob(&server);
    let prometheus = Prometheus::start(program, server.metrics_address());
    until("each rule was evaluated", async || {
        let groups = prometheus.tells("/api/v1/rules").await["groups"].take();
        let rules = groups[0]["rules"].as_array().cloned().unwrap_or_default();
        !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok")
    })
    .await;
    until("requests are counted", async || {
        alice.sends("hello").await;
        let rate = r#"sum(rate(chatserver_requests_total{job="chatserver",outcome="ok"}[1m])) > 0"#;
        prometheus.evaluates(rate).await.len() == 1
    })
    .await;
    for expression in expressions() {
        prometheus.evaluates(&expression).await;
    }
    assert!(prometheus.alerts().await.is_empty(), "{:?}", prometheus.alerts().await);
    server.dies().await;
    let down = ("ChatserverDown".to_owned(), "pending".to_owned());
    until("the end is noticed", async || prometheus.alerts().await.contains(&down)).await;
}
