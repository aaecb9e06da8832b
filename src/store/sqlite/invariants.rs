//! Invariants of the rows, checked after an unclean shutdown and in a backup.
//!
//! SQLite replays a write-ahead log into whatever database stands beside it. If a backup is copied over the file of a
//! killed server, that log belongs to the replaced file. The two become a mixture in which rows name rows that do not
//! exist.
//!
//! After an unclean shutdown, all checks together may take one second. They begin with the likeliest damage:
//! the conversations used last.

use std::time::{Duration, Instant};

use sqlx::{Row as _, SqliteConnection};

use super::codes::{self, is_of_damage};

/// Time limit of all checks together. The server is not ready before they end.
const AT_MOST: Duration = Duration::from_secs(1);

/// Virtual machine instructions of SQLite between two looks at the clock: a few microseconds.
const STEPS: i32 = 1000;

/// Each query returns the contradiction in its first column, or no row (or `ok`) if the invariant holds.
const CHECKS: [&str; 4] = [ENDS, CHANGES, COUNTS, PAGES];

/// The checks of a schema in which nothing but a clear removed messages.
const OLDER_CHECKS: [&str; 4] = [OLDER_ENDS, CHANGES, OLDER_COUNTS, PAGES];

/// SQL for each conversation, the one used last first. The arguments are SQL: the row keys of its oldest message and report,
/// or less.
macro_rules! conversations {
    ($first_message:literal, $first_report:literal) => {
        concat!(
            "(SELECT id, generation << 32 AS base, next_seq, last_message_id, next_report_seq, last_report_id,
                     max(",
            $first_message,
            ", (generation << 32) + 1) AS first_message, max(",
            $first_report,
            ", (generation << 32) + 1) AS first_report
              FROM conversations ORDER BY last_access DESC)"
        )
    };
}

/// SQL for [`ENDS`]. The argument is [`conversations`].
macro_rules! ends {
    ($conversations:expr) => {
        concat!(
            "
    SELECT concat('the newest messages or reports of conversation ', c.id, ' are missing')
    FROM ",
            $conversations,
            " AS c
    WHERE CASE WHEN c.base + c.next_seq = c.first_message THEN ''
               ELSE (SELECT m.id FROM messages m WHERE m.place = c.base + c.next_seq - 1) END
            IS DISTINCT FROM c.last_message_id
        OR (SELECT count(*) FROM messages m WHERE m.place > c.base + max(c.next_seq - 33, 0)
                AND m.place < c.base + c.next_seq) <> min(c.base + c.next_seq - c.first_message, 32)
        OR EXISTS (SELECT 1 FROM messages m
                   WHERE m.place >= c.base + c.next_seq AND m.place < c.base + (CAST(1 AS BIGINT) << 32))
        OR CASE WHEN c.base + c.next_report_seq = c.first_report THEN ''
                ELSE (SELECT replace(r.id, '-', '') FROM reports r
                      WHERE r.place = c.base + c.next_report_seq - 1) END
            IS DISTINCT FROM c.last_report_id
        OR (SELECT count(*) FROM reports r LEFT JOIN messages m ON m.place = r.message_place
            WHERE r.place > c.base + max(c.next_report_seq - 33, 0)
                AND r.place < c.base + c.next_report_seq
                AND (m.place IS NOT NULL OR r.message_place < c.first_message))
            <> min(c.base + c.next_report_seq - c.first_report, 32)
        OR EXISTS (SELECT 1 FROM reports r
                   WHERE r.place >= c.base + c.next_report_seq AND r.place < c.base + (CAST(1 AS BIGINT) << 32))
    LIMIT 1"
        )
    };
}

/// SQL for [`COUNTS`]. The argument is [`conversations`].
macro_rules! counts {
    ($conversations:expr) => {
        concat!(
            "
    SELECT concat('messages are missing in the middle of conversation ', c.id)
    FROM ",
            $conversations,
            " AS c
    WHERE (SELECT count(*) FROM messages m WHERE m.place > c.base AND m.place < c.base + c.next_seq)
        <> c.base + c.next_seq - c.first_message
    LIMIT 1"
        )
    };
}

/// The newest message and report of a conversation are those that its row names. The last 32 of each have no gap, those
/// reports are about messages that exist or were removed as old, and nothing stands behind the newest.
const ENDS: &str = ends!(conversations!("first_message", "first_report"));

const OLDER_ENDS: &str = ends!(conversations!("0", "0"));

/// No change has a number above its user's counter.
const CHANGES: &str = "
    SELECT concat('user number ', c.user_number, ' has a change beyond the newest change number')
    FROM changes c LEFT JOIN change_numbers n ON n.user_number = c.user_number
    WHERE c.number > coalesce(n.newest, 0) LIMIT 1";

/// A conversation has all its messages, from the oldest that was not removed on.
const COUNTS: &str = counts!(conversations!("first_message", "first_report"));

const OLDER_COUNTS: &str = counts!(conversations!("0", "0"));

/// SQLite's own check of the structure of all pages, within its share of the time. It returns `ok` if all is well.
const PAGES: &str = "PRAGMA quick_check(1)";

/// Returns the first contradiction found within one second, if any. In an older schema, checks that read a missing
/// table or column are skipped.
pub(crate) async fn contradiction(
    connection: &mut SqliteConnection,
    is_older: bool,
) -> Result<Option<String>, sqlx::Error> {
    let checks = checks(connection, is_older).await;
    first_finding(connection, checks, AT_MOST, is_older).await
}

/// Returns the first contradiction between rows, without a time limit. The structure of the pages must have been
/// checked before.
pub(crate) async fn contradiction_of_rows(
    connection: &mut SqliteConnection,
    is_older: bool,
) -> Result<Option<String>, sqlx::Error> {
    for check in checks(connection, is_older).await {
        if *check != PAGES
            && let Some(found) = finding(connection, check, is_older).await?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Returns the checks for the schema of this database.
async fn checks(connection: &mut SqliteConnection, is_older: bool) -> &'static [&'static str] {
    const HAS_FIRST: &str =
        "SELECT count(*) FROM pragma_table_info('conversations') WHERE name = 'first_message'";
    let has_first = sqlx::query_scalar::<_, i64>(HAS_FIRST).fetch_one(connection).await;
    // Where even this can't be read, the checks tell why.
    if is_older && matches!(has_first, Ok(0)) { &OLDER_CHECKS } else { &CHECKS }
}

/// Gives each check an equal share of the remaining time. A check that needs more is interrupted, and the next one
/// runs.
async fn first_finding(
    connection: &mut SqliteConnection,
    checks: &[&'static str],
    at_most: Duration,
    is_older: bool,
) -> Result<Option<String>, sqlx::Error> {
    let end = Instant::now() + at_most;
    for (&check, left) in checks.iter().zip((1..=checks.len()).rev()) {
        let now = Instant::now();
        let share = end.saturating_duration_since(now) / u32::try_from(left).unwrap_or(1);
        connection
            .lock_handle()
            .await?
            .set_progress_handler(STEPS, move || Instant::now() < now + share);
        let found = finding(connection, check, is_older).await;
        connection.lock_handle().await?.remove_progress_handler();
        if let Some(found) = found? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Runs one check. Returns `None` if it found nothing, was interrupted, or does not fit an older schema.
async fn finding(
    connection: &mut SqliteConnection,
    check: &'static str,
    is_older: bool,
) -> Result<Option<String>, sqlx::Error> {
    match sqlx::query(check).fetch_optional(connection).await {
        Ok(Some(row)) => {
            let finding: String = row.try_get(0)?;
            Ok((finding != "ok").then_some(finding))
        }
        Ok(None) => Ok(None),
        Err(error) if is_of_damage(&error) => Ok(Some(error.to_string())),
        Err(error) if is_interrupt(&error) || is_older && is_of_statement(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the statement is invalid for this schema, such as one that names a missing table or column.
fn is_of_statement(error: &sqlx::Error) -> bool {
    const SQLITE_ERROR: i32 = 1;
    codes::code(error) == Some(SQLITE_ERROR)
}

fn is_interrupt(error: &sqlx::Error) -> bool {
    const SQLITE_INTERRUPT: i32 = 9;
    codes::code(error).is_some_and(|code| code & 0xff == SQLITE_INTERRUPT)
}

#[cfg(test)]
mod tests {
    use sqlx::Connection as _;

    use super::*;

    #[tokio::test]
    async fn a_check_that_takes_too_long_leaves_time_for_the_next_ones() {
        const ENDLESS: &str = "
            WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers)
            SELECT 'never' FROM numbers WHERE n < 0";
        const FINDS: &str = "SELECT 'a hole'";
        let mut on = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let at_most = Duration::from_millis(200);
        let found = first_finding(&mut on, &[ENDLESS, FINDS], at_most, false).await.unwrap();
        assert_eq!(found.as_deref(), Some("a hole"));
        let found = first_finding(&mut on, &[ENDLESS, ENDLESS], at_most, false).await.unwrap();
        assert_eq!(found, None);
    }

    #[tokio::test]
    async fn a_check_that_does_not_match_the_schema_is_skipped_only_for_an_older_schema() {
        let mut on = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        assert_eq!(contradiction(&mut on, true).await.unwrap(), None);
        assert!(contradiction(&mut on, false).await.is_err());
    }
}
