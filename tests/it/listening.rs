//! Listening on a Unix socket, and on the socket that systemd passes.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::harness::left_out::left_out;
use crate::harness::nginx::{Nginx, PASSES_ALL};
use crate::harness::process::{Process, Workplace, free_address};
use crate::harness::sockets::{LAST_REQUEST, connected, connected_from, rest_of};
use crate::harness::world::PATIENCE;

/// The URL by which clients reach a server on a Unix socket, by way of a proxy.
const URL: (&str, &str) = ("CHATSERVER_HTTP__PUBLIC_URL", "https://chat.example.com/");

impl Workplace {
    /// Returns the path of a Unix socket in this folder, and that value of `http.listen`.
    fn socket(&self) -> (PathBuf, String) {
        let path = self.path().join("chat.sock");
        let listen = format!("unix:{}", path.display());
        (path, listen)
    }

    /// Starts a server on a Unix socket and waits until it listens.
    async fn serves_on(&self, listen: &str, settings: &[(&str, &str)]) -> Process {
        let mut command = self.serving(&["serve"], listen);
        command.env(URL.0, URL.1).envs(settings.iter().copied());
        // No test connects to this address.
        self.listens(Process::of(command, free_address())).await
    }

    async fn listens(&self, process: Process) -> Process {
        self.logs("listening").await;
        process
    }
}

/// Returns how nginx names a Unix socket.
fn upstream(path: &Path) -> String {
    format!("unix:{}:", path.display())
}

/// Sends a request over a Unix socket and returns the answer.
async fn asks(path: &Path) -> String {
    let mut socket = UnixStream::connect(path).await.unwrap();
    socket.write_all(LAST_REQUEST).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, socket.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    answer
}

#[tokio::test]
async fn people_chat_through_nginx_and_a_unix_socket() {
    let place = Workplace::new();
    let (path, listen) = place.socket();
    let server = place.serves_on(&listen, &[]).await;
    let Some(nginx) = Nginx::start(place.path(), &upstream(&path), PASSES_ALL).await else {
        return;
    };
    let (alice, bob) = place.alice_and_bob(&server);
    let (alice, bob) = (alice.asks_at(nginx.address), bob.asks_at(nginx.address));
    let mut listener = bob.listens_from_now_on().await;
    alice.sends("Hello, Bob").await;
    assert_eq!(listener.takes().await.conversations, [bob.conversation.as_str()]);
    assert_eq!(bob.reads().await, ["Hello, Bob"]);
    let login = alice.logs_in().await.ok();
    assert_eq!(
        login["urls"]["login"].as_str().map(|url| url.starts_with(URL.1)),
        Some(true),
        "{login}"
    );
}

#[tokio::test]
async fn a_proxy_on_a_unix_socket_names_the_client() {
    let place = Workplace::new();
    let (path, listen) = place.socket();
    let _server =
        place.serves_on(&listen, &[("CHATSERVER_LIMITS__FAILURES_PER_MINUTE", "1")]).await;
    let Some(nginx) = Nginx::start(place.path(), &upstream(&path), PASSES_ALL).await else {
        return;
    };
    // nginx adds the address that it sees to what the client claims, and only that is believed.
    let wrong = |claimed: &str| {
        let body = r#"{"action":"login","apikey":"0"}"#;
        format!(
            "POST /?srv=chatserver&api=chatlogin HTTP/1.1\r\nHost: chat\r\nContent-Type: application/json\r\n\
             Ozeki-Station: 0123456789abcdef0123456789abcdef\r\nX-Forwarded-For: {claimed}\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let logs_in = async |from: &str, claimed: &str| {
        rest_of(connected_from(from, nginx.address, wrong(claimed).as_bytes()).await).await
    };
    let first = logs_in("127.0.0.2", "192.0.2.1").await;
    assert!(first.contains("invalid_credentials"), "{first}");
    let second = logs_in("127.0.0.2", "192.0.2.2").await;
    assert!(second.contains("rate_limited"), "{second}");
    let other = logs_in("127.0.0.3", "192.0.2.1").await;
    assert!(other.contains("invalid_credentials"), "{other}");
    place.logs("client=127.0.0.2").await;
}

#[tokio::test]
async fn a_unix_socket_is_for_the_servers_group_and_goes_with_the_server() {
    let place = Workplace::new();
    let (path, listen) = place.socket();
    let server = place.serves_on(&listen, &[]).await;
    let mode = fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(format!("{mode:o}"), "660");
    assert!(asks(&path).await.ends_with("OK\n"));
    // A request that is on its way is answered, and an idle connection delays nothing.
    let _idle = UnixStream::connect(&path).await.unwrap();
    server.stops(&place).await;
    assert!(!path.exists(), "the socket is gone");
}

#[tokio::test]
async fn the_socket_of_a_killed_server_is_replaced_and_one_in_use_is_not() {
    let place = Workplace::new();
    let (path, listen) = place.socket();
    place.serves_on(&listen, &[]).await.dies().await;
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket(), "a kill leaves it");
    let server = place.serves_on(&listen, &[]).await;
    assert!(asks(&path).await.ends_with("OK\n"));

    let other = Workplace::new();
    let refuse = |listen: &str, sentence: &str| {
        let output = other.runs_with(&["serve", "--listen", listen], "", &[URL]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        for part in ["http.listen", listen, sentence] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    };
    refuse(&listen, "another process listens on this socket");
    assert!(asks(&path).await.ends_with("OK\n"), "the first server goes on");
    let file = other.path().join("file");
    fs::write(&file, "kept").unwrap();
    refuse(&format!("unix:{}", file.display()), "there is a file that is no socket");
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    refuse("unix:/nowhere/chat.sock", "No such file or directory");
    server.stops(&place).await;
}

#[tokio::test]
async fn a_second_server_names_the_unix_socket_of_the_first() {
    let place = Workplace::new();
    let (_, listen) = place.socket();
    let _server = place.serves_on(&listen, &[]).await;
    let error = place.fails(&["serve", "--listen", "127.0.0.1:0"]);
    assert!(error.contains(&listen), "{error}");
}

/// Returns the command with this listening socket as systemd passes it: as descriptor 3.
fn with_socket(serving: &Command, socket: OwnedFd) -> Command {
    let script = "export LISTEN_PID=$$ LISTEN_FDS=1; exec 3<&0 </dev/null; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(serving.get_program()).args(serving.get_args());
    command.current_dir(serving.get_current_dir().unwrap()).env_clear().stdin(socket);
    command.envs(serving.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

#[tokio::test]
async fn a_socket_of_systemd_loses_no_connection_over_a_restart() {
    let place = Workplace::new();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let starts = || {
        let mut command =
            with_socket(&place.serving(&["serve"], "systemd"), socket.try_clone().unwrap().into());
        let log = fs::File::create(place.path().join("log.txt")).unwrap();
        command.stdout(Stdio::null()).stderr(log);
        Process::of(command, address)
    };
    let server = place.ready(starts()).await;
    let (alice, bob) = place.alice_and_bob(&server);
    alice.sends("first").await;
    server.stops(&place).await;
    // systemd still has the socket: a client connects, and the next server answers.
    let waiting = connected(address, LAST_REQUEST).await;
    let server = place.ready(starts()).await;
    assert!(rest_of(waiting).await.ends_with("OK\n"));
    assert_eq!(bob.reads().await, ["first"]);
    server.stops(&place).await;
}

#[tokio::test]
async fn a_unix_socket_of_systemd_needs_a_public_url_and_stays() {
    let place = Workplace::new();
    let path = place.path().join("passed.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let command = |environment: &[(&str, &str)]| {
        let passed = socket.try_clone().unwrap().into();
        let mut command = with_socket(&place.serving(&["serve"], "systemd"), passed);
        command.envs(environment.iter().copied());
        command
    };
    let refused = command(&[]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8(refused.stderr).unwrap().contains("http.public_url"));
    let mut serving = command(&[URL]);
    serving.stderr(fs::File::create(place.path().join("log.txt")).unwrap());
    let server = place.listens(Process::of(serving, free_address())).await;
    assert!(asks(&path).await.ends_with("OK\n"));
    server.stops(&place).await;
    assert!(path.exists(), "the socket is systemd's");
}

#[tokio::test]
async fn systemds_own_launcher_starts_a_server_at_the_first_connection() {
    let place = Workplace::new();
    let address = free_address();
    let serving = place.serving(&["serve"], "systemd");
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--listen", &address.to_string()]);
    for (name, value) in serving.get_envs() {
        let value = value.unwrap_or_default().to_str().unwrap();
        command.arg(format!("--setenv={}={value}", name.to_str().unwrap()));
    }
    command.arg(serving.get_program()).args(serving.get_args());
    command.current_dir(place.path()).stdin(Stdio::null());
    command.stderr(fs::File::create(place.path().join("log.txt")).unwrap());
    if Command::new("systemd-socket-activate").arg("--version").output().is_err() {
        return left_out("a test of socket activation", "systemd-socket-activate");
    }
    let server = place.ready(Process::of(command, address)).await;
    place.logs(&format!("address={address}")).await;
    server.stops(&place).await;
}

#[test]
fn without_a_socket_of_systemd_the_server_says_how_to_start_it() {
    let place = Workplace::new();
    let error = place.fails(&["serve", "--listen", "systemd", "--json"]);
    let error: Value = serde_json::from_str(error.lines().last().unwrap()).unwrap();
    assert_eq!(error["errorcode"], "cannot_listen");
    let sentence = error["errormessage"].as_str().unwrap();
    assert!(
        sentence.contains("systemd passed 0 sockets") && sentence.contains("chatserver.socket"),
        "{sentence}"
    );
}

#[test]
fn a_unix_socket_without_a_public_url_is_refused() {
    let place = Workplace::new();
    let (_, listen) = place.socket();
    let error = place.fails(&["serve", "--listen", &listen]);
    assert!(error.contains("http.public_url") && error.contains("Unix socket"), "{error}");
}
