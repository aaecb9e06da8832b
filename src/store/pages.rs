//! Pages of messages and reports: one statement finds the cursors and writes the page, so that all of it is one
//! snapshot.

use sqlx::FromRow;

use super::error::Doing as _;
use super::places::{place_of_id, run};
use super::{Error, Store, Undelivered, WireText, stored};
use crate::clock::Timestamp;
use crate::id::{ConversationId, Instance, MessageId, UserId};

/// A page that begins at its cursors and goes forward where `$10` is true, backward otherwise. No sequence number of a
/// generation is left out, so a page is everything between two places.
///
/// `head` is the conversation, if it is the caller's, and whether any page of it fits into the bytes: a message object
/// has at most 288 bytes beside its data, and a report has 217. `search` halves the places until it finds the first
/// message accepted at the date or later: the seconds of acceptance never fall within a generation. `cursor` has
/// the entry that the page begins at, `reach` how many there are from there on, and how many are asked for. Where
/// not every page fits, `kept` counts how many do: always the nearest message, and forward from a known one the next
/// one, too. Reports go the same way in the bytes that messages leave, and where no message gets the client
/// further, one report does. `page` puts the messages together in their order, and finds those of others behind
/// what the caller is known to have.
///
/// What is put together is put in order first: `string_agg` with an order of its own copies all of it. There is no
/// bound `LIMIT` either: SQLite would plan the statement anew each time.
const PAGE: &str = concat!(
    r#"
WITH RECURSIVE
head AS (
    SELECT c.instance, c.generation, c.generation << 32 AS base, c.next_seq, c.next_report_seq,
           p.standing, p.user_number, p.delivered_to, $5 * (c.longest_data + 505) <= $6 AS fits
    FROM participants p JOIN conversations c ON c.number = p.conversation_number
    WHERE p.user_id = $2 AND p.conversation_id = $1
),
known AS (
    SELECT "#,
    place_of_id!("head.generation", "head.next_seq", "$3"),
    r#" AS place FROM head WHERE $3 IS NOT NULL
),
search (low, high) AS (
    SELECT CAST(1 AS BIGINT), next_seq FROM head WHERE $4 IS NOT NULL
    UNION ALL
    SELECT CASE WHEN (SELECT m.accepted_at FROM messages m
                      WHERE m.place = base + (low + high) / 2) < $4
                THEN (low + high) / 2 + 1 ELSE low END,
           CASE WHEN (SELECT m.accepted_at FROM messages m
                      WHERE m.place = base + (low + high) / 2) < $4
                THEN high ELSE (low + high) / 2 END
    FROM search, head WHERE low < high
),
report_known AS (
    SELECT r.place FROM head CROSS JOIN reports r
    WHERE r.place = base + $7 AND replace(r.id, '-', '') = $8
),
report_search (low, high) AS (
    SELECT CAST(1 AS BIGINT), next_report_seq FROM head WHERE $9 IS NOT NULL
    UNION ALL
    SELECT CASE WHEN (SELECT r.created FROM reports r
                      WHERE r.place = base + (low + high) / 2) < $9
                THEN (low + high) / 2 + 1 ELSE low END,
           CASE WHEN (SELECT r.created FROM reports r
                      WHERE r.place = base + (low + high) / 2) < $9
                THEN high ELSE (low + high) / 2 END
    FROM report_search, head WHERE low < high
),
cursor AS (
    SELECT head.*,
           coalesce((SELECT place FROM known),
                    base + (SELECT low FROM search WHERE low >= high),
                    base + CASE WHEN $10 THEN 1 ELSE next_seq END)
               - CASE WHEN $10 THEN 0 ELSE 1 END AS near,
           coalesce((SELECT place FROM report_known),
                    base + (SELECT low FROM report_search WHERE low >= high),
                    base + CASE WHEN $10 THEN 1 ELSE next_report_seq END)
               - CASE WHEN $10 THEN 0 ELSE 1 END AS report_near,
           CASE WHEN $10 AND EXISTS (SELECT 1 FROM known WHERE place IS NOT NULL)
                THEN 2 ELSE 1 END AS least,
           CASE WHEN $10 AND EXISTS (SELECT 1 FROM report_known) THEN 2 ELSE 1 END AS report_least
    FROM head
),
there AS (
    SELECT cursor.*,
           CASE WHEN $10 THEN base + next_seq - near ELSE near - base END AS there,
           CASE WHEN $10 THEN base + next_report_seq - report_near
                ELSE report_near - base END AS report_there
    FROM cursor
),
reach AS (
    SELECT there.*, CASE WHEN there < $5 THEN there ELSE $5 END AS reach,
           CASE WHEN report_there < $5 THEN report_there ELSE $5 END AS report_reach
    FROM there
),
kept AS (
    SELECT reach.*, CASE WHEN fits THEN reach ELSE (
               SELECT count(*) FROM (
                   SELECT row_number() OVER nearest AS nth,
                          sum(octet_length('{"ID":"","Type":,"Created":"","ValidUntil":"","Data":""}')
                              + octet_length(m.id) + octet_length(m.type)
                              + octet_length(m.created) + octet_length(m.valid_until)
                              + octet_length(m.data)) OVER nearest AS bytes
                   FROM messages m
                   WHERE m.place BETWEEN CASE WHEN $10 THEN near ELSE near - reach + 1 END
                       AND CASE WHEN $10 THEN near + reach - 1 ELSE near END
                   WINDOW nearest AS (ORDER BY abs(m.place - near) ROWS UNBOUNDED PRECEDING)) AS sized
               WHERE nth <= least OR bytes <= $6) END AS kept
    FROM reach
),
placed AS (
    SELECT kept.*, CASE WHEN $10 THEN near ELSE near - kept + 1 END AS oldest,
           CASE WHEN $10 THEN near + kept - 1 ELSE near END AS newest
    FROM kept
),
taken AS (
    SELECT placed.*, CASE WHEN fits THEN 0 ELSE coalesce((
               SELECT sum(octet_length('{"ID":"","Type":,"Created":"","ValidUntil":"","Data":""}')
                          + octet_length(m.id) + octet_length(m.type) + octet_length(m.created)
                          + octet_length(m.valid_until) + octet_length(m.data))
               FROM messages m WHERE m.place BETWEEN oldest AND newest), 0) END AS taken
    FROM placed
),
report_kept AS (
    SELECT taken.*, CASE WHEN fits THEN report_reach ELSE (
               SELECT count(*) FROM (
                   SELECT row_number() OVER nearest AS nth,
                          sum(octet_length('{"ID":"","Type":"","Created":"","MessageID":"","UserID":""}')
                              + octet_length(r.id) + octet_length(r.type) + octet_length(r.created)
                              + octet_length(about.id) + octet_length(r.user_id)) OVER nearest AS bytes
                   FROM reports r CROSS JOIN messages about
                   WHERE r.place BETWEEN CASE WHEN $10 THEN report_near
                                              ELSE report_near - report_reach + 1 END
                           AND CASE WHEN $10 THEN report_near + report_reach - 1
                                    ELSE report_near END
                       AND about.place = r.message_place
                   WINDOW nearest AS (ORDER BY abs(r.place - report_near)
                                      ROWS UNBOUNDED PRECEDING)) AS sized
               WHERE bytes + taken <= $6 OR (nth <= report_least AND kept < least)) END AS report_kept
    FROM taken
),
ends AS (
    SELECT report_kept.*,
           CASE WHEN $10 THEN report_near ELSE report_near - report_kept + 1 END AS report_oldest,
           CASE WHEN $10 THEN report_near + report_kept - 1 ELSE report_near END AS report_newest
    FROM report_kept
),
page AS (
    SELECT coalesce(string_agg(object, ','), '') AS messages,
           min(CASE WHEN is_news THEN place END) AS first,
           max(CASE WHEN is_news THEN place END) AS last
    FROM (
        SELECT concat('{"ID":"', m.id, '","Type":', m.type, ',"Created":"', m.created,
                      '","ValidUntil":"', m.valid_until, '","Data":"', m.data, '"}') AS object,
               m.place,
               m.place > (SELECT delivered_to FROM ends)
                   AND m.sender_number <> (SELECT user_number FROM ends) AS is_news
        FROM messages m
        WHERE m.place BETWEEN (SELECT oldest FROM ends) AND (SELECT newest FROM ends)
        ORDER BY m.place) AS objects
),
report_page AS (
    SELECT coalesce(string_agg(object, ','), '') AS reports
    FROM (
        SELECT concat('{"ID":"', r.id, '","Type":"', r.type, '","Created":"', r.created,
                      '","MessageID":"', about.id, '","UserID":"', r.user_id, '"}') AS object
        FROM reports r CROSS JOIN messages about
        WHERE r.place BETWEEN (SELECT report_oldest FROM ends)
                AND (SELECT report_newest FROM ends)
            AND about.place = r.message_place
        ORDER BY r.place) AS objects
)
SELECT instance, messages, reports,
       CASE WHEN $10 THEN kept < there OR report_kept < report_there
            ELSE kept < reach OR report_kept < report_reach END AS more,
       generation,
       CASE WHEN standing = 'open' AND first IS NOT NULL THEN (
           SELECT min(m.place) FROM messages m
           WHERE m.place BETWEEN first AND last AND m.sender_number <> user_number
               AND NOT EXISTS (
                   SELECT 1 FROM reports r
                   WHERE r.message_place = m.place AND r.user_id = $2 AND r.type = 'delivered')
       ) END AS undelivered_first,
       CASE WHEN standing = 'open' AND first IS NOT NULL THEN (
           SELECT max(m.place) FROM messages m
           WHERE m.place BETWEEN first AND last AND m.sender_number <> user_number
               AND NOT EXISTS (
                   SELECT 1 FROM reports r
                   WHERE r.message_place = m.place AND r.user_id = $2 AND r.type = 'delivered')
       ) END AS undelivered_last
FROM ends CROSS JOIN page CROSS JOIN report_page"#
);

/// A place in the history: a known ID wins, then the date decides, and with neither it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The ID of a message or report.
    pub id: Option<MessageId>,
    /// A second of acceptance.
    pub date: Option<Timestamp>,
}

impl Cursor {
    /// The place that the ID of a report ends with, and the ID without hyphens: either way it names the report.
    fn report(&self) -> Option<(i64, String)> {
        let id = self.id.as_ref()?.as_str().replace('-', "").to_ascii_lowercase();
        let place = id.get(20..).filter(|place| place.len() == 12)?;
        Some((i64::from_str_radix(place, 16).ok()?, id))
    }
}

/// Asks for everything from two cursors on.
#[derive(Clone, Debug)]
pub struct Download {
    /// The conversation.
    pub conversation: ConversationId,
    /// Who asks.
    pub user: UserId,
    /// Where the messages begin; an empty one is the very first.
    pub cursor: Cursor,
    /// Where the reports begin; an empty one is the very first.
    pub report_cursor: Cursor,
    /// The most messages of the page, and the most reports.
    pub entries: u32,
    /// The most bytes of the page's entries, which the first one may exceed.
    pub bytes: u32,
}

/// Asks for what stands just before two cursors.
#[derive(Clone, Debug)]
pub struct DownloadPartial {
    /// The conversation.
    pub conversation: ConversationId,
    /// Who asks.
    pub user: UserId,
    /// Where the messages end, not included; an empty one is behind the newest.
    pub cursor: Cursor,
    /// Where the reports end, not included; an empty one is behind the newest.
    pub report_cursor: Cursor,
    /// How many messages are wanted, and how many reports.
    pub limit: u32,
    /// The most bytes of the page's entries, which the last one may exceed.
    pub bytes: u32,
}

/// A page of messages and reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The instance that the page is of: the current one.
    pub instance: Instance,
    /// Message objects from old to new, separated by commas.
    pub messages: WireText,
    /// Report objects from old to new, separated by commas.
    pub reports: WireText,
    /// Whether the page was cut before it had all that was asked for.
    pub more: bool,
    /// What the reader has for the first time.
    pub undelivered: Option<Undelivered>,
}

#[derive(FromRow)]
struct PageRow {
    instance: String,
    messages: WireText,
    reports: WireText,
    more: bool,
    generation: i64,
    undelivered_first: Option<i64>,
    undelivered_last: Option<i64>,
}

impl Store {
    /// A page from two cursors on, or `None` where the user has no such conversation.
    ///
    /// # Errors
    ///
    /// [`Error`] where it could not be read.
    pub async fn download(&self, asked: &Download) -> Result<Option<Page>, Error> {
        let asking = Asking {
            conversation: asked.conversation,
            user: asked.user,
            cursors: [&asked.cursor, &asked.report_cursor],
            entries: asked.entries,
            bytes: asked.bytes,
            is_forward: true,
        };
        asking.page(self).await
    }

    /// A page that ends just before two cursors, or `None` where the user has no such conversation.
    ///
    /// # Errors
    ///
    /// [`Error`] where it could not be read.
    pub async fn download_partial(&self, asked: &DownloadPartial) -> Result<Option<Page>, Error> {
        let asking = Asking {
            conversation: asked.conversation,
            user: asked.user,
            cursors: [&asked.cursor, &asked.report_cursor],
            entries: asked.limit,
            bytes: asked.bytes,
            is_forward: false,
        };
        asking.page(self).await
    }
}

/// What [`PAGE`] takes.
struct Asking<'a> {
    conversation: ConversationId,
    user: UserId,
    /// Of the messages and of the reports.
    cursors: [&'a Cursor; 2],
    entries: u32,
    bytes: u32,
    is_forward: bool,
}

impl Asking<'_> {
    async fn page(&self, store: &Store) -> Result<Option<Page>, Error> {
        let [cursor, report_cursor] = self.cursors;
        let report = report_cursor.report();
        let page = sqlx::query_as(PAGE)
            .bind(self.conversation.as_str())
            .bind(self.user.as_str())
            .bind(cursor.id.as_ref().map(MessageId::as_str))
            .bind(cursor.date.map(Timestamp::unix))
            .bind(self.entries)
            .bind(self.bytes)
            .bind(report.as_ref().map(|(seq, _)| *seq))
            .bind(report.as_ref().map(|(_, id)| id))
            .bind(report_cursor.date.map(|date| date.to_string()))
            .bind(self.is_forward);
        let row: Option<PageRow> =
            page.fetch_optional(&store.reads).await.doing("reading messages")?;
        row.map(|row| self.page_of(row)).transpose()
    }

    fn page_of(&self, row: PageRow) -> Result<Page, Error> {
        let places = row.undelivered_first.zip(row.undelivered_last);
        let undelivered = places.map(|places| Undelivered {
            conversation: self.conversation,
            user: self.user,
            generation: row.generation,
            places,
        });
        let PageRow { messages, reports, more, .. } = row;
        Ok(Page { instance: stored(&row.instance)?, messages, reports, more, undelivered })
    }
}
