//! The table that finds a message by its ID.
//!
//! Message IDs are random texts. The table holds 8-byte hashes instead, and those of a generation stand together. An
//! index on the IDs themselves dirties about one more page per message: with 300,000 messages, `send` had 2,700/s
//! instead of 3,700, and the database 1.78 times its data instead of 1.70. A hash gives the row key, and the message
//! stored there confirms the ID.

use sha2::{Digest as _, Sha256};

use super::many_rows::Column::Integer;
use super::many_rows::{ManyRows, ROWS, Values};
use super::write_tx::WriteTx;

/// SQL for the row key of the message with a given ID, or NULL. The arguments are SQL: the generation, the ID and the
/// ID's [`hash`].
macro_rules! row_key_of_id {
    ($generation:literal, $id:literal, $hash:literal) => {
        concat!(
            "(SELECT m.place FROM message_ids listed
              CROSS JOIN messages m
              WHERE m.place = (listed.generation << 32) + listed.seq AND m.id = ",
            $id,
            " AND listed.generation = ",
            $generation,
            " AND listed.hash = ",
            $hash,
            ")"
        )
    };
}

use crate::store::listing::listed;
pub(crate) use row_key_of_id;

listed!(LIST);

/// `OR FAIL` for the reason given at `INSERT` in `messages.rs`.
pub(super) static LIST: ManyRows = ManyRows::pair(
    "INSERT OR FAIL INTO message_ids (generation, hash, seq)
     SELECT * FROM ({rows}) AS listed WHERE column1 IS NOT NULL",
    "INSERT INTO message_ids (generation, hash, seq) {rows}",
    &[Integer, Integer, Integer],
);

/// Returns the first 64 bits of an ID's SHA-256, so that a client can't construct many IDs with the same hash. A
/// collision costs one extra lookup.
pub(crate) fn hash(id: &str) -> i64 {
    let hash: [u8; 32] = Sha256::digest(id).into();
    hash.iter().take(8).fold(0, |bits, byte| bits << 8 | i64::from(*byte))
}

/// A row of the table: generation, hash, and sequence number of the message.
pub(crate) type Listed = (i64, i64, i64);

/// Inserts messages into the table.
pub(crate) fn list(tx: &mut WriteTx, mut listed: Vec<Listed>) {
    // In table order, so that each page is visited once.
    listed.sort_unstable();
    for listed in listed.chunks(ROWS) {
        tx.defer(&LIST, listed, bind);
    }
}

pub(super) fn bind((generation, hash, seq): &Listed, values: &mut Values<'_>) {
    values.add(*generation).add(*hash).add(*seq);
}
