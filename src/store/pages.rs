//! Pages of messages and reports. Each page is one snapshot. One statement finds the cursors and writes a light page; with
//! PostgreSQL a shorter one is tried first ([`light`]).
//! For a large page it writes a plan, and the page is read in pieces within the same transaction.

pub(super) mod light;
pub(super) mod pieces;
pub(super) mod statements;
#[cfg(test)]
mod steps;

use deadpool::unmanaged::Object;
use serde::de::IgnoredAny;
use tokio_util::sync::CancellationToken;

use super::many_rows::Column::{self, Flag, Integer, Text};
use super::many_rows::{ManyRows, Values};
use super::message_ids::hash;
use super::readers::BatchQuery;
use super::sql::Connection;
use super::{Error, Store, Undelivered, WireText, stored, stored_number};
use crate::domain::{Cursor, Direction, Instance, MessageId, PageForm, PageQuery, Timestamp};
use light::{EXTENDED_LIGHT_PAGE, LIGHT_PAGE};
use statements::{EXTENDED_PAGE, PAGE};

/// A page of messages and reports.
#[derive(Debug)]
pub struct Page {
    /// The current instance, which the page belongs to.
    pub instance: Instance,
    /// Message objects from old to new, separated by commas.
    pub messages: WireText,
    /// Report objects from old to new, separated by commas.
    pub reports: WireText,
    /// Forward: whether entries follow this page. Backward: whether the byte limit left out requested entries. Extended:
    /// whether any limit of the server left out entries.
    pub more: bool,
    /// Which cursors name an ID that the instance lacks.
    pub(crate) unknown: UnknownCursors,
    /// Messages that the reader receives for the first time.
    pub undelivered: Option<Undelivered>,
    /// The connection of a large page. No other large page is read until this is dropped.
    _turn: Option<Object<Connection>>,
}

/// Cursors with an ID that the instance lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnknownCursors {
    pub(crate) message: bool,
    pub(crate) report: bool,
}

impl UnknownCursors {
    /// Takes what a statement wrote of the messages' and the reports' cursor: `1` where it found the ID.
    fn of(query: &PageQuery, found: [&str; 2]) -> Self {
        let is_unknown = |cursor: &Cursor, found| cursor.id.is_some() && found != "1";
        Self {
            message: is_unknown(&query.cursor, found[0]),
            report: is_unknown(&query.report_cursor, found[1]),
        }
    }

    /// Returns their names on the wire: `message` before `report`.
    pub(crate) fn names(self) -> Vec<&'static str> {
        let all = [(self.message, "message"), (self.report, "report")];
        all.into_iter().filter_map(|(is_unknown, name)| is_unknown.then_some(name)).collect()
    }
}

/// Maximum bytes of a light page, which is read at once. A client shows fifty messages of some hundred bytes at a time.
/// Larger pages are read one by one, with their memory reserved first.
pub(crate) const LIGHT_PAGE_BYTES: usize = 128 * 1024;

/// A light page, or the size of a large one.
#[derive(Debug)]
pub enum Found {
    /// A page of at most [`LIGHT_PAGE_BYTES`].
    Page(Page),
    /// A larger page, which was not read, and its size in bytes: that of its entries, or an upper bound.
    Large(usize),
}

impl Store {
    /// Reads a page if it is light; `None` if the user has no such conversation.
    ///
    /// # Errors
    ///
    /// [`Error`] if it could not be read.
    pub async fn page(&self, query: &PageQuery) -> Result<Option<Found>, Error> {
        let light_bytes = i64::try_from(LIGHT_PAGE_BYTES).unwrap_or(i64::MAX);
        let read_page = ReadPage { query: query.clone(), light_bytes };
        let text = match query.form {
            PageForm::Documented => self.pages.ask(read_page).await?,
            PageForm::Extended { .. } => self.extended_pages.ask(Extended(read_page)).await?,
        };
        let Some(text) = text else {
            return Ok(None);
        };
        if let Some(bytes) = weight(&text) {
            let most = usize::try_from(query.bytes).unwrap_or(usize::MAX);
            return Ok(Some(Found::Large(bytes.min(most))));
        }
        let page = read(query, text)?;
        if is_json(&page.messages, message_quotes(query.form))
            && is_json(&page.reports, REPORT_QUOTES)
        {
            return Ok(Some(Found::Page(page)));
        }
        let (page, ..) = in_pieces(self.reader().await?, query, ()).await?;
        Ok(page.map(Found::Page))
    }

    /// Reads a page of any size; `None` if the user has no such conversation. Large pages are read one at a time, in
    /// the order of the calls. The next one waits until the earlier page is dropped.
    ///
    /// `permit` accounts for the page's memory. On cancellation SQLite still finishes the current piece. Until then the
    /// permit is held and no other large page is read.
    ///
    /// # Errors
    ///
    /// [`Error`] if it could not be read.
    pub async fn large_page<P: Send + 'static>(
        &self,
        query: &PageQuery,
        permit: P,
    ) -> Result<Option<(Page, P)>, Error> {
        let turn = self.large_reader.get().await?;
        let (page, turn, permit) = in_pieces(turn, query, permit).await?;
        Ok(page.map(|page| (Page { _turn: Some(turn), ..page }, permit)))
    }
}

/// Reads in a task of its own. If the call is cancelled, the task keeps the connection and the permit until the current
/// piece ends.
async fn in_pieces<P: Send + 'static>(
    mut connection: Object<Connection>,
    query: &PageQuery,
    permit: P,
) -> Result<(Option<Page>, Object<Connection>, P), Error> {
    let (query, cancelled) = (query.clone(), CancellationToken::new());
    let _cancelled = cancelled.clone().drop_guard();
    let reading = tokio::spawn(async move {
        (pieces::read(&mut connection, &query, &cancelled).await, connection, permit)
    });
    let (page, connection, permit) = reading.await.map_err(|_| Error::Closed)?;
    Ok((page?, connection, permit))
}

/// The parameters of [`PAGE`] and [`EXTENDED_PAGE`].
pub(super) struct ReadPage {
    query: PageQuery,
    /// Weight in bytes above which the page is not made. A negative value asks for the page's plan.
    light_bytes: i64,
}

/// Types of what [`ReadPage`] binds.
const PARAMETERS: &[Column] = &[
    Text, Text, Text, Integer, Integer, Integer, Integer, Integer, Text, Text, Flag, Integer, Flag,
];

impl ReadPage {
    /// Whether a statement for light pages may make it: it can't search for a date or write a plan.
    fn may_be_light(&self) -> bool {
        let PageQuery { cursor, report_cursor, .. } = &self.query;
        self.light_bytes >= 0 && cursor.date.is_none() && report_cursor.date.is_none()
    }
}

impl BatchQuery for ReadPage {
    const STATEMENT: &'static ManyRows = &PAGE;
    const DOING: &'static str = "reading messages";

    fn light(&self) -> Option<&'static ManyRows> {
        self.may_be_light().then_some(&LIGHT_PAGE)
    }

    fn bind(&self, values: &mut Values<'_>) {
        let PageQuery {
            conversation, user, cursor, report_cursor, entries, bytes, direction, ..
        } = &self.query;
        let report = report_cursor.report();
        let report_date = report_cursor.date.map(|date| date.to_string());
        values
            .add(conversation.as_str())
            .add(user.as_str())
            .add(cursor.id.as_ref().map(MessageId::as_str))
            .add(cursor.id.as_ref().map(|id| hash(id.as_str())))
            .add(cursor.date.map(Timestamp::unix))
            .add(i64::from(*entries))
            .add(i64::from(*bytes))
            .add(report.as_ref().map(|(seq, _)| *seq))
            .add(report.as_ref().map(|(_, id)| id.as_str()))
            .add(report_date.as_deref())
            .add(*direction == Direction::Forward)
            .add(self.light_bytes)
            .add(self.query.counts_rest());
    }
}

/// Asks for an extended page.
pub(super) struct Extended(ReadPage);

impl BatchQuery for Extended {
    const STATEMENT: &'static ManyRows = &EXTENDED_PAGE;
    const DOING: &'static str = ReadPage::DOING;

    fn light(&self) -> Option<&'static ManyRows> {
        self.0.may_be_light().then_some(&EXTENDED_LIGHT_PAGE)
    }

    fn bind(&self, values: &mut Values<'_>) {
        self.0.bind(values);
    }
}

/// Quotes in a plain report object: five strings.
const REPORT_QUOTES: usize = 20;

/// Returns the number of quotes in a plain message object: four for each string.
fn message_quotes(form: PageForm) -> usize {
    match form {
        PageForm::Documented => 20,
        PageForm::Extended { .. } => 24,
    }
}

/// Returns whether the objects are valid JSON. A byte changed on disk must not make a whole page unparsable. Nearly all
/// objects are plain, which takes 1 µs per 20 KiB to check. A `Type` may hold anything.
fn is_json(objects: &[u8], quotes_of_one: usize) -> bool {
    is_plain(objects, quotes_of_one)
        || str::from_utf8(objects)
            .is_ok_and(|text| serde_json::from_str::<IgnoredAny>(&format!("[{text}]")).is_ok())
}

/// Returns whether these are objects of plain strings: printable ASCII, no backslash, and this many quotes per brace.
/// The inner loop has no branches, so it compiles to vector instructions.
fn is_plain(objects: &[u8], quotes_of_one: usize) -> bool {
    let (mut quotes, mut braces) = (0, 0);
    // The counts of a chunk fit into a byte.
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
    quotes == quotes_of_one * braces
}

/// Returns the weight that [`PAGE`] has written instead of a page. A page contains bars, so it is never a number.
fn weight(text: &WireText) -> Option<usize> {
    if text.len() > 20 { None } else { str::from_utf8(text).ok()?.parse().ok() }
}

/// Parses a page as [`PAGE`] writes it.
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
    let unknown = UnknownCursors::of(query, [next()?, next()?]);
    refuse_gap(more, &messages, &reports)?;
    let first = about.next().map(stored_number).transpose()?;
    let last = about.next_back().map(stored_number).transpose()?.or(first);
    let undelivered = undelivered(query, generation, first.zip(last));
    Ok(Page { instance, messages, reports, more, unknown, undelivered, _turn: None })
}

/// Refuses an empty page that announces more: a client would request the rest for ever.
fn refuse_gap(more: bool, messages: &WireText, reports: &WireText) -> Result<(), Error> {
    if more && messages.is_empty() && reports.is_empty() {
        let sentence = "messages or reports are missing in the middle of a conversation";
        return Err(Error::contradiction("reading messages", sentence));
    }
    Ok(())
}

fn undelivered(
    query: &PageQuery,
    generation: i64,
    row_keys: Option<(i64, i64)>,
) -> Option<Undelivered> {
    let PageQuery { conversation, user, .. } = *query;
    row_keys.map(|row_keys| Undelivered { conversation, user, generation, row_keys })
}
