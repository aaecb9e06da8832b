//! The table that finds a message by its ID.
//!
//! Message IDs are random texts. The table holds 8-byte hashes instead, and those of a generation stand together. An
//! index on the IDs themselves dirties about one more page per message: with 300,000 messages, `send` had 2,700/s
//! instead of 3,700, and the database 1.78 times its data instead of 1.70. A hash gives the row key, and the message
//! stored there confirms the ID.

use sha2::{Digest as _, Sha256};
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::row_keys::seq;
use crate::store::many_rows::Column::Integer;
use crate::store::many_rows::{ManyRows, ROWS, Values};
use crate::store::write_tx::WriteTx;

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
static LIST: ManyRows = ManyRows::new(
    "INSERT OR FAIL INTO message_ids (generation, hash, seq)
     SELECT * FROM ({rows}) AS listed WHERE column1 IS NOT NULL",
    &[Integer, Integer, Integer],
);

/// Selects messages behind a row key that the table lacks: those of current generations, or only those behind the last
/// whole 32 of a generation.
const UNLISTED: &str = "
    SELECT m.place, m.id FROM conversations c CROSS JOIN messages m
    WHERE c.generation >= $1 >> 32
        AND m.place > max($1, (c.generation << 32) + CASE WHEN $2 THEN (c.next_seq - 1) / 32 * 32 ELSE 0 END)
        AND m.place < (c.generation + 1) << 32
    ORDER BY c.generation, m.place LIMIT $3";

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

fn bind((generation, hash, seq): &Listed, values: &mut Values<'_>) {
    values.add(*generation).add(*hash).add(*seq);
}

/// Lists the messages of current generations that the table lacks, because SQLite can't compute their hashes.
/// `has_whole_runs` says that the table has all messages up to the last whole 32 of a generation.
pub(crate) async fn list_missing(
    connection: &mut SqliteConnection,
    has_whole_runs: bool,
) -> Result<(), sqlx::Error> {
    const STEP: i64 = 4096;
    let mut last = 0;
    loop {
        let unlisted = sqlx::query_as(UNLISTED).bind(last).bind(has_whole_runs).bind(STEP);
        let unlisted: Vec<(i64, String)> = unlisted.fetch_all(&mut *connection).await?;
        let Some((newest, _)) = unlisted.last() else { return Ok(()) };
        last = *newest;
        let listed = unlisted.iter().map(|(row_key, id)| (row_key >> 32, hash(id), seq(*row_key)));
        let mut listed: Vec<Listed> = listed.collect();
        listed.sort_unstable();
        for listed in listed.chunks(ROWS) {
            let mut arguments = SqliteArguments::default();
            let text = LIST.bind(listed, &mut arguments, bind);
            sqlx::query_with(AssertSqlSafe(text), arguments).execute(&mut *connection).await?;
        }
    }
}
