//! Index from message IDs to row keys.
//!
//! Message IDs are random, so an index on them dirties about one page per insert. The table holds 8-byte hashes
//! instead, and is written once per run of 32 messages. The hashes of the most recent messages, up to 31, are kept in
//! the conversation's row, which every message updates anyway. A hash gives the row key, and the message stored there
//! confirms the ID.

use std::ops::Range;

use sha2::{Digest as _, Sha256};
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::row_keys::seq;
use super::write_tx::WriteTx;
use crate::domain::MessageId;
use crate::store::Error;
use crate::store::many_rows::{ManyRows, ROWS, Values};

/// Number of messages in a run. A macro, so that it works in SQL text and as a number.
macro_rules! run {
    () => {
        32
    };
}

/// The first run starts at the first message of a generation.
const RUN: usize = run!();

/// SQL for the row key of the message with a given ID, or NULL. The arguments are SQL: the generation, its `next_seq`,
/// the ID and the ID's [`hash`].
macro_rules! row_key_of_id {
    ($generation:literal, $next_seq:literal, $id:literal, $hash:literal) => {
        concat!(
            "coalesce(",
            listed_row_key!($generation, $id, $hash),
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

/// SQL like `row_key_of_id`, but it finds only messages in complete runs.
macro_rules! listed_row_key {
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

pub(crate) use {listed_row_key, row_key_of_id, run};

/// `OR FAIL` for the reason given at `INSERT` in `messages.rs`.
static LIST: ManyRows = ManyRows::new(
    "INSERT OR FAIL INTO message_ids (generation, hash, seq)
     SELECT * FROM (VALUES {rows}) AS listed WHERE column1 IS NOT NULL",
    3,
);

/// Selects the messages of all current generations behind a row key.
const ALL: &str = "
    SELECT m.place, m.id FROM messages m JOIN conversations c ON c.generation = m.place >> 32
    WHERE m.place > $1 ORDER BY m.place LIMIT $2";

const KEEP_YOUNG: &str = "UPDATE conversations SET young = $2 WHERE generation = $1";

/// Returns the first 64 bits of an ID's SHA-256, so that a client can't construct many IDs with the same hash. A
/// collision costs one extra lookup.
pub(crate) fn hash(id: &str) -> i64 {
    let hash: [u8; 32] = Sha256::digest(id).into();
    hash.iter().take(8).fold(0, |bits, byte| bits << 8 | i64::from(*byte))
}

/// Returns a JSON object that maps each ID to its hash, without duplicates.
pub(crate) fn hashes_of(messages: &[MessageId]) -> String {
    let hashes = messages.iter().map(|id| (id.as_str().to_owned(), hash(id.as_str()).into()));
    serde_json::Value::Object(hashes.collect()).to_string()
}

/// A row of the hash table: generation, hash, and sequence number of the message.
pub(crate) type Listed = (i64, i64, i64);

/// Hashes of a generation's most recent messages, whose run is not complete.
#[derive(Clone, Default)]
pub(crate) struct RecentIds(Vec<i64>);

impl RecentIds {
    /// Parses `hex(young)` of a generation with this `next_seq`, and keeps only the last `(next_seq - 1) % 32` hashes.
    /// An older version that still ran during the migration began generations without emptying the column, so it may
    /// hold hashes of an earlier generation.
    pub(crate) fn read(digits: &str, next_seq: i64) -> Result<Self, Error> {
        let not_hashes = || Error::not_as_stored("hashes of IDs");
        let bytes = hex::decode(digits).map_err(|_| not_hashes())?;
        let count = usize::try_from(next_seq - 1).map_err(|_| not_hashes())? % RUN;
        let first = bytes.len().checked_sub(count * 8).ok_or_else(not_hashes)?;
        let (hashes, _) = bytes[first..].as_chunks();
        Ok(Self(hashes.iter().map(|hash| i64::from_be_bytes(*hash)).collect()))
    }

    /// Encodes the hashes for the column `young`, 8 bytes each.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|hash| hash.to_be_bytes()).collect()
    }

    pub(crate) fn may_have(&self, hash: i64) -> bool {
        self.0.contains(&hash)
    }

    /// Returns the row keys of the recent messages; `next` is the row key of the next message.
    pub(crate) fn row_keys(&self, next: i64) -> Range<i64> {
        next - i64::try_from(self.0.len()).unwrap_or(i64::MAX)..next
    }

    /// Adds the next message. Returns the rows of the run that it completes, or nothing.
    pub(crate) fn push(&mut self, row_key: i64, hash: i64) -> impl Iterator<Item = Listed> {
        self.0.push(hash);
        let is_whole = self.0.len() >= RUN;
        let whole = if is_whole { std::mem::take(&mut self.0) } else { Vec::new() };
        let first = seq(row_key + 1) - i64::try_from(whole.len()).unwrap_or(i64::MAX);
        (first..).zip(whole).map(move |(seq, hash)| (row_key >> 32, hash, seq))
    }
}

/// Inserts the messages of complete runs into the hash table.
pub(crate) fn list(tx: &mut WriteTx, mut listed: Vec<Listed>) {
    // In table order, so that each page is visited once.
    listed.sort_unstable();
    for listed in listed.chunks(ROWS) {
        tx.defer(&LIST, listed, bind);
    }
}

fn bind((generation, hash, seq): &Listed, values: &mut Values<'_>) {
    values.add(*generation).add(*hash).add(*seq);
}

/// Indexes all current generations of a database that has no hashes yet, because SQLite can't compute them. Complete
/// runs go into the table, the rest into the column `young`.
pub(crate) async fn list_all(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    const STEP: i64 = 4096;
    let mut last = 0;
    let mut recent = RecentIds::default();
    loop {
        let messages =
            sqlx::query_as(ALL).bind(last).bind(STEP).fetch_all(&mut *connection).await?;
        let messages: Vec<(i64, String)> = messages;
        let mut listed = Vec::new();
        for (row_key, id) in &messages {
            if row_key >> 32 != last >> 32 {
                keep_young(connection, last, &std::mem::take(&mut recent)).await?;
                last = row_key >> 32 << 32;
            }
            if *row_key != last + 1 {
                let missing = format!("the message with row key {} is missing", last + 1);
                return Err(sqlx::Error::Protocol(missing));
            }
            listed.extend(recent.push(*row_key, hash(id)));
            last = *row_key;
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
