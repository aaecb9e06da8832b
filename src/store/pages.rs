//! Pages of messages and reports: one statement finds the cursors and writes the page, so that all of it is one
//! snapshot.

use deadpool::unmanaged::Object;
use serde::de::IgnoredAny;
use sqlx::SqliteConnection;

use super::message_ids::{hash, listed_place, place_of_id, run};
use super::reading::{Question, ask};
use super::values::{ManyRows, Values};
use super::{Error, Store, Undelivered, WireText, stored, stored_number};
use crate::domain::{Direction, Instance, MessageId, PageQuery, Timestamp};

/// Maximum bytes of a message object beside its data: a test compares it with what the encoder writes.
macro_rules! max_message_overhead {
    () => {
        288
    };
}

/// Maximum bytes of a report object, tested in the same way.
macro_rules! max_report_bytes {
    () => {
        219
    };
}

/// The bytes of a message object.
macro_rules! message_bytes {
    () => {
        r#"octet_length('{"ID":"","Type":,"Created":"","ValidUntil":"","Data":""}')
                          + octet_length(m.id) + octet_length(coalesce(m.type, '"Message"'))
                          + octet_length('yyyy-MM-dd HH:mm:ss') + octet_length(m.valid_until)
                          + octet_length(m.data)"#
    };
}

/// SQL that halves the places of a generation until it finds the first of a table that is of a date or later, as its
/// sequence number. The column never falls: it holds the latest date so far, and the first entry whose date is not earlier
/// than another is the first of which that is true of the latest date so far.
macro_rules! first_since {
    ($table:literal, $column:literal, $date:literal, $next:literal) => {
        concat!(
            "(WITH RECURSIVE search (low, high) AS (
                  SELECT CAST(1 AS BIGINT), ",
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

/// A page that begins at its cursors and goes forward where `is_forward` is true, backward otherwise. No sequence number
/// of a generation is left out, so a page is everything between two places.
///
/// `head` is the conversation, if it is the caller's, the places that the cursors name, and whether any page of it fits
/// into the bytes ([`max_message_overhead`], [`max_report_bytes`]). `start` has the entries that the page begins at. `kept` says how many messages there are from there on and how many of them
/// the page has: where not every page fits, always the nearest, and forward from a known one the next one, too.
/// `ends` says the same of the reports, which have the bytes that messages leave (`weighed`); where no message gets the
/// client further, one report does.
///
/// `bound` is what the page can have at most, in bytes. Where that is more than `light_bytes`, its messages are weighed, unless
/// there are so many that weighing them takes long (`is_heavy`). Where `weight` is more than `light_bytes`, too, the text is the
/// weight alone, and the page is not made.
///
/// The text has three parts with a bar between them, and only the first may hold bars itself: the messages, the reports,
/// and with spaces between them whether there is more, the instance, its generation, and the places of messages of
/// others that are still to be reported as delivered to the caller.
///
/// Each step is one row, handed on by a coroutine. That takes a `LIMIT` in the step and a `WHERE` in the next one: otherwise
/// SQLite copies the expressions of a step to wherever they are used, and `MATERIALIZED` makes a table for each, which is
/// a tenth of what a page costs. What is put together is put in order first: `string_agg` with an order of its own
/// copies all of it. There is no bound `LIMIT`: SQLite would plan the statement anew each time.
macro_rules! page {
    ($message:literal, $report:literal) => {
        ManyRows::values_of(concat!(
    "
WITH
asked AS (
    SELECT ? AS conversation, ? AS asker, ? AS cursor_id, ? AS cursor_hash, ? AS cursor_date, ? AS entries,
           ? AS most_bytes, ? AS report_seq, ? AS cursor_report, ? AS report_date, ? AS is_forward, ? AS light_bytes
    LIMIT 1
),
head AS (
    SELECT asked.*, c.instance, c.generation, c.generation << 32 AS base, c.next_seq, c.next_report_seq,
           c.longest_data, p.standing, p.user_number, p.delivered_to,
           entries * (c.longest_data + ",
    max_message_overhead!(),
    " + ",
    max_report_bytes!(),
    ") <= most_bytes AS fits,
           CASE WHEN cursor_id IS NOT NULL THEN ",
    place_of_id!("c.generation", "c.next_seq", "cursor_id", "cursor_hash"),
    " END AS known,
           (SELECT r.place FROM reports r
            WHERE r.place = (c.generation << 32) + report_seq AND replace(r.id, '-', '') = cursor_report
           ) AS report_known
    FROM asked CROSS JOIN participants p CROSS JOIN conversations c ON c.number = p.conversation_number
    WHERE p.user_id = asker AND p.conversation_id = conversation
    LIMIT 1
),
start AS (
    SELECT head.*,
           CASE WHEN is_forward THEN 0 ELSE -1 END + CASE
               WHEN known IS NOT NULL THEN known
               WHEN cursor_date IS NOT NULL THEN base + ",
    first_since!("messages", "accepted_at", "cursor_date", "next_seq"),
    "          WHEN is_forward THEN base + 1
               ELSE base + next_seq END AS near,
           CASE WHEN is_forward THEN 0 ELSE -1 END + CASE
               WHEN report_known IS NOT NULL THEN report_known
               WHEN report_date IS NOT NULL THEN base + ",
    first_since!("reports", "coalesce(max_created, created)", "report_date", "next_report_seq"),
    "          WHEN is_forward THEN base + 1
               ELSE base + next_report_seq END AS report_near,
           CASE WHEN is_forward AND known IS NOT NULL THEN 2 ELSE 1 END AS least,
           CASE WHEN is_forward AND report_known IS NOT NULL THEN 2 ELSE 1 END AS report_least
    FROM head WHERE base IS NOT NULL LIMIT 1
),
kept AS (
    SELECT reach.*, CASE WHEN fits OR is_heavy THEN reach ELSE (
               SELECT count(*) FROM (
                   SELECT row_number() OVER nearest AS nth, sum(",
    message_bytes!(),
    r#"             ) OVER nearest AS bytes
                   FROM messages m
                   WHERE m.place BETWEEN CASE WHEN is_forward THEN near ELSE near - reach + 1 END
                       AND CASE WHEN is_forward THEN near + reach - 1 ELSE near END
                   WINDOW nearest AS (ORDER BY abs(m.place - near) ROWS UNBOUNDED PRECEDING)) AS sized
               WHERE nth <= least OR bytes <= most_bytes) END AS kept
    FROM (
        SELECT bounded.*, bound > light_bytes AND (reach > 500 OR report_reach > 500) AS is_heavy
        FROM (
            SELECT there.*, CASE WHEN there < entries THEN there ELSE entries END AS reach,
                   CASE WHEN report_there < entries THEN report_there ELSE entries END AS report_reach,
                   CASE WHEN there < entries THEN there ELSE entries END * (longest_data + "#,
    max_message_overhead!(),
    r#")
                   + CASE WHEN report_there < entries THEN report_there ELSE entries END * "#,
    max_report_bytes!(),
    r#" AS bound
            FROM (
                SELECT start.*, CASE WHEN is_forward THEN base + next_seq - near ELSE near - base END AS there,
                       CASE WHEN is_forward THEN base + next_report_seq - report_near
                            ELSE report_near - base END AS report_there
                FROM start WHERE base IS NOT NULL) AS there) AS bounded) AS reach
    LIMIT 1
),
ends AS (
    SELECT kept.*, CASE WHEN fits OR is_heavy THEN report_reach ELSE (
               SELECT count(*) FROM (
                   SELECT coalesce(sum("#,
    message_bytes!(),
    r#"            ), 0) AS taken FROM messages m
                   WHERE m.place BETWEEN CASE WHEN is_forward THEN near ELSE near - kept + 1 END
                       AND CASE WHEN is_forward THEN near + kept - 1 ELSE near END) AS weighed
               CROSS JOIN (
                   SELECT row_number() OVER nearest AS nth,
                          sum(octet_length('{"ID":"","Type":"","Created":"","MessageID":"","UserID":""}')
                              + octet_length(r.id) + octet_length(r.type) + octet_length(r.created)
                              + octet_length(about.id) + octet_length(r.user_id)) OVER nearest AS bytes
                   FROM reports r CROSS JOIN messages about
                   WHERE r.place BETWEEN CASE WHEN is_forward THEN report_near
                                              ELSE report_near - report_reach + 1 END
                           AND CASE WHEN is_forward THEN report_near + report_reach - 1
                                    ELSE report_near END
                       AND about.place = r.message_place
                   WINDOW nearest AS (ORDER BY abs(r.place - report_near)
                                      ROWS UNBOUNDED PRECEDING)) AS sized
               WHERE (nth <= report_least AND kept < least) OR bytes <= most_bytes - taken) END AS report_kept,
           CASE WHEN bound <= light_bytes THEN 0 WHEN is_heavy THEN bound ELSE (
               SELECT coalesce(sum("#,
    message_bytes!(),
    r#"        ), 0) + report_reach * "#,
    max_report_bytes!(),
    r#" FROM messages m
               WHERE m.place BETWEEN CASE WHEN is_forward THEN near ELSE near - kept + 1 END
                   AND CASE WHEN is_forward THEN near + kept - 1 ELSE near END) END AS weight
    FROM kept WHERE base IS NOT NULL LIMIT 1
)
SELECT CASE WHEN weight > light_bytes THEN CAST(weight AS TEXT) ELSE (
    SELECT concat(
        string_agg(object, ','), '|', (SELECT string_agg(object, ',') FROM (
                SELECT concat("#, $report, r#") AS object
                FROM reports r CROSS JOIN messages about
                WHERE r.place BETWEEN CASE WHEN is_forward THEN report_near
                                           ELSE report_near - report_kept + 1 END
                        AND CASE WHEN is_forward THEN report_near + report_kept - 1 ELSE report_near END
                    AND about.place = r.message_place
                ORDER BY r.place) AS objects), '|', CASE WHEN is_forward THEN kept < there OR report_kept < report_there
                  ELSE kept < reach OR report_kept < report_reach END,
        ' ', instance, ' ', generation, ' ', string_agg(news, ' '))
    FROM (
        SELECT concat("#, $message, r#") AS object,
               CASE WHEN m.sender_number <> user_number AND m.place > delivered_to
                       AND standing = 'open' AND NOT EXISTS (
                           SELECT 1 FROM reports r
                           WHERE r.message_place = m.place AND r.user_id = asker
                               AND r.type = 'delivered')
                    THEN m.place END AS news
        FROM messages m
        WHERE m.place BETWEEN CASE WHEN is_forward THEN near ELSE near - kept + 1 END
            AND CASE WHEN is_forward THEN near + kept - 1 ELSE near END
        ORDER BY m.place) AS objects) END
FROM ends WHERE base IS NOT NULL"#
), 12)
    };
}

static PAGE: ManyRows = page!(
    r#"'{"ID":"', m.id, '","Type":', coalesce(m.type, '"Message"'), ',"Created":"', datetime(m.created, 'unixepoch'),
       '","ValidUntil":"', m.valid_until, '","Data":"', m.data, '"}'"#,
    r#"'{"ID":"', r.id, '","Type":"', r.type, '","Created":"', r.created, '","MessageID":"', about.id,
       '","UserID":"', r.user_id, '"}'"#
);

/// The same for texts that are not what was stored: each is written as a JSON string, whatever it holds.
static DAMAGED_PAGE: ManyRows = page!(
    r#"'{"ID":', json_quote(m.id), ',"Type":',
       CASE WHEN m.type IS NULL THEN '"Message"' WHEN json_valid(m.type) THEN m.type ELSE json_quote(m.type) END,
       ',"Created":"', datetime(m.created, 'unixepoch'), '","ValidUntil":', json_quote(m.valid_until),
       ',"Data":', json_quote(m.data), '}'"#,
    r#"'{"ID":', json_quote(r.id), ',"Type":', json_quote(r.type), ',"Created":', json_quote(r.created),
       ',"MessageID":', json_quote(about.id), ',"UserID":', json_quote(r.user_id), '}'"#
);

/// A page of messages and reports.
#[derive(Debug)]
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
    /// The connection of a large page: until this is dropped, no other one is made.
    _turn: Option<Object<SqliteConnection>>,
}

/// Bytes up to which a page is made at once. A client shows fifty messages of some hundred bytes at a time. Larger pages are
/// made one by one, and their memory is taken first.
pub const LIGHT_PAGE_BYTES: usize = 128 * 1024;

/// A page, or how large it would be.
#[derive(Debug)]
pub enum Found {
    /// A page of at most [`LIGHT_PAGE_BYTES`].
    Page(Page),
    /// A larger page of at most so many bytes, the entries' own or an upper bound of them. It was not made.
    Large(usize),
}

impl Store {
    /// A page, where it is light; `None` where the user has no such conversation.
    ///
    /// # Errors
    ///
    /// [`Error`] where it could not be read.
    pub async fn page(&self, query: &PageQuery) -> Result<Option<Found>, Error> {
        let light_bytes = i64::try_from(LIGHT_PAGE_BYTES).unwrap_or(i64::MAX);
        let asking = Asking { query: query.clone(), light_bytes };
        let Some(text) = self.pages.ask(asking).await? else {
            return Ok(None);
        };
        if let Some(bytes) = weight(&text) {
            let most = usize::try_from(query.bytes).unwrap_or(usize::MAX);
            return Ok(Some(Found::Large(bytes.min(most))));
        }
        self.parsable(query, read(query, text)?).await.map(|page| Some(Found::Page(page)))
    }

    /// A page of any size; `None` where the user has no such conversation. They are made one by one, in the order of the
    /// calls: the next one once an earlier page is dropped.
    ///
    /// `permit` is for the memory that the page takes. SQLite makes a page to its end even where this is cancelled, so the
    /// permit is held, and no other page is made, until then.
    ///
    /// # Errors
    ///
    /// [`Error`] where it could not be read.
    pub async fn large_page<P: Send + 'static>(
        &self,
        query: &PageQuery,
        permit: P,
    ) -> Result<Option<(Page, P)>, Error> {
        let mut turn = self.large_reader.get().await?;
        let asking = Asking { query: query.clone(), light_bytes: i64::MAX };
        let reading = tokio::spawn(async move { (ask(&mut turn, &asking).await, turn, permit) });
        let (text, turn, permit) = reading.await.map_err(|_| Error::Closed)?;
        let Some(text) = text? else {
            return Ok(None);
        };
        let page = self.parsable(query, read(query, text)?).await?;
        Ok(Some((Page { _turn: Some(turn), ..page }, permit)))
    }

    /// The page itself, or where a stored text makes it unparsable, the same page with that text as far as it can be read.
    async fn parsable(&self, query: &PageQuery, page: Page) -> Result<Page, Error> {
        if is_json(&page.messages) && is_json(&page.reports) {
            return Ok(page);
        }
        let conversation = query.conversation;
        tracing::warn!(%conversation, "a text of this conversation is not what was stored: check the disk");
        let asking = Asking { query: query.clone(), light_bytes: i64::MAX };
        let text = ask(&mut *self.reading().await?, &Damaged(asking)).await?;
        let text = text.ok_or_else(|| Error::not_as_stored("a page"))?;
        read(query, String::from_utf8_lossy(&text).into_owned().into_bytes())
    }
}

/// What [`PAGE`] takes.
pub(super) struct Asking {
    query: PageQuery,
    /// From which weight on the page is not made.
    light_bytes: i64,
}

impl Question for Asking {
    const STATEMENT: &'static ManyRows = &PAGE;
    const DOING: &'static str = "reading messages";

    fn bind(&self, values: &mut Values<'_>) {
        let PageQuery { conversation, user, cursor, report_cursor, entries, bytes, direction } =
            &self.query;
        let report = report_cursor.report();
        values
            .add(conversation.as_str())
            .add(user.as_str())
            .add(cursor.id.as_ref().map(MessageId::as_str))
            .add(cursor.id.as_ref().map(|id| hash(id.as_str())))
            .add(cursor.date.map(Timestamp::unix))
            .add(*entries)
            .add(*bytes)
            .add(report.as_ref().map(|(seq, _)| *seq))
            .add(report.as_ref().map(|(_, id)| id.as_str()))
            .add(report_cursor.date.map(|date| date.to_string()))
            .add(*direction == Direction::Forward)
            .add(self.light_bytes);
    }
}

/// What [`DAMAGED_PAGE`] takes: the same.
struct Damaged(Asking);

impl Question for Damaged {
    const STATEMENT: &'static ManyRows = &DAMAGED_PAGE;
    const DOING: &'static str = Asking::DOING;

    fn bind(&self, values: &mut Values<'_>) {
        self.0.bind(values);
    }
}

/// Whether these objects are JSON: one byte that the disk has changed must not make a page unparsable. Nearly all objects
/// are plain, which takes a microsecond for 20 KiB to see; a `Type` may hold anything.
fn is_json(objects: &[u8]) -> bool {
    is_plain(objects)
        || str::from_utf8(objects)
            .is_ok_and(|text| serde_json::from_str::<IgnoredAny>(&format!("[{text}]")).is_ok())
}

/// Whether these are objects of five plain strings each: printable ASCII, no backslash, and twenty quotes for each brace.
/// Without branches in the inner loop, so that it is compiled to vector instructions.
fn is_plain(objects: &[u8]) -> bool {
    const QUOTES: usize = 20;
    let (mut quotes, mut braces) = (0, 0);
    // The counts of a chunk fit into bytes.
    for chunk in objects.chunks(128) {
        let (mut quote, mut brace, mut other) = (0_u8, 0_u8, 0_u8);
        for byte in chunk {
            quote += u8::from(*byte == b'"');
            brace += u8::from(*byte == b'{');
            other |= u8::from(*byte < b' ') | u8::from(*byte > b'~') | u8::from(*byte == b'\\');
        }
        if other > 0 {
            return false;
        }
        quotes += usize::from(quote);
        braces += usize::from(brace);
    }
    quotes == QUOTES * braces
}

/// The weight that [`PAGE`] has written in the place of a page, which has bars.
fn weight(text: &WireText) -> Option<usize> {
    if text.len() > 20 { None } else { str::from_utf8(text).ok()?.parse().ok() }
}

/// A page as [`PAGE`] writes it.
fn read(query: &PageQuery, mut messages: WireText) -> Result<Page, Error> {
    let PageQuery { conversation, user, .. } = *query;
    let not_a_page = || Error::not_as_stored("a page");
    let mut last_part = || {
        let bar = messages.iter().rposition(|byte| *byte == b'|').ok_or_else(not_a_page)?;
        let part = messages.split_off(bar + 1);
        messages.truncate(bar);
        Ok::<_, Error>(part)
    };
    let (about, reports) = (last_part()?, last_part()?);
    let mut about = str::from_utf8(&about).map_err(|_| not_a_page())?.split_ascii_whitespace();
    let mut next = || about.next().ok_or_else(not_a_page);
    let (more, instance) = (next()? == "1", stored(next()?)?);
    let generation = stored_number(next()?)?;
    if more && messages.is_empty() && reports.is_empty() {
        // A client would ask for the rest for ever.
        let sentence = "messages or reports are missing in the middle of a conversation";
        return Err(Error::contradiction("reading messages", sentence));
    }
    let first = about.next();
    let last = about.next_back().or(first);
    let undelivered = match first.zip(last) {
        Some((first, last)) => {
            let places = (stored_number(first)?, stored_number(last)?);
            Some(Undelivered { conversation, user, generation, places })
        }
        None => None,
    };
    Ok(Page { instance, messages, reports, more, undelivered, _turn: None })
}

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
