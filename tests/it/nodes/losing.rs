//! Nodes and databases that are lost while clients send: nothing acknowledged is lost, and nothing is stored twice.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::{join, join_all};
use serde_json::Value;
use tokio::net::TcpStream;

use super::balanced::{Balancer, haproxy};
use crate::harness::person::{Person, Prepared, message};
use crate::harness::postgres::PostgresDatabase;
use crate::harness::process::{Process, Workplace, free_address};
use crate::harness::world::until;

/// Messages that are acknowledged before something is lost, and again afterwards.
const BETWEEN: usize = 60;

/// Server processes on one database. Each logs to a folder of its own.
pub struct Nodes {
    pub places: Vec<Workplace>,
    pub servers: Vec<Process>,
}

impl Nodes {
    pub async fn start(database: &Arc<PostgresDatabase>, number: usize) -> Self {
        let places: Vec<_> = (0..number).map(|_| Workplace::on(Arc::clone(database))).collect();
        let servers = join_all(places.iter().map(|place| place.serves(&[]))).await;
        Self { places, servers }
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.address).collect()
    }

    /// Adds pairs of friends.
    pub fn pairs(&self, number: usize) -> Vec<[Person; 2]> {
        let pair = |pair| {
            let (place, server) = (&self.places[0], &self.servers[0]);
            let mut one = place.adds(server, &format!("One-{pair}"));
            let mut other = place.adds(server, &format!("Other-{pair}"));
            place.befriends(&mut one, &mut other);
            [one, other]
        };
        (0..number).map(pair).collect()
    }
}

/// State that all senders share.
#[derive(Default)]
struct Tally {
    acknowledged: Cell<usize>,
    /// Refusals, as status and code, and whether each said when to try again.
    refused: RefCell<HashSet<(u16, String, bool)>>,
    is_over: Cell<bool>,
}

impl Tally {
    async fn another(&self, number: usize) {
        let before = self.acknowledged.get();
        let enough = async || self.acknowledged.get() >= before + number;
        until("messages are acknowledged", enough).await;
    }
}

impl Tally {
    /// Asserts that each refusal was a 503 that said when to try again.
    fn is_refused_with_503_alone(&self) {
        let refused = self.refused.borrow();
        let is_503 = |(status, _, says_when): &(u16, String, bool)| *status == 503 && *says_when;
        assert!(refused.iter().all(is_503), "{refused:?}");
    }
}

/// Sends messages one by one, each until it is acknowledged, at the nodes in turn. Returns their IDs.
async fn keeps_sending(person: &Person, nodes: &[SocketAddr], tally: &Tally) -> Vec<String> {
    let instance = person.instance().await;
    let mut sent = Vec::new();
    let mut turn = 0;
    while !tally.is_over.get() {
        let message = message(&format!("{} {}", person.email, sent.len()), &person.date());
        until("the message is acknowledged", async || {
            turn += 1;
            let at_node = person.asks_at(nodes[turn % nodes.len()]);
            let Ok(answer) = at_node.prepares_add(&instance, &message).tried().await else {
                return false;
            };
            if answer.status == 200 {
                return true;
            }
            let code = answer.json()["errorcode"].as_str().unwrap().to_owned();
            let says_when = answer.headers.contains_key("retry-after");
            tally.refused.borrow_mut().insert((answer.status.as_u16(), code, says_when));
            false
        })
        .await;
        tally.acknowledged.set(tally.acknowledged.get() + 1);
        sent.push(message["ID"].as_str().unwrap().to_owned());
    }
    sent
}

/// Has all people send while `meanwhile` goes on. Asserts that each message is stored once and in its sender's order.
async fn send_while(
    pairs: &[[Person; 2]],
    nodes: &[SocketAddr],
    meanwhile: impl AsyncFnOnce(&Tally),
) -> Tally {
    let tally = Tally::default();
    let people: Vec<&Person> = pairs.iter().flatten().collect();
    let sending = people.iter().map(|person| keeps_sending(person, nodes, &tally));
    let going_on = async {
        meanwhile(&tally).await;
        tally.is_over.set(true);
    };
    let (sent, ()) = join(join_all(sending), going_on).await;
    for (pair, sent) in pairs.iter().zip(sent.chunks(2)) {
        let mut pages: Vec<Value> = Vec::new();
        for node in nodes {
            pages.push(pair[0].asks_at(*node).downloads().await.ok());
        }
        assert!(pages.iter().all(|page| page["messages"] == pages[0]["messages"]), "nodes agree");
        let stored = pages[0]["messages"].as_array().unwrap().iter();
        let stored: Vec<_> = stored.map(|message| message["ID"].as_str().unwrap()).collect();
        for sent in sent {
            let mine: HashSet<_> = sent.iter().map(String::as_str).collect();
            let found: Vec<_> = stored.iter().filter(|id| mine.contains(**id)).collect();
            assert_eq!(found, sent.iter().collect::<Vec<_>>(), "each once, in the sender's order");
        }
        assert_eq!(stored.len(), sent[0].len() + sent[1].len(), "nothing else is there");
    }
    tally
}

#[tokio::test]
async fn a_node_that_is_killed_under_load_loses_and_doubles_nothing() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let mut nodes = Nodes::start(&Arc::new(database), 3).await;
    let (pairs, addresses) = (nodes.pairs(4), nodes.addresses());
    let killed = addresses[2];
    let tally = send_while(&pairs, &addresses[..], async |tally| {
        tally.another(BETWEEN).await;
        nodes.servers.pop().unwrap().dies().await;
        tally.another(BETWEEN).await;
        let place = nodes.places.last().unwrap();
        nodes.servers.push(place.starts_at(killed, &["serve"], &[]).await);
        tally.another(BETWEEN).await;
    });
    let tally = tally.await;
    let logs: Vec<_> = nodes.places.iter().map(Workplace::log).collect();
    assert!(tally.refused.borrow().is_empty(), "{:?} {logs:#?}", tally.refused);
}

#[tokio::test]
async fn a_database_that_restarts_under_load_is_awaited_and_found_again() {
    let Some(database) = PostgresDatabase::on_a_server_of_its_own() else { return };
    let database = Arc::new(database);
    let nodes = Nodes::start(&database, 2).await;
    let (pairs, addresses) = (nodes.pairs(4), nodes.addresses());
    let mut listener = pairs[0][1].asks_at(addresses[1]).elsewhere().listens_from_now_on().await;
    let tally = send_while(&pairs, &addresses, async |tally| {
        tally.another(BETWEEN).await;
        database.server_crashes();
        let is_refused = async || {
            let refused = tally.refused.borrow();
            refused.iter().any(|(status, code, says_when)| {
                (*status, code.as_str(), *says_when) == (503, "unavailable", true)
            })
        };
        until("requests are refused with the time of the next attempt", is_refused).await;
        for server in &nodes.servers {
            assert_eq!(server.gets("/readyz").await.0, 503);
        }
        database.server_starts();
        tally.another(BETWEEN).await;
    });
    let tally = tally.await;
    tally.is_refused_with_503_alone();
    for (server, place) in nodes.servers.iter().zip(&nodes.places) {
        until("the node is ready again", async || server.is_ready().await).await;
        place.logs("the database is back").await;
    }
    // The listener stayed connected, and is told of what comes now.
    let mut told = listener.takes().await;
    pairs[0][0].sends("after the crash").await;
    while !told.conversations.contains(&pairs[0][0].conversation) {
        told = listener.takes().await;
    }
}

/// A node at which a user listened has gone: friends at another node see the user leave once no sign of life counts.
#[tokio::test]
async fn a_killed_node_takes_its_listeners_with_it() {
    let Some(database) = PostgresDatabase::migrated() else { return };
    let database = Arc::new(database);
    let briefly = [("CHATSERVER_PRESENCE__TIMEOUT_SECONDS", "1")];
    let places = [(); 2].map(|()| Workplace::on(Arc::clone(&database)));
    let one = places[0].serves(&briefly).await;
    let other = places[1].serves(&briefly).await;
    let (alice, bob) = places[0].alice_and_bob(&one);
    let bob = bob.asks_at(other.address);
    alice.chooses("useravailable").await.ok();
    let listens = alice.listens().await;
    bob.comes_to_see(&alice, "available").await;
    one.dies().await;
    bob.comes_to_see(&alice, "offline").await;
    drop(listens);
}

#[tokio::test]
async fn several_nodes_start_on_an_empty_database_at_once() {
    let Some(database) = PostgresDatabase::empty() else { return };
    let database = Arc::new(database);
    let places: Vec<_> = (0..3).map(|_| Workplace::on(Arc::clone(&database))).collect();
    let starting = places.iter().map(|place| place.starts_at(free_address(), &["serve"], &[]));
    let servers = join_all(starting).await;
    let (alice, bob) = places[0].alice_and_bob(&servers[0]);
    alice.asks_at(servers[1].address).sends("hi").await;
    assert_eq!(bob.asks_at(servers[2].address).reads().await, ["hi"]);
}

/// Forwards to the primary while it answers, and else to the standby.
fn to_the_primary(address: SocketAddr, [primary, standby]: [u16; 2]) -> String {
    format!(
        "defaults\n mode tcp\n timeout connect 1s\n timeout client 1h\n timeout server 1h\n retries 0\n\
         listen postgres\n bind {address}\n default-server check inter 200ms fall 1 rise 1 on-marked-down shutdown-sessions\n\
         server primary 127.0.0.1:{primary}\n server standby 127.0.0.1:{standby} backup\n"
    )
}

/// The nodes reach the database through a proxy, which can't tell a standby from a primary.
#[tokio::test]
async fn a_failover_to_a_synchronous_standby_loses_and_doubles_nothing() {
    let Some(program) = haproxy() else { return };
    let Some(database) = PostgresDatabase::on_a_server_of_its_own() else { return };
    let (standby, address) = (database.gets_a_standby(), free_address());
    let ports = [database.port(), standby.port()];
    let _proxy = Balancer::start(program, address, &to_the_primary(address, ports));
    until("the proxy listens", async || TcpStream::connect(address).await.is_ok()).await;
    let database = Arc::new(database.through(address.port()));
    let nodes = Nodes::start(&database, 2).await;
    let (pairs, addresses) = (nodes.pairs(4), nodes.addresses());
    let tally = send_while(&pairs, &addresses, async |tally| {
        tally.another(BETWEEN).await;
        database.server_crashes();
        let is_refused = async || !tally.refused.borrow().is_empty();
        until("requests are refused", is_refused).await;
        until("the nodes refuse the standby", async || {
            nodes.places.iter().all(|place| place.log().contains("it is a standby"))
        })
        .await;
        standby.takes_over();
        tally.another(BETWEEN).await;
    });
    let tally = tally.await;
    tally.is_refused_with_503_alone();
}

/// Locks make the database as slow as a disk that hangs.
#[tokio::test]
async fn a_database_that_hangs_has_load_shed_and_reads_answered() {
    /// Messages that are sent at once.
    const AT_ONCE: usize = 200;
    let Some(database) = PostgresDatabase::migrated() else { return };
    let place = Workplace::on(Arc::new(database));
    let server = place.serves(&[("CHATSERVER_HTTP__REQUEST_TIMEOUT_SECONDS", "1")]).await;
    let (alice, bob) = place.alice_and_bob(&server);
    let instance = alice.instance().await;
    let adds = |text: String| alice.prepares_add(&instance, &message(&text, &alice.date()));
    let mut other = place.opens_database().await;
    other.locks().await;
    let waiting: Vec<_> = (0..AT_ONCE).map(|n| adds(n.to_string())).collect();
    for answer in join_all(waiting.iter().map(Prepared::sent)).await {
        answer.refused(503, "unavailable");
        assert!(answer.headers.contains_key("retry-after"));
    }
    assert!(bob.reads().await.is_empty(), "reads are answered meanwhile");
    until("the node is not ready", async || !server.is_ready().await).await;
    other.unlocks().await;
    until("changes are made again", async || adds("after".to_owned()).sent().await.status == 200)
        .await;
    until("the node is ready", async || server.is_ready().await).await;
    // Each message is sent again under its ID, and is there once, whether it was stored before or not.
    for again in join_all(waiting.iter().map(Prepared::sent)).await {
        again.ok();
    }
    let read = bob.reads().await;
    let once: HashSet<_> = read.iter().filter(|text| *text != "after").collect();
    assert_eq!(once.len(), AT_ONCE);
    assert_eq!(read.iter().filter(|text| *text != "after").count(), AT_ONCE);
}
