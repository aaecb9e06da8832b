//! Which IDs the messages of a conversation have, and where each message is.
//!
//! IDs come in no order. A table of them has a page to be changed for nearly each, so it holds 8 bytes of a hash in their
//! place and is written for whole runs of messages; the hashes of the youngest, up to 31, stand in the row of the
//! conversation, which changes with each message anyway. A hash says where to look, and the message there what its ID is.

use std::ops::Range;

use sha2::{Digest as _, Sha256};
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::Error;
use super::row_keys::seq;
use super::values::{ManyRows, ROWS, Values};
use super::write_tx::WriteTx;
use crate::domain::MessageId;

/// The number of messages in a run, as text of SQL and as a number.
macro_rules! run {
    () => {
        32
    };
}

/// The number of messages in a run: the first one begins with the first message of a generation.
const RUN: usize = run!();

/// SQL for the place of the message with an ID, or NULL: of a generation and its `next_seq`, and of the ID and its
/// [`hash`], all of these SQL as well.
macro_rules! place_of_id {
    ($generation:literal, $next_seq:literal, $id:literal, $hash:literal) => {
        concat!(
            "coalesce(",
            listed_place!($generation, $id, $hash),
            ", (SELECT young.place FROM messages young
                WHERE young.place > (",
            $generation,
            " << 32) + (",
            $next_seq,
            " - 1) / ",
            run!(),
            " * ",
            run!(),
            " AND young.place < (",
            $generation,
            " << 32) + ",
            $next_seq,
            " AND young.id = ",
            $id,
            "))"
        )
    };
}

/// The same, of messages whose runs are whole.
macro_rules! listed_place {
    ($generation:literal, $id:literal, $hash:literal) => {
        concat!(
            "(SELECT m.place FROM message_ids listed
              CROSS JOIN messages m ON m.place = (listed.generation << 32) + listed.seq AND m.id = ",
            $id,
            " WHERE listed.generation = ",
            $generation,
            " AND listed.hash = ",
            $hash,
            ")"
        )
    };
}

pub(super) use {listed_place, place_of_id, run};

/// `OR FAIL` as for the messages themselves.
static LIST: ManyRows = ManyRows::new(
    "INSERT OR FAIL INTO message_ids (generation, hash, seq)
     SELECT * FROM (VALUES {rows}) AS listed WHERE column1 IS NOT NULL",
    3,
);

/// Every message of the present generations, from a place on.
const ALL: &str = "
    SELECT m.place, m.id FROM messages m JOIN conversations c ON c.generation = m.place >> 32
    WHERE m.place > $1 ORDER BY m.place LIMIT $2";

const KEEP_YOUNG: &str = "UPDATE conversations SET young = $2 WHERE generation = $1";

/// What stands for an ID: 64 bits of its SHA-256, so that nobody can choose many IDs with the same. Who finds two has a
/// message more looked at.
pub(super) fn hash(id: &str) -> i64 {
    let hash: [u8; 32] = Sha256::digest(id).into();
    hash.iter().take(8).fold(0, |bits, byte| bits << 8 | i64::from(*byte))
}

/// The IDs of these messages and their hashes, as a JSON object: each once.
pub(super) fn hashes_of(messages: &[MessageId]) -> String {
    let hashes = messages.iter().map(|id| (id.as_str().to_owned(), hash(id.as_str()).into()));
    serde_json::Value::Object(hashes.collect()).to_string()
}

/// A hash in the table: of the generation, the hash, and the sequence number of the message.
pub(super) type Listed = (i64, i64, i64);

/// The hashes of the youngest messages of a generation, whose run is not whole.
#[derive(Clone, Default)]
pub(super) struct RecentIds(Vec<i64>);

impl RecentIds {
    /// Reads what the database has written as `hex(recent)` of a generation and its `next_seq`. An older version that
    /// still ran when the database was migrated has begun generations without emptying it: those are not of this one.
    pub(super) fn read(digits: &str, next_seq: i64) -> Result<Self, Error> {
        let not_hashes = || Error::not_as_stored("hashes of IDs");
        let bytes = hex::decode(digits).map_err(|_| not_hashes())?;
        let count = usize::try_from(next_seq - 1).map_err(|_| not_hashes())? % RUN;
        let first = bytes.len().checked_sub(count * 8).ok_or_else(not_hashes)?;
        let (hashes, _) = bytes[first..].as_chunks();
        Ok(Self(hashes.iter().map(|hash| i64::from_be_bytes(*hash)).collect()))
    }

    /// What the column `recent` holds.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|hash| hash.to_be_bytes()).collect()
    }

    /// Whether one of them may have this ID.
    pub(super) fn may_have(&self, hash: i64) -> bool {
        self.0.contains(&hash)
    }

    /// Their places, where `next` is the one behind them.
    pub(super) fn row_keys(&self, next: i64) -> Range<i64> {
        next - i64::try_from(self.0.len()).unwrap_or(i64::MAX)..next
    }

    /// Takes in the next message, and gives out a run that it makes whole.
    pub(super) fn push(&mut self, place: i64, hash: i64) -> impl Iterator<Item = Listed> {
        self.0.push(hash);
        let is_whole = self.0.len() >= RUN;
        let whole = if is_whole { std::mem::take(&mut self.0) } else { Vec::new() };
        let first = seq(place + 1) - i64::try_from(whole.len()).unwrap_or(i64::MAX);
        (first..).zip(whole).map(move |(seq, hash)| (place >> 32, hash, seq))
    }
}

/// Lists the messages of runs that are whole.
pub(super) fn list(tx: &mut WriteTx, mut listed: Vec<Listed>) {
    // In the order of the table, so that each page is found once.
    listed.sort_unstable();
    for listed in listed.chunks(ROWS) {
        tx.defer(&LIST, listed, bind);
    }
}

fn bind((generation, hash, seq): &Listed, values: &mut Values<'_>) {
    values.add(*generation).add(*hash).add(*seq);
}

/// Lists the whole runs of all present generations and keeps the others young, in a database that has no hashes yet: SQLite
/// can't compute them.
pub(super) async fn list_all(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    const STEP: i64 = 4096;
    let mut last = 0;
    let mut recent = RecentIds::default();
    loop {
        let messages =
            sqlx::query_as(ALL).bind(last).bind(STEP).fetch_all(&mut *connection).await?;
        let messages: Vec<(i64, String)> = messages;
        let mut listed = Vec::new();
        for (place, id) in &messages {
            if place >> 32 != last >> 32 {
                keep_young(connection, last, &std::mem::take(&mut recent)).await?;
                last = place >> 32 << 32;
            }
            if *place != last + 1 {
                let missing = format!("the message at place {} is missing", last + 1);
                return Err(sqlx::Error::Protocol(missing));
            }
            listed.extend(recent.push(*place, hash(id)));
            last = *place;
        }
        listed.sort_unstable();
        for listed in listed.chunks(ROWS) {
            let mut arguments = SqliteArguments::default();
            let text = LIST.bind(listed, &mut arguments, bind);
            sqlx::query_with(AssertSqlSafe(text), arguments).execute(&mut *connection).await?;
        }
        if messages.is_empty() {
            return keep_young(connection, last, &recent).await;
        }
    }
}

async fn keep_young(
    connection: &mut SqliteConnection,
    last: i64,
    recent: &RecentIds,
) -> Result<(), sqlx::Error> {
    let keep = sqlx::query(KEEP_YOUNG).bind(last >> 32).bind(recent.bytes());
    keep.execute(connection).await.map(drop)
}
