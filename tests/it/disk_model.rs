//! Power cuts: a server runs on a disk that keeps a journal ([`disk_model.c`](harness/disk_model.c)). It then starts
//! again on what the disk might hold after a power cut at any moment. Flushed data is there. Each unflushed
//! write is there, is lost, or is torn at sector boundaries.
//!
//! `CHATSERVER_IMAGES` sets the number of disk images, `CHATSERVER_SEED` selects them.

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::task::LocalSet;

use crate::harness::disk::Disk;
use crate::harness::person::Person;
use crate::harness::process::{Workplace, free_address};
use crate::harness::random::setting;
use crate::harness::world::until;

/// Number of disk images, unless `CHATSERVER_IMAGES` overrides it.
const IMAGES: u64 = 4;

/// Minimum number of acknowledged messages and of database flushes before flushes begin to fail.
const MESSAGES: usize = 500;
const FLUSHES: usize = 4;

const DATABASE: u8 = 1;
const LOG: u8 = 2;

/// A deterministic random number generator (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn rolls(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// An operation on the disk.
enum Deed {
    Write {
        at: usize,
        data: Vec<u8>,
    },
    Truncate {
        size: usize,
    },
    /// A successful flush. What was written before record `begun` is on the disk.
    Flush {
        begun: usize,
    },
    /// A failed flush. What was written before record `begun` is partly on the disk and is not written again.
    FailedFlush {
        begun: usize,
    },
    Remove,
}

struct Record {
    file: u8,
    deed: Deed,
    /// Length of the journal in bytes up to the end of this record.
    end: u64,
}

/// Reads the journal recorded so far. Drops an incomplete last record.
fn read_journal(path: &Path) -> Vec<Record> {
    let journal = fs::read(path).unwrap_or_default();
    let (mut records, mut rest) = (Vec::new(), &journal[..]);
    while let Some((head, behind)) = rest.split_at_checked(16) {
        let length = u32::from_le_bytes(head[4..8].try_into().unwrap()) as usize;
        let at = usize::try_from(u64::from_le_bytes(head[8..].try_into().unwrap())).unwrap();
        let Some((data, behind)) = behind.split_at_checked(length) else { break };
        let deed = match head[0] {
            1 => Deed::Write { at, data: data.to_vec() },
            2 => Deed::Truncate { size: at },
            3 => Deed::Flush { begun: at },
            4 => Deed::FailedFlush { begun: at },
            _ => Deed::Remove,
        };
        rest = behind;
        records.push(Record { file: head[1], deed, end: (journal.len() - rest.len()) as u64 });
    }
    records
}

/// Bytes of a file on the disk, or `None` if it does not exist.
type Content = Option<Vec<u8>>;

fn write(content: &mut Content, at: usize, data: &[u8]) {
    let content = content.get_or_insert_default();
    if content.len() < at + data.len() {
        content.resize(at + data.len(), 0);
    }
    content[at..at + data.len()].copy_from_slice(data);
}

fn carry_out(content: &mut Content, deed: &Deed) {
    match deed {
        Deed::Write { at, data } => write(content, *at, data),
        Deed::Truncate { size } => content.get_or_insert_default().resize(*size, 0),
        Deed::Remove => *content = None,
        Deed::Flush { .. } | Deed::FailedFlush { .. } => {}
    }
}

/// Applies an unflushed operation fully, not at all, or in some of its sectors of 512 or 4096 bytes.
fn tear(content: &mut Content, deed: &Deed, dice: &mut Dice) {
    let Deed::Write { at, data } = deed else {
        if dice.rolls(2) == 0 {
            carry_out(content, deed);
        }
        return;
    };
    let sector = match dice.rolls(4) {
        0 => return,
        1 => return write(content, *at, data),
        2 => 512,
        _ => 4096,
    };
    let mut from = 0;
    while from < data.len() {
        let to = data.len().min(from + sector - (at + from) % sector);
        if dice.rolls(2) == 0 {
            write(content, at + from, &data[from..to]);
        }
        from = to;
    }
}

/// Returns the content of a file after a power cut behind these records.
fn after_cut(records: &[Record], file: u8, before: Content, dice: &mut Dice) -> Content {
    let mut content = before;
    let mut pending: Vec<(usize, &Deed)> = Vec::new();
    for (nth, record) in records.iter().enumerate().filter(|(_, record)| record.file == file) {
        let (begun, is_failed) = match record.deed {
            Deed::Flush { begun } => (begun, false),
            Deed::FailedFlush { begun } => (begun, true),
            _ => {
                pending.push((nth, &record.deed));
                continue;
            }
        };
        let flushed = pending.iter().take_while(|(nth, _)| *nth < begun).count();
        for (_, deed) in pending.drain(..flushed) {
            if is_failed {
                tear(&mut content, deed, dice);
            } else {
                carry_out(&mut content, deed);
            }
        }
    }
    for (_, deed) in pending {
        tear(&mut content, deed, dice);
    }
    content
}

/// A sent message. If it was acknowledged, with the journal length at that time.
struct Sent {
    id: String,
    acknowledged: Option<u64>,
}

/// Sends messages one by one until one is refused.
async fn sends_until_refused(
    person: Person,
    journal: PathBuf,
    acknowledged: Arc<AtomicUsize>,
) -> Vec<Sent> {
    let mut sent = Vec::new();
    let stored = |id| {
        let at = fs::metadata(&journal).unwrap().len();
        sent.push(Sent { id, acknowledged: Some(at) });
        acknowledged.fetch_add(1, Ordering::SeqCst);
    };
    let text = |number: usize| "x".repeat(1 + number * 97 % 3000);
    let refused = person.sends_until_refused(text, stored).await;
    sent.push(Sent { id: refused, acknowledged: None });
    sent
}

/// A server's run on the disk until its flushes failed.
struct Life {
    address: std::net::SocketAddr,
    before: Vec<u8>,
    key_file: Vec<u8>,
    records: Vec<Record>,
    people: Vec<Person>,
    sent: Vec<Vec<Sent>>,
}

impl Life {
    async fn lived() -> Self {
        let (disk, place, address) = (Disk::with_journal(), Workplace::new(), free_address());
        let journal = place.path().join("journal");
        let server = place.starts_at(address, &["serve"], &[]).await;
        let mut people = Vec::new();
        for pair in 0..3 {
            let mut one = place.adds(&server, &format!("One-{pair}"));
            let mut other = place.adds(&server, &format!("Other-{pair}"));
            place.befriends(&mut one, &mut other);
            people.extend([one, other]);
        }
        server.stops(&place).await;
        let before = fs::read(place.path().join("chatserver.db")).unwrap();
        let key_file = fs::read(place.path().join("chatserver.db.key")).unwrap();

        let preload = [disk.preload(), ("DISK_JOURNAL", journal.to_str().unwrap())];
        let mut server = place.starts_at(address, &["serve"], &preload).await;
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let together = LocalSet::new();
        let sending = |person: &Person| {
            sends_until_refused(person.clone(), journal.clone(), Arc::clone(&acknowledged))
        };
        let senders: Vec<_> =
            people.iter().map(|person| together.spawn_local(sending(person))).collect();
        let sent = together.run_until(async {
            until("messages are acknowledged, and the database is flushed", async || {
                let is_flush = |record: &&Record| {
                    record.file == DATABASE && matches!(record.deed, Deed::Flush { .. })
                };
                acknowledged.load(Ordering::SeqCst) > MESSAGES
                    && read_journal(&journal).iter().filter(is_flush).count() >= FLUSHES
            })
            .await;
            fs::write(place.path().join("failing"), "").unwrap();
            join_all(senders).await
        });
        let sent = sent.await.into_iter().map(Result::unwrap).collect();
        assert_eq!(server.ended().await.code(), Some(1), "{}", place.log());
        let records = read_journal(&journal);
        let has_failed = |record: &Record| matches!(record.deed, Deed::FailedFlush { .. });
        assert!(records.iter().any(has_failed), "a flush of the database has failed");
        Self { address, before, key_file, records, people, sent }
    }

    /// Cuts the power after `cut` records, starts a server on the resulting disk, and looks for every message.
    async fn is_whole_after(&self, cut: usize, dice: &mut Dice, what: &str) {
        let records = &self.records[..cut];
        let place = Workplace::new();
        let path = |name| place.path().join(name);
        let database = after_cut(records, DATABASE, Some(self.before.clone()), dice).unwrap();
        fs::write(path("chatserver.db"), database).unwrap();
        // It was on disk before the first key was sealed.
        fs::write(path("chatserver.db.key"), &self.key_file).unwrap();
        fs::set_permissions(path("chatserver.db.key"), Permissions::from_mode(0o600)).unwrap();
        if let Some(log) = after_cut(records, LOG, None, dice) {
            fs::write(path("chatserver.db-wal"), log).unwrap();
        }
        let server = place.starts_at(self.address, &["serve"], &[]).await;
        let journal = records.last().map_or(0, |record| record.end);
        for (pair, sent) in self.people.chunks(2).zip(self.sent.chunks(2)) {
            let page = pair[0].downloads().await;
            assert_eq!(page.text, pair[1].downloads().await.text, "{what}: both agree");
            let stored = page.message_ids();
            let known: HashSet<_> = stored.iter().collect();
            assert_eq!(known.len(), stored.len(), "{what}: each message is there once");
            for sent in sent {
                let is_promised =
                    |sent: &&Sent| sent.acknowledged.is_some_and(|length| length <= journal);
                let promised = sent.iter().filter(is_promised).map(|sent| &sent.id);
                let lost: Vec<_> = promised.filter(|id| !known.contains(id)).collect();
                assert!(lost.is_empty(), "{what}: acknowledged, but not there: {lost:?}");
                let all: Vec<_> = sent.iter().map(|sent| &sent.id).collect();
                let mine: HashSet<_> = all.iter().copied().collect();
                let found: Vec<_> = stored.iter().filter(|id| mine.contains(id)).collect();
                assert_eq!(
                    found,
                    all[..found.len()],
                    "{what}: in the sender's order, without a gap"
                );
            }
            pair[0].sends("after the cut").await;
        }
        drop(server);
        let mut database = place.opens_database().await;
        assert_eq!(database.text("PRAGMA integrity_check").await, "ok", "{what}");
        database.closes().await;
    }
}

#[tokio::test]
async fn a_power_cut_at_any_moment_loses_no_acknowledged_message() {
    let seed = setting("CHATSERVER_SEED", u64::from(std::process::id()));
    let life = Life::lived().await;
    for image in 0..setting("CHATSERVER_IMAGES", IMAGES) {
        let mut dice = Dice(seed.wrapping_add(image));
        // The first image is cut at the very end, after flushes have failed.
        let all = life.records.len() as u64;
        let cut = if image == 0 { all } else { dice.rolls(all + 1) };
        let what =
            format!("CHATSERVER_SEED={seed}, image {image}, cut behind record {cut} of {all}");
        life.is_whole_after(usize::try_from(cut).unwrap(), &mut dice, &what).await;
    }
}
