//! Certificates by ACME, from Debian's `pebble`, which looks at the server's own port.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{REQUEST, text};
use crate::harness::certificates::Certificates;
use crate::harness::left_out::left_out;
use crate::harness::process::{Process, Workplace, free_address};
use crate::harness::sockets::LAST_REQUEST;
use crate::harness::tls::TlsClient;
use crate::harness::world::until;

/// The name of the server. `localhost` is a second one.
const NAME: &str = "chat.example.com";

/// A running ACME server, and a DNS server to which each name is 127.0.0.1. Dropping it ends both.
struct Pebble {
    programs: Vec<Child>,
    certificates: Certificates,
    directory: String,
    management: SocketAddr,
    folder: TempDir,
}

impl Pebble {
    /// Starts it for a server at this address. Its certificates are valid for this many seconds. Returns `None` on a
    /// machine without pebble.
    async fn start(server: SocketAddr, validity: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let certificates = Certificates::make(folder.path());
        let (acme, management, dns) = (free_address(), free_address(), free_address());
        let settings = json!({ "pebble": {
            "listenAddress": acme.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": text(&certificates.certificate),
            "privateKey": text(&certificates.key),
            "httpPort": free_address().port(),
            "tlsPort": server.port(),
            "certificateValidityPeriod": validity,
        }});
        let file = folder.path().join("pebble.json");
        fs::write(&file, settings.to_string()).unwrap();
        let dns = dns.to_string();
        let unused = free_address().to_string();
        let names = ["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", &dns];
        let others = ["-management", &unused, "-http01", "", "-https01", "", "-tlsalpn01", ""];
        let arguments: Vec<_> = names.into_iter().chain(others).collect();
        let mut names = run("pebble-challtestsrv", &arguments, folder.path())?;
        let options = ["-config", text(&file), "-dnsserver", &dns, "-strict"];
        let Some(pebble) = run("pebble", &options, folder.path()) else {
            drop(names.kill());
            return None;
        };
        let directory = format!("https://localhost:{}/dir", acme.port());
        let programs = vec![pebble, names];
        let started = Self { programs, certificates, directory, management, folder };
        until("pebble answers", async || started.asks(&started.directory).is_some()).await;
        Some(started)
    }

    /// Requests a URL of pebble's.
    fn asks(&self, url: &str) -> Option<Vec<u8>> {
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "--cacert", text(&self.certificates.authority), url]);
        let output = curl.stderr(Stdio::null()).output().unwrap();
        output.status.success().then_some(output.stdout)
    }

    /// Returns the file of the authority that signs certificates.
    fn authority(&self) -> PathBuf {
        let url = format!("https://localhost:{}/roots/0", self.management.port());
        let file = self.folder.path().join("root.pem");
        fs::write(&file, self.asks(&url).expect("a root")).unwrap();
        file
    }

    /// Starts a server that gets its certificate here.
    async fn serves(&self, place: &Workplace, address: SocketAddr) -> Process {
        let cache = place.path().join("acme");
        let settings = [
            ("CHATSERVER_HTTP__ACME_DOMAINS", &*format!("{NAME},localhost")),
            ("CHATSERVER_HTTP__ACME_CONTACT", "admin@example.com"),
            ("CHATSERVER_HTTP__ACME_DIRECTORY", &self.directory),
            ("CHATSERVER_HTTP__ACME_CACHE", text(&cache)),
            ("SSL_CERT_FILE", text(&self.certificates.authority)),
        ];
        let process = place.starts_without_waiting(address, &["serve"], &settings);
        place.logs("listening").await;
        process
    }

    fn ends(&mut self) {
        for program in &mut self.programs {
            drop(program.kill());
            drop(program.wait());
        }
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.ends();
    }
}

/// Starts a program of pebble's. Without it, the test fails in CI, and elsewhere says that it is left out.
fn run(program: &str, arguments: &[&str], folder: &Path) -> Option<Child> {
    let log = File::create(folder.join(program).with_extension("log")).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).env("PEBBLE_VA_NOSLEEP", "1").stdin(Stdio::null());
    let started = command.stdout(Stdio::null()).stderr(log).spawn();
    if started.is_err() {
        left_out("a test of ACME", program);
    }
    started.ok()
}

/// Requests `/readyz` by the name of the certificate. Returns whether it is answered.
fn answers(server: SocketAddr, authority: &Path) -> bool {
    let mut curl = Command::new("curl");
    let resolve = format!("{NAME}:{}:127.0.0.1", server.port());
    curl.args(["-sSf", "--cacert", text(authority), "--resolve", &resolve]);
    let output = curl.arg(format!("https://{NAME}:{}/readyz", server.port())).output().unwrap();
    output.stdout == b"OK\n"
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_certificate_is_got_by_acme_and_kept_over_a_restart() {
    let (place, address) = (Workplace::new(), free_address());
    let Some(mut pebble) = Pebble::start(address, 86_400).await else { return };
    let server = pebble.serves(&place, address).await;
    let authority = pebble.authority();
    until("the certificate is used", async || answers(address, &authority)).await;
    let log = place.log();
    assert!(log.contains(&format!("public_url=https://{NAME}/")), "{log}");
    let metric = "chatserver_tls_certificate_expiry_timestamp_seconds ";
    until("the metric is there", async || server.metrics().await.contains(metric)).await;
    server.stops(&place).await;

    let cache = place.path().join("acme");
    assert_eq!(mode(&cache), 0o700);
    let files: Vec<_> = fs::read_dir(&cache).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "an account and a certificate: {files:?}");
    assert!(files.iter().all(|file| mode(file) == 0o600), "{files:?}");

    // The certificate that is kept is used at once, without the ACME server.
    let directory = pebble.directory.clone();
    pebble.ends();
    let server = pebble.serves(&place, address).await;
    assert!(answers(address, &authority));
    assert!(!place.log().contains(&directory), "{}", place.log());
    server.stops(&place).await;
}

#[tokio::test]
async fn a_certificate_of_acme_is_renewed_before_it_expires() {
    let (place, address) = (Workplace::new(), free_address());
    let Some(pebble) = Pebble::start(address, 15).await else { return };
    let server = pebble.serves(&place, address).await;
    let authority = pebble.authority();
    until("the certificate is used", async || answers(address, &authority)).await;
    let client = TlsClient::trusting(&authority);
    let mut open = client.tries(address).await.unwrap();
    open.write_all(REQUEST).await.unwrap();
    open.read_exact(&mut [0; 12]).await.unwrap();
    let certificate = async || {
        let stream = client.tries(address).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let first = certificate().await;
    until("another certificate is used", async || certificate().await != first).await;
    open.write_all(LAST_REQUEST).await.unwrap();
    let mut rest = String::new();
    open.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest.matches("HTTP/1.1 200 OK").count(), 1, "the open connection goes on: {rest}");
    server.stops(&place).await;
}

#[tokio::test]
async fn an_acme_server_that_is_away_is_logged_and_does_not_end_the_server() {
    let (place, address) = (Workplace::new(), free_address());
    let Some(mut pebble) = Pebble::start(address, 86_400).await else { return };
    pebble.ends();
    let server = pebble.serves(&place, address).await;
    let failed = "getting a TLS certificate failed";
    place.logs(failed).await;
    let log = place.log();
    for part in ["retry_seconds=60", &pebble.directory, NAME, "Connection refused"] {
        assert!(log.contains(part), "{part} is not in {log}");
    }
    server.stops(&place).await;
}
