//! Pages of messages: one statement finds the cursor and writes the page, so that both are one snapshot.

use super::error::Doing as _;
use super::{Error, Store, WireText};
use crate::clock::Timestamp;
use crate::id::{ConversationId, Instance, MessageId, UserId};

/// A page on one side of a cursor: `$default` is the place of an empty cursor, `$side` the condition that
/// keeps the rows on its side and `$nearest` the order that begins at it.
///
/// `head` is the conversation, if it is the caller's. `search` halves the places until it finds the first
/// message accepted at the date or later: the seconds of acceptance never fall within a generation.
/// `page` are the rows in reach, `kept` those that fit into the bytes: always the nearest one, and where
/// `$second` holds the next one too.
macro_rules! page {
    ($default:literal, $side:literal, $nearest:literal, $second:literal) => {
        concat!(
            r#"
WITH RECURSIVE
head AS (
    SELECT c.id, c.generation, c.instance, c.next_seq
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
    FROM head, cursor, messages m
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
    SELECT seq FROM sized
    WHERE place = 1 OR (place <= $7 AND (bytes <= $8 OR (place = 2 AND "#,
            $second,
            r#")))
)
SELECT head.instance,
       coalesce((
           SELECT string_agg('{"ID":"' || m.id || '","Type":' || json_quote(m.type)
                             || ',"Created":"' || m.created || '","ValidUntil":"' || m.valid_until
                             || '","Data":"' || m.data || '"}', ',' ORDER BY m.seq)
           FROM kept JOIN messages m ON m.seq = kept.seq
           WHERE m.conversation_id = head.id AND m.generation = head.generation), ''),
       (SELECT count(*) FROM kept) < (SELECT count(*) FROM page)
FROM head"#
        )
    };
}

/// From the cursor on, its own entry included, old to new. Behind a known cursor there is always a second
/// entry: a client that goes on from the last entry of a page must get further, however large it is.
const DOWNLOAD: &str = page!("1", "m.seq >= cursor.seq", "m.seq", "EXISTS (SELECT 1 FROM known)");

/// What stands just before the cursor.
const DOWNLOAD_PARTIAL: &str = page!("head.next_seq", "m.seq < cursor.seq", "m.seq DESC", "1 = 0");

/// A place in the history: a known ID wins, then the date decides, and with neither it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The ID of a message.
    pub id: Option<MessageId>,
    /// A second of acceptance.
    pub date: Option<Timestamp>,
}

/// Asks for everything from a cursor on.
#[derive(Clone, Debug)]
pub struct Download {
    /// The conversation.
    pub conversation: ConversationId,
    /// Who asks.
    pub user: UserId,
    /// The instance whose messages are wanted; `None` is the current one.
    pub instance: Option<Instance>,
    /// Where the page begins; an empty one is the very first message.
    pub cursor: Cursor,
    /// The most messages of the page.
    pub messages: u32,
    /// The most bytes of the page's entries, which the first one may exceed.
    pub bytes: u32,
}

/// Asks for what stands just before a cursor.
#[derive(Clone, Debug)]
pub struct DownloadPartial {
    /// The conversation.
    pub conversation: ConversationId,
    /// Who asks.
    pub user: UserId,
    /// The instance whose messages are wanted; `None` is the current one.
    pub instance: Option<Instance>,
    /// Where the page ends, not included; an empty one is behind the newest message.
    pub cursor: Cursor,
    /// How many messages are wanted.
    pub limit: u32,
    /// The most bytes of the page's entries, which the last one may exceed.
    pub bytes: u32,
}

/// A page of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The current instance. Where another one was asked for, the page is empty.
    pub instance: Instance,
    /// Message objects from old to new, separated by commas.
    pub messages: WireText,
    /// Whether the page was cut before it had all that was asked for.
    pub more: bool,
}

impl Store {
    /// A page from a cursor on, or `None` where the user has no such conversation.
    ///
    /// # Errors
    ///
    /// [`Error`] where it could not be read.
    pub async fn download(&self, asked: &Download) -> Result<Option<Page>, Error> {
        let Download { conversation, user, instance, cursor, messages, bytes } = asked;
        // One more than is kept shows whether there are more.
        let rows = Rows { scanned: messages + 1, kept: *messages, bytes: *bytes };
        self.page(DOWNLOAD, *conversation, *user, *instance, cursor, rows).await
    }

    /// A page that ends just before a cursor, or `None` where the user has no such conversation.
    ///
    /// # Errors
    ///
    /// [`Error`] where it could not be read.
    pub async fn download_partial(&self, asked: &DownloadPartial) -> Result<Option<Page>, Error> {
        let DownloadPartial { conversation, user, instance, cursor, limit, bytes } = asked;
        let rows = Rows { scanned: *limit, kept: *limit, bytes: *bytes };
        self.page(DOWNLOAD_PARTIAL, *conversation, *user, *instance, cursor, rows).await
    }

    async fn page(
        &self,
        statement: &'static str,
        conversation: ConversationId,
        user: UserId,
        instance: Option<Instance>,
        cursor: &Cursor,
        rows: Rows,
    ) -> Result<Option<Page>, Error> {
        let page = sqlx::query_as(statement)
            .bind(conversation.as_str())
            .bind(user.as_str())
            .bind(instance.as_ref().map(Instance::as_str))
            .bind(cursor.id.as_ref().map(MessageId::as_str))
            .bind(cursor.date.map(Timestamp::unix))
            .bind(rows.scanned)
            .bind(rows.kept)
            .bind(rows.bytes);
        let page: Option<(String, String, bool)> =
            page.fetch_optional(&self.reads).await.doing("reading messages")?;
        page.map(|(instance, messages, more)| {
            let instance = super::stored(&instance)?;
            Ok(Page { instance, messages, more })
        })
        .transpose()
    }
}

/// The bounds of a page.
struct Rows {
    scanned: u32,
    kept: u32,
    bytes: u32,
}
