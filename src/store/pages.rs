//! Pages of messages and reports: one statement finds the cursors and writes the page, so that all of it is one
//! snapshot.

use sqlx::FromRow;

use super::error::Doing as _;
use super::{Error, Store, Undelivered, WireText, stored};
use crate::clock::Timestamp;
use crate::id::{ConversationId, Instance, MessageId, UserId};

/// A page on one side of its cursors: `$default` and `$report_default` are the places of empty cursors, `$side`
/// the condition that keeps the rows of `m` on its side and `$nearest` the order that begins at it.
///
/// `head` is the conversation, if it is the caller's. `search` halves the places until it finds the first
/// message accepted at the date or later: the seconds of acceptance never fall within a generation.
/// `page` are the rows in reach, `kept` those that fit into the bytes: always the nearest one, and where
/// `$second` holds the next one too. Reports go the same way in the bytes that messages leave, and where no message
/// gets the client further, one report does: the nearest, or where `$report_second` holds the next one too.
/// `undelivered` are the messages of others of which the caller has made no report yet, and may make one.
///
/// `CROSS JOIN` is to SQLite the order in which the tables are read: left to itself, it would rather read a whole
/// generation than look up the rows of a page.
macro_rules! page {
    (
        $default:literal, $report_default:literal, $side:literal, $nearest:literal,
        $second:literal, $report_second:literal
    ) => {
        concat!(
            r#"
WITH RECURSIVE
head AS (
    SELECT c.id, c.generation, c.instance, c.next_seq, c.next_report_seq, p.delivered_to
    FROM participants p JOIN conversations c ON c.id = p.conversation_id
    WHERE p.conversation_id = $1 AND p.user_id = $2
),
search (low, high) AS (
    SELECT CAST(1 AS BIGINT), next_seq FROM head WHERE $5 IS NOT NULL
    UNION ALL
    SELECT CASE WHEN (SELECT m.accepted_at FROM messages m
                      WHERE m.conversation_id = head.id AND m.generation = head.generation
                          AND m.seq >= (low + high) / 2 ORDER BY m.seq LIMIT 1) < $5
                THEN (low + high) / 2 + 1 ELSE low END,
           CASE WHEN (SELECT m.accepted_at FROM messages m
                      WHERE m.conversation_id = head.id AND m.generation = head.generation
                          AND m.seq >= (low + high) / 2 ORDER BY m.seq LIMIT 1) < $5
                THEN high ELSE (low + high) / 2 END
    FROM search, head WHERE low < high
),
known AS (
    SELECT m.seq FROM head, messages m
    WHERE m.conversation_id = head.id AND m.generation = head.generation AND m.id = $4
),
cursor AS (
    SELECT coalesce(
        (SELECT seq FROM known),
        (SELECT low FROM search WHERE low >= high),
        "#,
            $default,
            r#") AS seq FROM head
),
page AS (
    SELECT m.seq,
           octet_length('{"ID":"","Type":,"Created":"","ValidUntil":"","Data":""}')
               + octet_length(m.id) + octet_length(json_quote(m.type)) + octet_length(m.created)
               + octet_length(m.valid_until) + octet_length(m.data) AS bytes
    FROM head CROSS JOIN cursor CROSS JOIN messages m
    WHERE head.instance = coalesce($3, head.instance)
        AND m.conversation_id = head.id AND m.generation = head.generation AND "#,
            $side,
            " ORDER BY ",
            $nearest,
            r#" LIMIT $6
),
sized AS (
    SELECT seq, row_number() OVER (ORDER BY "#,
            $nearest,
            r#") AS place, sum(bytes) OVER (ORDER BY "#,
            $nearest,
            r#" ROWS UNBOUNDED PRECEDING) AS bytes
    FROM page AS m
),
kept AS (
    SELECT seq, place, bytes FROM sized
    WHERE place = 1 OR (place <= $7 AND (bytes <= $8 OR (place = 2 AND "#,
            $second,
            r#")))
),
taken AS (
    SELECT coalesce(max(bytes), 0) AS bytes,
           count(*) > CASE WHEN "#,
            $second,
            r#" THEN 1 ELSE 0 END AS gets_further
    FROM kept
),
report_search (low, high) AS (
    SELECT CAST(1 AS BIGINT), next_report_seq FROM head WHERE $11 IS NOT NULL
    UNION ALL
    SELECT CASE WHEN (SELECT r.created FROM reports r
                      WHERE r.conversation_id = head.id AND r.generation = head.generation
                          AND r.seq = (low + high) / 2) < $11
                THEN (low + high) / 2 + 1 ELSE low END,
           CASE WHEN (SELECT r.created FROM reports r
                      WHERE r.conversation_id = head.id AND r.generation = head.generation
                          AND r.seq = (low + high) / 2) < $11
                THEN high ELSE (low + high) / 2 END
    FROM report_search, head WHERE low < high
),
report_known AS (
    SELECT r.seq FROM head, reports r
    WHERE r.conversation_id = head.id AND r.generation = head.generation AND r.seq = $9
        AND replace(r.id, '-', '') = $10
),
report_cursor AS (
    SELECT coalesce(
        (SELECT seq FROM report_known),
        (SELECT low FROM report_search WHERE low >= high),
        "#,
            $report_default,
            r#") AS seq FROM head
),
report_page AS (
    SELECT m.seq,
           octet_length('{"ID":"","Type":"","Created":"","MessageID":"","UserID":""}')
               + octet_length(m.id) + octet_length(m.type) + octet_length(m.created)
               + octet_length(about.id) + octet_length(m.user_id) AS bytes
    FROM head CROSS JOIN report_cursor AS cursor CROSS JOIN reports m CROSS JOIN messages about
    WHERE head.instance = coalesce($3, head.instance)
        AND about.conversation_id = m.conversation_id AND about.generation = m.generation
        AND about.seq = m.message_seq
        AND m.conversation_id = head.id AND m.generation = head.generation AND "#,
            $side,
            " ORDER BY ",
            $nearest,
            r#" LIMIT $6
),
report_sized AS (
    SELECT seq, row_number() OVER (ORDER BY "#,
            $nearest,
            r#") AS place, sum(bytes) OVER (ORDER BY "#,
            $nearest,
            r#" ROWS UNBOUNDED PRECEDING) AS bytes
    FROM report_page AS m
),
report_kept AS (
    SELECT seq FROM report_sized, taken
    WHERE (place <= $7 AND report_sized.bytes + taken.bytes <= $8)
        OR (NOT gets_further AND (place = 1 OR (place = 2 AND "#,
            $report_second,
            r#")))
),
undelivered AS (
    SELECT min(m.seq) AS first, max(m.seq) AS last
    FROM head CROSS JOIN kept CROSS JOIN messages m
    WHERE kept.seq > head.delivered_to
        AND m.conversation_id = head.id AND m.generation = head.generation AND m.seq = kept.seq
        AND m.sender_id <> $2
        AND NOT EXISTS (
            SELECT 1 FROM reports r
            WHERE r.conversation_id = m.conversation_id AND r.generation = m.generation
                AND r.message_seq = m.seq AND r.user_id = $2 AND r.type = 'delivered')
        AND EXISTS (SELECT 1 FROM friends f WHERE f.user_id = $2 AND f.friend_id = m.sender_id)
        AND NOT EXISTS (
            SELECT 1 FROM blocks b WHERE b.user_id = m.sender_id AND b.blocked_id = $2)
        AND NOT EXISTS (
            SELECT 1 FROM blocks b WHERE b.user_id = $2 AND b.blocked_id = m.sender_id)
)
SELECT head.instance,
       coalesce((
           SELECT string_agg('{"ID":"' || m.id || '","Type":' || json_quote(m.type)
                             || ',"Created":"' || m.created || '","ValidUntil":"' || m.valid_until
                             || '","Data":"' || m.data || '"}', ',' ORDER BY m.seq)
           FROM kept CROSS JOIN messages m
           WHERE m.conversation_id = head.id AND m.generation = head.generation
               AND m.seq = kept.seq), '') AS messages,
       coalesce((
           SELECT string_agg('{"ID":"' || r.id || '","Type":"' || r.type || '","Created":"'
                             || r.created || '","MessageID":"' || about.id || '","UserID":"'
                             || r.user_id || '"}', ',' ORDER BY r.seq)
           FROM report_kept CROSS JOIN reports r CROSS JOIN messages about
           WHERE r.conversation_id = head.id AND r.generation = head.generation
               AND r.seq = report_kept.seq
               AND about.conversation_id = r.conversation_id
               AND about.generation = r.generation AND about.seq = r.message_seq), '') AS reports,
       (SELECT count(*) FROM kept) < (SELECT count(*) FROM page)
           OR (SELECT count(*) FROM report_kept) < (SELECT count(*) FROM report_page) AS more,
       head.generation, undelivered.first AS undelivered_first, undelivered.last AS undelivered_last
FROM head CROSS JOIN undelivered"#
        )
    };
}

/// From the cursors on, their own entries included, old to new. Behind a known cursor there is always a second
/// entry: a client that goes on from the last entry of a page must get further, however large it is.
const DOWNLOAD: &str = page!(
    "1",
    "1",
    "m.seq >= cursor.seq",
    "m.seq",
    "EXISTS (SELECT 1 FROM known)",
    "EXISTS (SELECT 1 FROM report_known)"
);

/// What stands just before the cursors.
const DOWNLOAD_PARTIAL: &str = page!(
    "head.next_seq",
    "head.next_report_seq",
    "m.seq < cursor.seq",
    "m.seq DESC",
    "1 = 0",
    "1 = 0"
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
    /// The instance whose messages are wanted; `None` is the current one.
    pub instance: Option<Instance>,
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
    /// The instance whose messages are wanted; `None` is the current one.
    pub instance: Option<Instance>,
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
    /// The current instance. Where another one was asked for, the page is empty.
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
        // One more than is kept shows whether there are more.
        let asking = Asking {
            statement: DOWNLOAD,
            conversation: asked.conversation,
            user: asked.user,
            instance: asked.instance,
            cursors: [&asked.cursor, &asked.report_cursor],
            scanned: asked.entries + 1,
            kept: asked.entries,
            bytes: asked.bytes,
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
            statement: DOWNLOAD_PARTIAL,
            conversation: asked.conversation,
            user: asked.user,
            instance: asked.instance,
            cursors: [&asked.cursor, &asked.report_cursor],
            scanned: asked.limit,
            kept: asked.limit,
            bytes: asked.bytes,
        };
        asking.page(self).await
    }
}

/// What both statements take.
struct Asking<'a> {
    statement: &'static str,
    conversation: ConversationId,
    user: UserId,
    instance: Option<Instance>,
    /// Of the messages and of the reports.
    cursors: [&'a Cursor; 2],
    scanned: u32,
    kept: u32,
    bytes: u32,
}

impl Asking<'_> {
    async fn page(&self, store: &Store) -> Result<Option<Page>, Error> {
        let [cursor, report_cursor] = self.cursors;
        let report = report_cursor.report();
        let page = sqlx::query_as(self.statement)
            .bind(self.conversation.as_str())
            .bind(self.user.as_str())
            .bind(self.instance.as_ref().map(Instance::as_str))
            .bind(cursor.id.as_ref().map(MessageId::as_str))
            .bind(cursor.date.map(Timestamp::unix))
            .bind(self.scanned)
            .bind(self.kept)
            .bind(self.bytes)
            .bind(report.as_ref().map(|(place, _)| *place))
            .bind(report.as_ref().map(|(_, id)| id))
            .bind(report_cursor.date.map(|date| date.to_string()));
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
