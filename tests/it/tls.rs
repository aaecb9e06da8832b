//! The server's own TLS. Its certificate is for `localhost`.

mod acme;
mod refused;

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use chatserver::clock::Clock;
use chrono::{DateTime, Datelike as _, TimeDelta};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::harness::certificates::Certificates;
use crate::harness::openssl::openssl;
use crate::harness::process::{Process, Workplace, free_address};
use crate::harness::sockets::{LAST_REQUEST, connected, connected_from, is_silent, rest_of};
use crate::harness::tls::{TlsClient, Tunnel};
use crate::harness::world::{PATIENCE, World, until};
use crate::overload::{says_nine_megabytes, taken_slowly};

/// A request after which the connection stays open, and the end of its answer.
const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The first bytes of a handshake that goes on for longer.
const BEGUN: &[u8] = &[22, 3, 1, 2, 0, 1];

/// A certificate in a folder of its own.
struct Secured {
    folder: TempDir,
    certificates: Certificates,
}

impl Secured {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificates = Certificates::make(folder.path());
        Self { folder, certificates }
    }

    /// Returns the settings of the certificate with further ones, by the names of the settings.
    fn settings<'a>(&'a self, further: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let Certificates { certificate, key, .. } = &self.certificates;
        let pair = [("http.tls_certificate", text(certificate)), ("http.tls_key", text(key))];
        [&pair, further].concat()
    }

    fn client(&self) -> TlsClient {
        TlsClient::trusting(&self.certificates.authority)
    }

    /// Starts a server in this process.
    async fn world(&self, further: &[(&str, &str)]) -> World {
        World::with(&self.settings(further)).await
    }

    /// Starts a server process and waits until it listens.
    async fn serves(&self, place: &Workplace) -> Process {
        let settings = self.settings(&[]).into_iter().map(|(name, value)| (variable(name), value));
        let settings: Vec<_> = settings.collect();
        let settings: Vec<_> =
            settings.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let process = place.starts_without_waiting(free_address(), &["serve"], &settings);
        place.logs("listening").await;
        process
    }

    /// Replaces the certificate and its key by those of another one, one file after the other.
    fn takes(&self, other: &Self) {
        fs::copy(&other.certificates.certificate, &self.certificates.certificate).unwrap();
        fs::copy(&other.certificates.key, &self.certificates.key).unwrap();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Returns the environment variable of a setting.
fn variable(name: &str) -> String {
    format!("CHATSERVER_{}", name.to_uppercase().replace('.', "__"))
}

#[tokio::test]
async fn people_chat_and_listen_over_tls() {
    let secured = Secured::new();
    let world = secured.world(&[]).await;
    let tunnel = Tunnel::to(world.address, secured.client()).await;
    let (alice, bob) = world.alice_and_bob().await;
    let (alice, bob) = (alice.asks_at(tunnel.address), bob.asks_at(tunnel.address));
    let mut listener = bob.listens_from_now_on().await;
    // Larger than a record of TLS and than what waits for a client.
    let long = "x".repeat(150_000);
    for said in ["Hello, Bob", &long] {
        alice.sends(said).await;
        assert_eq!(listener.takes().await.conversations, [bob.conversation.as_str()]);
    }
    assert_eq!(bob.reads().await, ["Hello, Bob", &long]);
    let login = alice.logs_in().await.ok();
    let url = format!("https://{}/?srv=chatserver&api=chatlogin", world.address);
    assert_eq!(login["urls"]["login"], url.as_str());
    let wss = format!("wss://{}/ws", world.address);
    assert_eq!(login["listeners"]["wss"], wss.as_str(), "{login}");
}

#[tokio::test]
async fn curl_and_the_command_line_client_trust_the_certificate() {
    let (secured, place) = (Secured::new(), Workplace::new());
    let server = secured.serves(&place).await;
    let authority = text(&secured.certificates.authority);
    let url = format!("https://localhost:{}/", server.address.port());
    let curl = |authority: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--cacert", authority, &format!("{url}readyz")]).output().unwrap()
    };
    assert_eq!(curl(authority).stdout, b"OK\n");
    let other = curl(text(&secured.certificates.other_authority));
    assert_eq!(other.status.code(), Some(60), "an unknown authority: {other:?}");

    let (alice, bob) = place.alice_and_bob(&server);
    let trusted = [("SSL_CERT_FILE", authority)];
    for person in [&alice, &bob] {
        let keys = format!("{}\n{}\n", person.api_key.as_str(), person.password.as_str());
        let login = ["client", "login", &url, "--profile", &person.email];
        let login = place.runs_with(&login, &keys, &trusted);
        assert!(login.status.success(), "{login:?}");
    }
    // A follower listens over wss.
    let mut follower =
        place.command(&["client", "read", &alice.email, "--follow", "--profile", &bob.email]);
    let mut follower = follower.envs(trusted).stdout(Stdio::piped()).spawn().unwrap();
    let send = ["client", "send", &bob.email, "over TLS", "--profile", &alice.email];
    let done = place.runs_with(&send, "", &trusted);
    assert!(done.status.success(), "{done:?}");
    let mut printed = Vec::new();
    let mut stdout = follower.stdout.take().unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        while !String::from_utf8_lossy(&printed).contains("over TLS") {
            let mut piece = [0; 256];
            let bytes = stdout.read(&mut piece).unwrap();
            assert_ne!(bytes, 0, "the follower goes on");
            printed.extend_from_slice(&piece[..bytes]);
        }
    });
    timeout(PATIENCE, reading).await.expect("the follower prints").unwrap();
    follower.kill().unwrap();
    follower.wait().unwrap();
    server.stops(&place).await;
}

#[tokio::test]
async fn only_http_1_1_and_new_versions_of_tls_are_spoken() {
    let secured = Secured::new();
    let world = secured.world(&[]).await;
    let (address, authority) = (world.address.to_string(), text(&secured.certificates.authority));
    let shakes = async |further: &[&str]| {
        let common =
            ["s_client", "-connect", &address, "-servername", "localhost", "-CAfile", authority];
        let verified = ["-verify_return_error", "-ign_eof"];
        let arguments: Vec<_> = [&common, &verified[..], further].concat();
        let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let running = tokio::task::spawn_blocking(move || {
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            openssl(&arguments, LAST_REQUEST).map(|said| String::from_utf8(said).unwrap())
        });
        running.await.unwrap()
    };
    for (further, heard) in [
        (&["-tls1_3"][..], "New, TLSv1.3"),
        (&["-tls1_2"], "New, TLSv1.2"),
        (&["-alpn", "h2,http/1.1"], "ALPN protocol: http/1.1"),
    ] {
        let said = shakes(further).await.unwrap_or_else(|| panic!("{further:?} fails"));
        for part in [heard, "HTTP/1.1 200 OK", "Verify return code: 0 (ok)"] {
            assert!(said.contains(part), "{further:?}: {part} is not in {said}");
        }
    }
    for further in [
        &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"][..],
        &["-alpn", "h2"],
        &["-alpn", "acme-tls/1"],
    ] {
        assert_eq!(shakes(further).await, None, "{further:?}");
    }
}

#[tokio::test]
async fn plain_http_is_told_to_use_https() {
    let secured = Secured::new();
    let world = secured.world(&[]).await;
    let answer = rest_of(connected(world.address, LAST_REQUEST).await).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("use https\n"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(answer.contains(&format!("Content-Length: {}\r\n", body.len())), "{answer}");
}

#[tokio::test]
async fn a_new_certificate_is_used_without_a_restart_and_connections_stay() {
    let (old, new, place) = (Secured::new(), Secured::new(), Workplace::new());
    let server = old.serves(&place).await;
    let (before, after) = (old.client(), new.client());
    let mut open = before.tries(server.address).await.unwrap();
    open.write_all(REQUEST).await.unwrap();
    open.read_exact(&mut [0; 12]).await.unwrap();

    // A pair that does not belong together leaves the old one in use.
    let key = fs::read(&old.certificates.key).unwrap();
    fs::copy(&new.certificates.key, &old.certificates.key).unwrap();
    place.logs("the old one stays in use").await;
    place.logs("it is not the key of the first certificate").await;
    before.tries(server.address).await.unwrap();
    fs::write(&old.certificates.key, key).unwrap();
    place.logs("TLS certificate reloaded").await;

    old.takes(&new);
    until("the new certificate is used", async || after.tries(server.address).await.is_ok()).await;
    // A client that has been there before may resume its session, which takes no certificate.
    assert!(old.client().tries(server.address).await.is_err(), "the old one is used no more");
    open.write_all(LAST_REQUEST).await.unwrap();
    let mut rest = String::new();
    timeout(PATIENCE, open.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest.matches("HTTP/1.1 200 OK").count(), 1, "the open connection goes on: {rest}");
    server.stops(&place).await;
}

#[tokio::test]
async fn a_certificate_that_expires_is_told_by_the_log_and_the_metrics() {
    for (days, sentence) in
        [(3, "the TLS certificate expires soon"), (-1, "the TLS certificate has expired")]
    {
        let (secured, place) = (Secured::new(), Workplace::new());
        let now = Clock::system().now().unix();
        let at = |days: i64| {
            let date = DateTime::from_timestamp(now, 0).unwrap() + TimeDelta::days(days);
            rcgen::date_time_ymd(
                date.year(),
                date.month().try_into().unwrap(),
                date.day().try_into().unwrap(),
            )
        };
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (at(days - 90), at(days));
        let key = KeyPair::generate().unwrap();
        fs::write(&secured.certificates.certificate, params.self_signed(&key).unwrap().pem())
            .unwrap();
        fs::write(&secured.certificates.key, key.serialize_pem()).unwrap();
        let server = secured.serves(&place).await;
        place.logs(sentence).await;
        let expires = at(days).unix_timestamp();
        let metric = format!("chatserver_tls_certificate_expiry_timestamp_seconds {expires}");
        until("the metric is there", async || server.metrics().await.contains(&metric)).await;
        server.stops(&place).await;
    }
}

#[tokio::test]
async fn a_stalled_handshake_ends_and_takes_nothing_from_others() {
    let secured = Secured::new();
    let limits = [("http.header_timeout_seconds", "1"), ("limits.connections_per_address", "3")];
    let world = secured.world(&limits).await;
    let silent = connected(world.address, b"").await;
    // Begun handshakes count for their address like any connection.
    let begun = [connected(world.address, BEGUN).await, connected(world.address, BEGUN).await];
    let refused = rest_of(connected(world.address, BEGUN).await).await;
    assert_eq!(refused, "", "the fourth is closed, without an answer that TLS could not read");
    let other = connected_from("127.0.0.2", world.address, b"").await;
    let mut other = secured.client().shakes(other).await.unwrap();
    other.write_all(LAST_REQUEST).await.unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("200 OK"), "{answer}");
    for socket in begun {
        rest_of(socket).await;
    }
    // A connection without a first byte is idle, and stays.
    assert!(is_silent(&silent));
    secured.client().shakes(silent).await.unwrap();
}

#[tokio::test]
async fn a_client_that_takes_its_answer_too_slowly_over_tls_is_cut() {
    let secured = Secured::new();
    let further = [("limits.download_bytes", "9500000"), ("http.write_timeout_seconds", "2")];
    let world = secured.world(&further).await;
    let (alice, _bob) = world.alice_and_bob().await;
    let tunnel = Tunnel::to(world.address, secured.client()).await;
    let alice = alice.asks_at(tunnel.address);
    says_nine_megabytes(&alice).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let socket = socket.connect(world.address).await.unwrap();
    let mut slow = secured.client().shakes(socket).await.unwrap();
    slow.write_all(&alice.prepares_download().bytes()).await.unwrap();
    let taken = taken_slowly(slow).await;
    assert!(taken < 9_000_000, "the whole answer was taken: {taken} bytes");
}

#[tokio::test]
async fn idle_connections_over_tls_do_not_delay_a_stop() {
    let (secured, place) = (Secured::new(), Workplace::new());
    let server = secured.serves(&place).await;
    let shaken = secured.client().tries(server.address).await.unwrap();
    let mut used = secured.client().tries(server.address).await.unwrap();
    used.write_all(REQUEST).await.unwrap();
    used.read_exact(&mut [0; 12]).await.unwrap();
    let begun = connected(server.address, BEGUN).await;
    server.stops(&place).await;
    assert!(!place.log().contains("did not read the answer"), "{}", place.log());
    // The end of TLS comes before that of the connection, so a client can tell a stop from a cut.
    let mut rest = Vec::new();
    used.read_to_end(&mut rest).await.unwrap();
    drop((shaken, begun));
}
