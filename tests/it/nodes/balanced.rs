//! Three nodes behind HAProxy, with the configuration of `packaging/haproxy.cfg`.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use super::losing::Nodes;
use crate::harness::left_out::program;
use crate::harness::postgres::PostgresDatabase;
use crate::harness::process::{free_address, get};
use crate::harness::world::until;

/// A running HAProxy. Dropping it ends it.
pub struct Balancer {
    child: Child,
    pub address: SocketAddr,
    _folder: TempDir,
}

/// Returns HAProxy's program. Without it, the test fails in CI, and elsewhere says that it is left out.
pub fn haproxy() -> Option<PathBuf> {
    program("haproxy", "a test of several nodes")
}

/// Returns the configuration with these addresses in place of its names, and without what needs a resolver or many open
/// files.
fn configuration(address: SocketAddr, nodes: &[SocketAddr]) -> String {
    let mut text = include_str!("../../../packaging/haproxy.cfg").to_owned();
    let mut put = |old: &str, new: &str| {
        assert!(text.contains(old), "{old}");
        text = text.replace(old, new);
    };
    put("bind :8080", &format!("bind {address}"));
    put("maxconn 40000", "maxconn 200");
    put("resolvers system\n    parse-resolv-conf\n    hold valid 5s\n", "");
    put(" resolvers system init-addr last,libc,none", "");
    for (number, node) in (1..).zip(nodes) {
        put(&format!("node{number}:8080"), &node.to_string());
    }
    text
}

impl Balancer {
    /// Starts it at this address.
    pub fn start(program: PathBuf, address: SocketAddr, configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, configuration).unwrap();
        let mut command = Command::new(program);
        command.arg("-f").arg(&file).stdin(Stdio::null()).stderr(Stdio::null());
        Self { child: command.spawn().unwrap(), address, _folder: folder }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test]
async fn clients_behind_haproxy_notice_no_node() {
    let Some(program) = haproxy() else { return };
    let Some(database) = PostgresDatabase::migrated() else { return };
    let mut nodes = Nodes::start(&Arc::new(database), 3).await;
    let address = free_address();
    let balancer = Balancer::start(program, address, &configuration(address, &nodes.addresses()));
    until("a node is ready behind the balancer", async || {
        get(address, "/readyz").await.is_some_and(|(status, _)| status == 200)
    })
    .await;
    let [[alice, bob]] = <[_; 1]>::try_from(nodes.pairs(1)).ok().unwrap();
    let (alice, bob) = (alice.asks_at(balancer.address), bob.asks_at(balancer.address));

    // HTTP and WebSockets: each request and each listener may be at another node.
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(bob.elsewhere().listens_from_now_on().await);
    }
    let mut sent = Vec::new();
    for n in 0..6 {
        sent.push(alice.sends(&n.to_string()).await);
        assert_eq!(bob.downloads().await.message_ids(), sent);
    }
    for listener in &mut listeners {
        assert_eq!(listener.takes().await.conversations, [bob.conversation.as_str()]);
    }

    // The command-line client, by its own profile.
    let place = &nodes.places[0];
    let url = format!("http://{}/", balancer.address);
    let keys = format!("{}\n{}\n", alice.api_key.as_str(), alice.password.as_str());
    let login = place.runs_with(&["client", "login", &url, "--profile", "alice"], &keys, &[]);
    assert!(login.status.success(), "{login:?}");
    let send_text = ["client", "send", &bob.email, "from the command line", "--profile", "alice"];
    place.tells(&send_text);
    let read = place.tells(&["client", "read", &bob.email, "--profile", "alice"]);
    let texts: Vec<_> = read["messages"].as_array().unwrap().iter().collect();
    assert_eq!(texts.last().unwrap()["text"], Value::from("from the command line"), "{read}");

    // A node is killed: requests go to the others, and its listeners come back there.
    nodes.servers.pop().unwrap().dies().await;
    for n in 6..12 {
        let id = alice.sends(&n.to_string()).await;
        assert!(bob.downloads().await.message_ids().contains(&id));
    }
}
