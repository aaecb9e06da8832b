//! `chatserver admin link`, and a server that serves the page.

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::harness::operator::Operator;
use crate::harness::process::{Workplace, free_address};
use crate::harness::world::PATIENCE;

const LISTEN: &str = "CHATSERVER_ADMIN__LISTEN";

impl Workplace {
    /// Prints a link for this value of `admin.listen`. Returns its URL and what is printed for people.
    pub fn admin_link(&self, listen: &str) -> (String, String) {
        let link = |flags: &[&str]| {
            let environment = [(LISTEN, listen), ("SUDO_USER", "alice")];
            let output = self.runs_with(&[&["admin", "link"], flags].concat(), "", &environment);
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let told: Value = serde_json::from_str(&link(&["--json"])).unwrap();
        assert!(told["expires"].is_string(), "{told}");
        (told["link"].as_str().unwrap().to_owned(), link(&[]))
    }
}

pub fn token(link: &str) -> &str {
    link.split_once("/enter?token=").unwrap().1
}

#[tokio::test]
async fn a_command_prints_a_link_that_neither_the_database_nor_the_log_has() {
    let place = Workplace::new();
    let admin = free_address();
    let listen = admin.to_string();
    let settings = [(LISTEN, listen.as_str()), ("CHATSERVER_LOG__FILTER", "debug")];
    let server = place.serves(&settings).await;
    let (link, text) = place.admin_link(&listen);
    assert!(link.starts_with(&format!("http://{listen}/enter?token=")), "{link}");
    let forward = format!("ssh -N -L {}:{listen} SERVER", admin.port());
    assert!(text.contains(&forward), "{text}");
    let digests = "SELECT token_digest FROM admin_links";
    let digests = place.opens_database().await.texts(digests).await;
    assert!(digests.len() == 2 && !digests.iter().any(|digest| digest == token(&link)));
    let operators = "SELECT DISTINCT operator FROM admin_links";
    assert_eq!(place.opens_database().await.texts(operators).await, ["alice"]);
    let mut operator = Operator::at(admin);
    assert_eq!(operator.opens(link.split_once(&listen).unwrap().1).await.status, 200);
    assert_eq!(operator.uses(token(&link)).await.status, 303);
    assert!(operator.sees("/").await.contains("The server is ready."));
    let entered = "admin page: entered operator=\"alice\"";
    place.logs(entered).await;
    let cookie = operator.cookie.clone().unwrap();
    for secret in [token(&link), cookie.split_once('=').unwrap().1, &operator.form_token] {
        assert!(!place.log().contains(secret), "the log has a secret");
    }
    server.stops(&place).await;
}

#[tokio::test]
async fn a_restore_brings_no_link_back() {
    let place = Workplace::new();
    let admin = free_address();
    let listen = admin.to_string();
    let server = place.serves(&[(LISTEN, &listen)]).await;
    let (link, _) = place.admin_link(&listen);
    let made = "SELECT operator FROM audit WHERE action = 'admin_link_made' AND via = 'command admin link'";
    assert_eq!(place.opens_database().await.texts(made).await, ["alice"; 2]);
    let backup = place.path().join("backup.db");
    let backup = backup.to_str().unwrap();
    place.tells(&["backup", backup]);
    assert_eq!(Operator::at(admin).uses(token(&link)).await.status, 303);
    server.stops(&place).await;
    place.tells(&["restore", backup, "--force"]);
    assert_eq!(place.opens_database().await.counts("admin_links").await, 0);
}

#[tokio::test]
async fn a_unix_socket_serves_the_page_whatever_the_host() {
    let place = Workplace::new();
    let path = place.path().join("admin.sock");
    let listen = format!("unix:{}", path.display());
    let server = place.serves(&[(LISTEN, &listen)]).await;
    let (link, text) = place.admin_link(&listen);
    assert!(link.starts_with("http://localhost:8081/enter?token="), "{link}");
    assert!(text.contains(&format!("ssh -N -L 8081:{} SERVER", path.display())), "{text}");
    for host in ["localhost:8081", "admin.example.com"] {
        let mut socket = UnixStream::connect(&path).await.unwrap();
        let request = format!(
            "GET /enter?token={} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n",
            token(&link)
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, socket.read_to_string(&mut answer)).await.expect("an answer").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    server.stops(&place).await;
    assert!(!path.exists(), "the socket is gone");
}

#[tokio::test]
async fn the_page_is_off_by_default_and_the_command_says_what_to_set() {
    let place = Workplace::new();
    let server = place.serves(&[]).await;
    assert!(!place.log().contains("serving the admin page"));
    let error: Value = serde_json::from_str(&place.fails(&["admin", "link", "--json"])).unwrap();
    assert_eq!(error["errorcode"], "invalid_settings");
    assert!(error["errormessage"].as_str().unwrap().contains("admin.listen is empty"), "{error}");
    // The address of another program.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = (taken.local_addr().unwrap().to_string(), taken);
    server.stops(&place).await;
    let output = place.runs_with(&["serve", "--listen", "127.0.0.1:0"], "", &[(LISTEN, &taken.0)]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("admin.listen") && error.contains(&taken.0), "{error}");
}
