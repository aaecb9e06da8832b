//! Durability under `kill -9` at any instant and under disk failures: no acknowledged message is lost, and none
//! is stored twice.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;
use serde_json::json;
use tokio::task::LocalSet;

use crate::harness::disk::Disk;
use crate::harness::person::{Person, message};
use crate::harness::process::{Process, Workplace, free_address};
use crate::harness::random::setting;
use crate::harness::reports::settled;
use crate::harness::world::until;

/// Number of kills while clients send, unless `CHATSERVER_KILLS` overrides it.
const KILLS: u64 = 6;

/// Messages acknowledged between two kills.
const BETWEEN_KILLS: usize = 120;

/// A server that restarts at the same address, as its clients expect.
struct Mortal {
    place: Workplace,
    address: SocketAddr,
    server: Process,
}

impl Mortal {
    async fn starts() -> Self {
        let (place, address) = (Workplace::new(), free_address());
        let server = place.starts_at(address, &["serve"], &[]).await;
        Self { place, address, server }
    }

    async fn is_killed_and_comes_back(&mut self) {
        self.server.signal("KILL");
        assert_eq!(self.server.ended().await.code(), None, "it did not end by itself");
        self.server = self.place.starts_at(self.address, &["serve"], &[]).await;
    }
}

/// State that all senders share.
#[derive(Default)]
struct Tally {
    acknowledged: AtomicUsize,
    /// Requests in flight when the server died.
    cut_off: AtomicUsize,
    enough: AtomicBool,
}

/// Sends messages one by one, each until it is acknowledged. Returns their IDs.
async fn keeps_sending(person: Person, tally: Arc<Tally>) -> Vec<String> {
    let instance = person.instance().await;
    let mut sent = Vec::new();
    while !tally.enough.load(Ordering::SeqCst) {
        let message = message(&format!("{} {}", person.email, sent.len()), &person.date());
        until("the message is acknowledged", async || {
            match person.prepares_add(&instance, &message).tried().await {
                Ok(answer) => answer.ok() != json!(null),
                Err(error) => {
                    tally.cut_off.fetch_add(usize::from(!error.is_connect()), Ordering::SeqCst);
                    false
                }
            }
        })
        .await;
        tally.acknowledged.fetch_add(1, Ordering::SeqCst);
        let id = message["ID"].as_str().unwrap().to_owned();
        // Detects an answer sent before its commit. A kill would hardly ever hit that gap, but an immediate
        // read does.
        let newest = json!({ "conversationid": person.conversation, "limit": 10 });
        let newest = person.prepares("chatconversation", "downloadpartial", &newest);
        if let Ok(page) = newest.tried().await {
            assert!(page.message_ids().contains(&id), "acknowledged, but not there");
        }
        sent.push(id);
    }
    sent
}

#[tokio::test]
async fn a_kill_loses_and_duplicates_no_acknowledged_message() {
    let mut mortal = Mortal::starts().await;
    let tally = Arc::new(Tally::default());
    let mut people = Vec::new();
    for pair in 0..8 {
        let mut one = mortal.place.adds(&mortal.server, &format!("One-{pair}"));
        let mut other = mortal.place.adds(&mortal.server, &format!("Other-{pair}"));
        mortal.place.befriends(&mut one, &mut other);
        people.extend([one, other]);
    }
    let sending = |person: &Person| keeps_sending(person.clone(), Arc::clone(&tally));
    let together = LocalSet::new();
    let senders: Vec<_> =
        people.iter().map(|person| together.spawn_local(sending(person))).collect();
    let sent = together.run_until(async {
        for _ in 0..setting("CHATSERVER_KILLS", KILLS) {
            let before = tally.acknowledged.load(Ordering::SeqCst);
            until("messages are acknowledged", async || {
                tally.acknowledged.load(Ordering::SeqCst) >= before + BETWEEN_KILLS
            })
            .await;
            mortal.is_killed_and_comes_back().await;
        }
        tally.enough.store(true, Ordering::SeqCst);
        let mut sent = Vec::new();
        for sender in senders {
            sent.push(sender.await.unwrap());
        }
        sent
    });
    let sent = sent.await;
    assert!(tally.cut_off.load(Ordering::SeqCst) > 0, "no request was cut off by a kill");
    mortal.is_killed_and_comes_back().await;

    for (pair, sent) in people.chunks(2).zip(sent.chunks(2)) {
        let page = pair[0].downloads().await;
        assert_eq!(page.text, pair[1].downloads().await.text, "both participants agree");
        assert_eq!(page.text, pair[0].downloads().await.text, "two downloads agree");
        assert!(page.json().get("more").is_none(), "the page is whole");
        let stored = page.message_ids();
        for sent in sent {
            let mine: HashSet<_> = sent.iter().collect();
            let found: Vec<_> = stored.iter().filter(|id| mine.contains(id)).collect();
            assert_eq!(found, sent.iter().collect::<Vec<_>>(), "each once, in the sender's order");
        }
        assert_eq!(stored.len(), sent[0].len() + sent[1].len(), "nothing else is there");
        settled(&pair[0], &pair[1]).await;
        let receipts: HashSet<_> = pair[0].told().await.into_iter().collect();
        assert_eq!(receipts.len(), stored.len(), "each was delivered once");
    }
}

#[tokio::test]
async fn a_kill_brings_no_cleared_message_back() {
    let mut mortal = Mortal::starts().await;
    let (alice, bob) = mortal.place.alice_and_bob(&mortal.server);
    for round in 0..3 {
        for number in 0..5 {
            alice.sends(&format!("{round} {number}")).await;
        }
        let cleared = bob.clears().await.conversation();
        mortal.is_killed_and_comes_back().await;
        assert!(alice.reads().await.is_empty());
        assert_eq!(bob.sees().await, cleared);
        assert_eq!(alice.instance().await, cleared["instance"]);
        bob.sends("anew").await;
        assert_eq!(alice.reads().await, ["anew"]);
    }
    let mut database = mortal.place.opens_database().await;
    until("the cleared messages are removed from the disk", async || {
        database.counts("messages").await == 1
    })
    .await;
}

#[tokio::test]
async fn a_failed_fsync_of_the_database_loses_no_acknowledged_message() {
    let (disk, place, address) = (Disk::failing(), Workplace::new(), free_address());
    let mut server = place.starts_at(address, &["serve"], &[disk.preload()]).await;
    let mut people = Vec::new();
    for pair in 0..4 {
        let mut one = place.adds(&server, &format!("One-{pair}"));
        let mut other = place.adds(&server, &format!("Other-{pair}"));
        place.befriends(&mut one, &mut other);
        people.extend([one, other]);
    }
    let file = |name| place.path().join(name);

    fs::write(file("held"), "").unwrap();
    let on_the_disk = fs::read(file("chatserver.db")).unwrap();
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let sending = |person: &Person| {
        let (person, acknowledged) = (person.clone(), Arc::clone(&acknowledged));
        async move {
            let mut sent = Vec::new();
            let stored = |id| {
                acknowledged.fetch_add(1, Ordering::SeqCst);
                sent.push(id);
            };
            person.sends_until_refused(|number| number.to_string(), stored).await;
            sent
        }
    };
    let together = LocalSet::new();
    let senders: Vec<_> =
        people.iter().map(|person| together.spawn_local(sending(person))).collect();
    let sent = together.run_until(async {
        until("messages are acknowledged", async || acknowledged.load(Ordering::SeqCst) > 400)
            .await;
        fs::write(file("failing"), "").unwrap();
        fs::remove_file(file("held")).unwrap();
        join_all(senders).await
    });
    let sent: Vec<_> = sent.await.into_iter().map(Result::unwrap).collect();
    assert_eq!(server.ended().await.code(), Some(1), "{}", place.log());
    let log = place.log();
    assert!(log.contains("fsync of the database or its write-ahead log failed"), "{log}");

    fs::write(file("chatserver.db"), on_the_disk).unwrap();
    let _server = place.starts_at(address, &["serve"], &[]).await;
    for (pair, sent) in people.chunks(2).zip(sent.chunks(2)) {
        let stored: HashSet<_> = pair[0].downloads().await.message_ids().into_iter().collect();
        assert!(sent.iter().flatten().all(|id| stored.contains(id)), "acknowledged, but not there");
    }
}
