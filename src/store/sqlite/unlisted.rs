//! Lists messages in `message_ids` after a migration, which can't do it: SQLite has no SHA-256.

use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::store::many_rows::ROWS;
use crate::store::message_ids::{LIST, Listed, bind, hash};
use crate::store::row_keys::seq;

/// Selects messages behind a row key that the table lacks: those of current generations, or only those behind the last
/// whole 32 of a generation.
const UNLISTED: &str = "
    SELECT m.place, m.id FROM conversations c CROSS JOIN messages m
    WHERE c.generation >= $1 >> 32
        AND m.place > max($1, (c.generation << 32) + CASE WHEN $2 THEN (c.next_seq - 1) / 32 * 32 ELSE 0 END)
        AND m.place < (c.generation + 1) << 32
    ORDER BY c.generation, m.place LIMIT $3";

/// Lists the messages of current generations that the table lacks, whose hashes SQLite can't compute.
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
            let text = LIST.bind_sqlite(listed, &mut arguments, bind);
            sqlx::query_with(AssertSqlSafe(text), arguments).execute(&mut *connection).await?;
        }
    }
}
