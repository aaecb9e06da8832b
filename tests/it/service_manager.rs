//! `Type=notify` of systemd: a server tells a datagram socket when it is ready, stopping, or needs more time to start.

use std::path::PathBuf;
use std::sync::Arc;

use sqlx::migrate::Migrate as _;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

use crate::harness::postgres::PostgresDatabase;
use crate::harness::process::{Process, Workplace, free_address};
use crate::harness::world::PATIENCE;
use crate::migration::{FIRST, fills};

/// The socket of a service manager.
struct ServiceManager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl ServiceManager {
    fn of(place: &Workplace) -> Self {
        let path = place.path().join("notify");
        Self { socket: UnixDatagram::bind(&path).unwrap(), path }
    }

    /// Starts a server that knows this socket, and does not wait for it.
    fn starts(&self, place: &Workplace, settings: &[(&str, &str)]) -> Process {
        let socket = ("NOTIFY_SOCKET", self.path.to_str().unwrap());
        place.starts_without_waiting(free_address(), &["serve"], &[settings, &[socket]].concat())
    }

    /// Returns the lines of the next message.
    async fn hears(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let received = timeout(PATIENCE, self.socket.recv(&mut message)).await;
        let size = received.expect("a message arrives").unwrap();
        let text = str::from_utf8(&message[..size]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Returns the status lines of messages that ask for more time, up to the one which tells that the server is ready.
    async fn hears_until_ready(&self) -> Vec<String> {
        let mut steps = Vec::new();
        loop {
            let message = self.hears().await;
            if message[0] == "READY=1" {
                return steps;
            }
            assert_eq!(message[0], EXTENDED, "{message:?}");
            steps.push(message[1].strip_prefix("STATUS=").unwrap().to_owned());
        }
    }
}

/// A minute, in the unit of systemd.
const EXTENDED: &str = "EXTEND_TIMEOUT_USEC=60000000";

#[tokio::test]
async fn a_ready_server_accepts_and_a_stopping_one_says_so() {
    let place = Workplace::new();
    place.tells(&["migrate"]);
    let manager = ServiceManager::of(&place);
    let mut server = manager.starts(&place, &[("CHATSERVER_HTTP__DRAIN_SECONDS", "1")]);
    let status = format!("STATUS=serving at http://{}/", server.address);
    assert_eq!(manager.hears().await, ["READY=1", &status]);
    assert_eq!(server.gets("/readyz").await.0, 200);
    server.signal("TERM");
    let stopping = ["STOPPING=1", "STATUS=stopping, after a drain of 1 s"];
    assert_eq!(manager.hears().await, stopping);
    assert_eq!(server.ended().await.code(), Some(0), "{}", place.log());
}

#[tokio::test]
async fn a_migration_of_sqlite_asks_for_more_time_again_and_again() {
    let place = Workplace::new();
    place.tells(&["migrate", "--database-url", "sqlite://new.db"]);
    fills(&place, &[FIRST, "PRAGMA journal_mode = WAL"], 1).await;
    let mut other = place.opens_database().await;
    other.locks().await;

    let manager = ServiceManager::of(&place);
    let server = manager.starts(&place, &[]);
    for _ in 0..3 {
        let waiting = "STATUS=waiting for another process that writes to the database";
        assert_eq!(manager.hears().await, [EXTENDED, waiting]);
    }
    other.unlocks().await;
    other.closes().await;
    let steps = manager.hears_until_ready().await;
    for step in ["migration 2 of ", "migration 11 of ", "committing the migrations"] {
        assert!(steps.iter().any(|said| said.starts_with(step)), "{step}: {steps:?}");
    }
    assert_eq!(server.gets("/readyz").await.0, 200);
    server.stops(&place).await;
}

#[tokio::test]
async fn a_migration_of_postgresql_asks_for_more_time_again_and_again() {
    let Some(database) = PostgresDatabase::empty() else { return };
    let mut other = database.connects().await;
    other.lock().await.unwrap();
    let place = Workplace::on(Arc::new(database));
    let manager = ServiceManager::of(&place);
    let server = manager.starts(&place, &[]);
    for _ in 0..3 {
        let waiting = "STATUS=waiting for another process that migrates the database";
        assert_eq!(manager.hears().await, [EXTENDED, waiting]);
    }
    other.unlock().await.unwrap();
    let steps = manager.hears_until_ready().await;
    assert!(steps.iter().any(|said| said.starts_with("migration 1 of ")), "{steps:?}");
    server.stops(&place).await;
}

#[tokio::test]
async fn a_server_whose_service_manager_is_gone_serves_and_warns() {
    let place = Workplace::new();
    let manager = ServiceManager::of(&place);
    std::fs::remove_file(&manager.path).unwrap();
    let server = place.ready(manager.starts(&place, &[])).await;
    place.logs("telling systemd (NOTIFY_SOCKET) failed").await;
    server.stops(&place).await;
}
