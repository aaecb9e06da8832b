//! The SQL of pages: [`PAGE`] makes a light page or the plan of a large one, [`MESSAGES`] and [`REPORTS`] make the
//! pieces.

use super::PARAMETERS;
use crate::store::listing::listed;
use crate::store::many_rows::ManyRows;
use crate::store::message_ids::row_key_of_id;
use crate::store::objects::{
    damaged_message_object, damaged_report_object, extended_damaged_message_object,
    extended_message_object, message_object, message_type, report_object,
};
use crate::store::sql::Sql;

listed!(
    PAGE,
    EXTENDED_PAGE,
    MESSAGES,
    REPORTS,
    DAMAGED_MESSAGES,
    DAMAGED_REPORTS,
    EXTENDED_MESSAGES,
    EXTENDED_DAMAGED_MESSAGES,
    REPORTS_ABOUT,
    DAMAGED_REPORTS_ABOUT
);

/// Maximum bytes of a message object without its data. A test compares it with what the encoder writes.
macro_rules! max_message_overhead {
    () => {
        288
    };
}

/// Maximum bytes of an extended message object without its data, tested in the same way.
macro_rules! max_extended_overhead {
    () => {
        332
    };
}

/// Maximum bytes of a report object, tested in the same way.
macro_rules! max_report_bytes {
    () => {
        219
    };
}

/// SQL for the maximum bytes of the reports about one message that a page counts with the message: backward, of
/// `delivered` and `viewed` by its one reader.
macro_rules! max_reports_about {
    () => {
        concat!("CASE WHEN is_forward THEN 0 ELSE 2 * ", max_report_bytes!(), " END")
    };
}

/// SQL for the bytes of message object `m`.
macro_rules! message_bytes {
    () => {
        concat!(
            r#"octet_length('{"ID":"","Type":,"Created":"","ValidUntil":"","Data":""}')
                          + octet_length(m.id) + octet_length("#,
            message_type!(),
            r#") + octet_length('yyyy-MM-dd HH:mm:ss') + octet_length(m.valid_until)
                          + octet_length(m.data)"#
        )
    };
}

/// SQL for the bytes of extended message object `m` and, backward, of the reports about it.
macro_rules! extended_message_bytes {
    () => {
        concat!(
            message_bytes!(),
            r#" + octet_length(',"UserID":"0123456789abcdef0123456789abcdef"') + "#,
            max_reports_about!()
        )
    };
}

/// SQL for a binary search over the row keys of a generation. It yields the sequence number of the first entry of a
/// table at or after a date.
///
/// It begins at `$first`, the row key of the oldest entry. The column holds the latest date so far, so it never falls. The first entry whose own date is at or after the given
/// one is also the first whose latest date so far is.
macro_rules! first_since {
    ($table:literal, $column:literal, $date:literal, $first:literal, $next:literal) => {
        concat!(
            "(WITH RECURSIVE search (low, high) AS (
                  SELECT ",
            $first,
            " - base, ",
            $next,
            " UNION ALL
                  SELECT CASE WHEN (SELECT ",
            $column,
            " FROM ",
            $table,
            " WHERE place = base + (low + high) / 2) < ",
            $date,
            "      THEN (low + high) / 2 + 1 ELSE low END,
                         CASE WHEN (SELECT ",
            $column,
            " FROM ",
            $table,
            " WHERE place = base + (low + high) / 2) < ",
            $date,
            "      THEN high ELSE (low + high) / 2 END
                  FROM search WHERE low < high
              )
              SELECT low FROM search WHERE low >= high)"
        )
    };
}

/// SQL for the id of the sender of message `m`, one of two participants. NULL where the stored number is damaged.
macro_rules! sender {
    ($reader_number:literal, $reader:literal, $partner_number:literal, $partner:literal) => {
        concat!(
            "CASE m.sender_number WHEN ",
            $reader_number,
            " THEN ",
            $reader,
            " WHEN ",
            $partner_number,
            " THEN ",
            $partner,
            " END"
        )
    };
}

/// SQL for the row key of message `m` where it is still to be reported as delivered to a reader, else NULL.
macro_rules! undelivered {
    ($reader:literal, $reader_number:literal, $delivered_to:literal, $may_report:literal) => {
        concat!(
            "CASE WHEN m.sender_number <> ",
            $reader_number,
            " AND m.place > ",
            $delivered_to,
            " AND ",
            $may_report,
            " AND NOT EXISTS (
                      SELECT 1 FROM reports r
                      WHERE r.message_place = m.place AND r.user_id = ",
            $reader,
            " AND r.type = 'delivered')
                  THEN m.place END"
        )
    };
}

/// SQL for the report objects of a page, from the report cursor on. A report may outlive its message, and has the ID then.
macro_rules! reports_at_cursor {
    () => {
        concat!(
            "SELECT string_agg(object, ',') FROM (
                SELECT concat(",
            report_object!(),
            ") AS object
                FROM reports r LEFT JOIN messages about ON about.place = r.message_place
                WHERE r.place BETWEEN CASE WHEN is_forward THEN report_near
                                           ELSE report_near - report_kept + 1 END
                        AND CASE WHEN is_forward THEN report_near + report_kept - 1 ELSE report_near END
                    AND coalesce(about.id, r.message_id) IS NOT NULL
                ORDER BY r.place) AS objects"
        )
    };
}

/// SQL for the report objects of the messages between two row keys, in the order of the reports.
macro_rules! reports_about {
    ($object:expr, $first:expr, $last:expr) => {
        concat!(
            "SELECT coalesce(string_agg(object, ','), '') FROM (
                SELECT concat(",
            $object,
            ") AS object FROM messages about CROSS JOIN reports r
                WHERE about.place BETWEEN ",
            $first,
            " AND ",
            $last,
            " AND r.message_place = about.place ORDER BY r.place) AS objects"
        )
    };
}

/// A page that begins at its cursors, and goes forward where `is_forward` is true, else backward. The sequence numbers
/// of a generation have no gaps, so a page is everything between two row keys.
///
/// `head` is the conversation, if it is the caller's. It has the row keys that the cursors name, and whether every
/// possible page fits into the bytes ([`max_message_overhead`], [`max_report_bytes`]).
///
/// `start` has the entries that the page begins at.
///
/// `kept` has the number of messages from there on, and how many of them the page takes. Where not every page fits, it
/// always takes the nearest one. Forward from a known message, it takes the next one, too.
///
/// `ends` has the same for reports. They get the bytes that messages leave (`weighed`). Where no message gets the
/// client further, one report does.
///
/// `bound` is the page's maximum size in bytes. Where it exceeds `light_bytes`, the messages are weighed, unless there
/// are so many that weighing takes long (`is_heavy`). Where `weight` also exceeds `light_bytes`, the text is the weight
/// alone, and the page is not made. Where `light_bytes` is negative, the text is the [`Plan`](super::pieces) of the
/// page.
///
/// The text has three parts with a bar between them; only the first may contain bars itself. They are the messages, the
/// reports, and a list separated by spaces. The list has whether there is more, the instance, its generation, whether
/// the cursors' IDs are known, and row keys of messages of others: those not yet reported as delivered to the caller.
///
/// An extended page names senders. Backward it has the reports about its messages, whatever the report cursor is, so
/// `report_there` is 0 and each message is weighed with its reports.
///
/// Each step is one row that a coroutine hands on. That takes a `LIMIT` in the step and a `WHERE` in the next one.
/// Otherwise SQLite copies the expressions of a step to each place of use. `MATERIALIZED` makes a table for each step,
/// which is a tenth of the cost of a page.
///
/// Entries are sorted before they are joined, because `string_agg` with an order of its own copies all of them. No
/// `LIMIT` is bound, because SQLite would plan the statement anew each time.
macro_rules! page {
    (
        partner: $partner:expr,
        overhead: $overhead:expr,
        message_bytes: $message_bytes:expr,
        reports_there: $reports_there:expr,
        plan: $plan:expr,
        reports: $reports:expr,
        message_object: $message_object:expr
    ) => {
        concat!(
    "
WITH
asked AS (
    SELECT ? AS conversation, ? AS asker, ? AS cursor_id, ? AS cursor_hash, ? AS cursor_date, ? AS entries,
           ? AS most_bytes, ? AS report_seq, ? AS cursor_report, ? AS report_date, ? AS is_forward, ? AS light_bytes,
           ? AS counts_rest
    LIMIT 1
),
head AS (
    SELECT asked.*, c.instance, c.generation, c.generation << 32 AS base, c.next_seq, c.next_report_seq,
           max(c.first_message, (c.generation << 32) + 1) AS first,
           max(c.first_report, (c.generation << 32) + 1) AS first_report, c.longest_data, p.standing, p.user_number, p.delivered_to,",
    $partner,
    "      entries * (c.longest_data + ",
    $overhead,
    " + ",
    max_report_bytes!(),
    ") <= most_bytes AS fits,
           CASE WHEN cursor_id IS NOT NULL THEN ",
    row_key_of_id!("c.generation", "cursor_id", "cursor_hash"),
    " END AS known,
           (SELECT r.place FROM reports r
            WHERE r.place = (c.generation << 32) + report_seq AND replace(r.id, '-', '') = cursor_report
           ) AS report_known
    FROM asked CROSS JOIN participants p CROSS JOIN conversations c
    WHERE p.user_id = asker AND p.conversation_id = conversation AND c.number = p.conversation_number
    LIMIT 1
),
start AS (
    SELECT head.*,
           CASE WHEN is_forward THEN 0 ELSE -1 END + CASE
               WHEN known IS NOT NULL THEN known
               WHEN cursor_date IS NOT NULL THEN base + ",
    first_since!("messages", "accepted_at", "cursor_date", "first", "next_seq"),
    "          WHEN is_forward THEN first
               ELSE base + next_seq END AS near,
           CASE WHEN is_forward THEN 0 ELSE -1 END + CASE
               WHEN report_known IS NOT NULL THEN report_known
               WHEN report_date IS NOT NULL THEN base + ",
    first_since!("reports", "coalesce(max_created, created)", "report_date", "first_report", "next_report_seq"),
    "          WHEN is_forward THEN first_report
               ELSE base + next_report_seq END AS report_near,
           CASE WHEN is_forward AND known IS NOT NULL THEN 2 ELSE 1 END AS least,
           CASE WHEN is_forward AND report_known IS NOT NULL THEN 2 ELSE 1 END AS report_least
    FROM head WHERE base IS NOT NULL LIMIT 1
),
kept AS (
    SELECT reach.*, CASE WHEN fits OR is_heavy THEN reach ELSE (
               SELECT count(*) FROM (
                   SELECT row_number() OVER nearest AS nth, sum(",
    $message_bytes,
    r#"             ) OVER nearest AS bytes
                   FROM messages m
                   WHERE m.place BETWEEN CASE WHEN is_forward THEN near ELSE near - reach + 1 END
                       AND CASE WHEN is_forward THEN near + reach - 1 ELSE near END
                   WINDOW nearest AS (ORDER BY abs(m.place - near) ROWS UNBOUNDED PRECEDING)) AS sized
               WHERE nth <= least OR bytes <= most_bytes) END AS kept
    FROM (
        SELECT bounded.*, light_bytes >= 0 AND bound > light_bytes AND (reach > 500 OR report_reach > 500) AS is_heavy
        FROM (
            SELECT there.*, CASE WHEN there < entries THEN there ELSE entries END AS reach,
                   CASE WHEN report_there < entries THEN report_there ELSE entries END AS report_reach,
                   CASE WHEN there < entries THEN there ELSE entries END * (longest_data + "#,
    $overhead,
    r#")
                   + CASE WHEN report_there < entries THEN report_there ELSE entries END * "#,
    max_report_bytes!(),
    r#" AS bound
            FROM (
                SELECT start.*, CASE WHEN is_forward THEN base + next_seq - near ELSE near - first + 1 END AS there,
                       CASE WHEN is_forward THEN base + next_report_seq - report_near
                            ELSE "#,
    $reports_there,
    r#" END AS report_there
                FROM start WHERE base IS NOT NULL) AS there) AS bounded) AS reach
    LIMIT 1
),
ends AS (
    SELECT kept.*, CASE WHEN fits OR is_heavy THEN report_reach ELSE (
               SELECT count(*) FROM (
                   SELECT coalesce(sum("#,
    $message_bytes,
    r#"            ), 0) AS taken FROM messages m
                   WHERE m.place BETWEEN CASE WHEN is_forward THEN near ELSE near - kept + 1 END
                       AND CASE WHEN is_forward THEN near + kept - 1 ELSE near END) AS weighed
               CROSS JOIN (
                   SELECT row_number() OVER nearest AS nth,
                          sum(octet_length('{"ID":"","Type":"","Created":"","MessageID":"","UserID":""}')
                              + octet_length(r.id) + octet_length(r.type) + octet_length(r.created)
                              + octet_length(coalesce(about.id, r.message_id)) + octet_length(r.user_id)) OVER nearest AS bytes
                   FROM reports r LEFT JOIN messages about ON about.place = r.message_place
                   WHERE r.place BETWEEN CASE WHEN is_forward THEN report_near
                                              ELSE report_near - report_reach + 1 END
                           AND CASE WHEN is_forward THEN report_near + report_reach - 1
                                    ELSE report_near END
                       AND coalesce(about.id, r.message_id) IS NOT NULL
                   WINDOW nearest AS (ORDER BY abs(r.place - report_near)
                                      ROWS UNBOUNDED PRECEDING)) AS sized
               WHERE (nth <= report_least AND kept < least) OR bytes <= most_bytes - taken) END AS report_kept,
           CASE WHEN bound <= light_bytes OR light_bytes < 0 THEN 0 WHEN is_heavy THEN bound ELSE (
               SELECT coalesce(sum("#,
    $message_bytes,
    r#"        ), 0) + report_reach * "#,
    max_report_bytes!(),
    r#" FROM messages m
               WHERE m.place BETWEEN CASE WHEN is_forward THEN near ELSE near - kept + 1 END
                   AND CASE WHEN is_forward THEN near + kept - 1 ELSE near END) END AS weight
    FROM kept WHERE base IS NOT NULL LIMIT 1
)
SELECT CASE WHEN light_bytes < 0 THEN concat_ws(' ', CAST(more AS INTEGER), instance, generation,
                 CAST(known IS NOT NULL AS INTEGER), CAST(report_known IS NOT NULL AS INTEGER),
                 near, kept, report_near, report_kept, user_number, delivered_to, CAST(standing = 'open' AS INTEGER)"#,
    $plan,
    r#")
            WHEN weight > light_bytes THEN CAST(weight AS TEXT) ELSE (
    SELECT concat(
        string_agg(object, ','), '|', ("#,
    $reports,
    r#"), '|', CAST(more AS INTEGER), ' ', instance, ' ', generation, ' ',
        CAST(known IS NOT NULL AS INTEGER), ' ', CAST(report_known IS NOT NULL AS INTEGER), ' ',
        string_agg(CAST(news AS TEXT), ' '))
    FROM (
        SELECT concat("#,
    $message_object,
    r#") AS object, "#,
    undelivered!("asker", "user_number", "delivered_to", "standing = 'open'"),
    r#" AS news
        FROM messages m
        WHERE m.place BETWEEN CASE WHEN is_forward THEN near ELSE near - kept + 1 END
            AND CASE WHEN is_forward THEN near + kept - 1 ELSE near END
        ORDER BY m.place) AS objects) END
FROM (
    SELECT ends.*, CASE WHEN counts_rest THEN kept < there OR report_kept < report_there
                        ELSE kept < reach OR report_kept < report_reach END AS more
    FROM ends WHERE base IS NOT NULL LIMIT 1) AS page WHERE base IS NOT NULL"#
)
    };
}

/// The page of documented answers.
pub(super) static PAGE: ManyRows = ManyRows::values_of(
    page!(
        partner: "",
        overhead: max_message_overhead!(),
        message_bytes: message_bytes!(),
        reports_there: "report_near - first_report + 1",
        plan: "",
        reports: reports_at_cursor!(),
        message_object: message_object!()
    ),
    PARAMETERS,
);

/// The page of extended answers.
pub(super) static EXTENDED_PAGE: ManyRows = ManyRows::values_of(
    page!(
        partner: " p.partner_number, (SELECT o.id FROM users o WHERE o.number = p.partner_number) AS partner,",
        overhead: concat!(max_extended_overhead!(), " + ", max_reports_about!()),
        message_bytes: extended_message_bytes!(),
        reports_there: "0",
        plan: ", partner_number, partner",
        reports: concat!(
            "CASE WHEN is_forward THEN (",
            reports_at_cursor!(),
            ") ELSE (",
            reports_about!(report_object!(), "near - kept + 1", "near"),
            ") END"
        ),
        message_object: extended_message_object!(sender!("user_number", "asker", "partner_number", "partner"))
    ),
    PARAMETERS,
);

/// SQL for the messages between two row keys as objects, and the row keys of those still to be reported as delivered.
macro_rules! messages_between {
    ($object:expr) => {
        concat!(
            "SELECT coalesce(string_agg(object, ','), '') AS objects, min(news) AS first_news, max(news) AS last_news,
                    max(place) AS last FROM (
                 SELECT m.place AS place, concat(",
            $object,
            ") AS object, ",
            undelivered!("$3", "$4", "$5", "$6"),
            " AS news
                 FROM messages m WHERE m.place BETWEEN $1 AND (
                     SELECT max(place) FROM (
                         SELECT place, row_number() OVER nearest AS nth,
                                sum(octet_length(data)) OVER nearest AS bytes
                         FROM messages WHERE place BETWEEN $1 AND $2
                         WINDOW nearest AS (ORDER BY place ROWS UNBOUNDED PRECEDING)) AS sized
                     WHERE nth = 1 OR bytes <= $7)
                 ORDER BY m.place) AS objects"
        )
    };
}

/// SQL for the reports between two row keys as objects.
macro_rules! reports_between {
    ($object:expr) => {
        concat!(
            "SELECT coalesce(string_agg(object, ','), '') FROM (
                 SELECT concat(",
            $object,
            ") AS object FROM reports r LEFT JOIN messages about ON about.place = r.message_place
                 WHERE r.place BETWEEN $1 AND $2 AND coalesce(about.id, r.message_id) IS NOT NULL
                 ORDER BY r.place) AS objects"
        )
    };
}

pub(super) const MESSAGES: Sql = Sql::both(messages_between!(message_object!()));

pub(super) const REPORTS: Sql = Sql::both(reports_between!(report_object!()));

/// Like [`MESSAGES`], but for texts that are not what was stored: each is encoded as a JSON string.
pub(super) const DAMAGED_MESSAGES: Sql = Sql::both(messages_between!(damaged_message_object!()));

pub(super) const DAMAGED_REPORTS: Sql = Sql::both(reports_between!(damaged_report_object!()));

/// Like [`MESSAGES`], for extended answers. `$8` and `$9` are the partner's number and id.
pub(super) const EXTENDED_MESSAGES: Sql =
    Sql::both(messages_between!(extended_message_object!(sender!("$4", "$3", "$8", "$9"))));

pub(super) const EXTENDED_DAMAGED_MESSAGES: Sql =
    Sql::both(messages_between!(extended_damaged_message_object!(sender!("$4", "$3", "$8", "$9"))));

/// The reports about the messages between two row keys as objects.
pub(super) const REPORTS_ABOUT: Sql = Sql::both(reports_about!(report_object!(), "$1", "$2"));

pub(super) const DAMAGED_REPORTS_ABOUT: Sql =
    Sql::both(reports_about!(damaged_report_object!(), "$1", "$2"));

pub(super) use {
    max_extended_overhead, max_message_overhead, max_report_bytes, max_reports_about,
    reports_about, reports_at_cursor, sender, undelivered,
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    const DATE: &str = "2024-03-08 14:12:48";

    #[test]
    fn the_largest_message_has_its_maximum_of_bytes() {
        let message = json!({
            "ID": "x".repeat(64),
            "Type": "\u{1F600}".repeat(32),
            "Created": DATE,
            "ValidUntil": DATE,
            "Data": "",
        });
        assert_eq!(message.to_string().len(), max_message_overhead!());
        let mut extended = message;
        extended["UserID"] = "0".repeat(32).into();
        assert_eq!(extended.to_string().len(), max_extended_overhead!());
    }

    #[test]
    fn the_largest_report_has_its_maximum_of_bytes() {
        let report = json!({
            "ID": uuid::Uuid::nil().to_string(),
            "Type": "delivered",
            "Created": DATE,
            "MessageID": "x".repeat(64),
            "UserID": "0".repeat(32),
        });
        assert_eq!(report.to_string().len(), max_report_bytes!());
    }
}
