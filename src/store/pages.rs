//! Pages of messages and reports. Each is one snapshot: one statement finds the cursors and writes a light page. Of a large
//! page it writes a plan, and the page is read in pieces within the same transaction.

mod pieces;
mod statements;

use deadpool::unmanaged::Object;
use serde::de::IgnoredAny;
use sqlx::SqliteConnection;
use tokio_util::sync::CancellationToken;

use super::message_ids::hash;
use super::readers::BatchQuery;
use super::values::{ManyRows, Values};
use super::{Error, Store, Undelivered, WireText, stored, stored_number};
use crate::domain::{Direction, Instance, MessageId, PageQuery, Timestamp};
use statements::PAGE;

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
        let asking = ReadPage { query: query.clone(), light_bytes };
        let Some(text) = self.pages.ask(asking).await? else {
            return Ok(None);
        };
        if let Some(bytes) = weight(&text) {
            let most = usize::try_from(query.bytes).unwrap_or(usize::MAX);
            return Ok(Some(Found::Large(bytes.min(most))));
        }
        let page = read(query, text)?;
        if is_json(&page.messages) && is_json(&page.reports) {
            return Ok(Some(Found::Page(page)));
        }
        let mut reads = self.reader().await?;
        let page = pieces::read(&mut reads, query, &CancellationToken::new()).await?;
        Ok(page.map(Found::Page))
    }

    /// A page of any size; `None` where the user has no such conversation. They are made one by one, in the order of the
    /// calls: the next one once an earlier page is dropped.
    ///
    /// `permit` is for the memory that the page takes. Where this is cancelled, the piece that SQLite is at is still made, so
    /// the permit is held, and no other page is made, until then.
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
        let (query, given_up) = (query.clone(), CancellationToken::new());
        let _given_up = given_up.clone().drop_guard();
        let readers = tokio::spawn(async move {
            (pieces::read(&mut turn, &query, &given_up).await, turn, permit)
        });
        let (page, turn, permit) = readers.await.map_err(|_| Error::Closed)?;
        Ok(page?.map(|page| (Page { _turn: Some(turn), ..page }, permit)))
    }
}

/// What [`PAGE`] takes.
pub(super) struct ReadPage {
    query: PageQuery,
    /// From which weight on the page is not made; negative where its plan is wanted.
    light_bytes: i64,
}

impl BatchQuery for ReadPage {
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
    refuse_gap(more, &messages, &reports)?;
    let news = (about.next(), about.next_back());
    let undelivered = undelivered(query, generation, news)?;
    Ok(Page { instance, messages, reports, more, undelivered, _turn: None })
}

/// Refuses an empty page with more behind it: a client would ask for the rest for ever.
fn refuse_gap(more: bool, messages: &WireText, reports: &WireText) -> Result<(), Error> {
    if more && messages.is_empty() && reports.is_empty() {
        let sentence = "messages or reports are missing in the middle of a conversation";
        return Err(Error::contradiction("reading messages", sentence));
    }
    Ok(())
}

/// What is between the first and the last place of a page's messages that its reader has for the first time.
fn undelivered(
    query: &PageQuery,
    generation: i64,
    (first, last): (Option<&str>, Option<&str>),
) -> Result<Option<Undelivered>, Error> {
    let Some((first, last)) = first.zip(last.or(first)) else { return Ok(None) };
    let row_keys = (stored_number(first)?, stored_number(last)?);
    let PageQuery { conversation, user, .. } = *query;
    Ok(Some(Undelivered { conversation, user, generation, row_keys }))
}
