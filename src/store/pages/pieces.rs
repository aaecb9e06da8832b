//! Pages in pieces.
//!
//! SQLite and sqlx hold five copies of a text on its way. That is 40 MiB for a page of 8 MiB, and 5 MiB for a piece of
//! it.

use sqlx::FromRow;
use tokio_util::sync::CancellationToken;

use super::statements::{
    DAMAGED_MESSAGES, DAMAGED_REPORTS, DAMAGED_REPORTS_ABOUT, EXTENDED_DAMAGED_MESSAGES,
    EXTENDED_MESSAGES, MESSAGES, REPORTS, REPORTS_ABOUT,
};
use super::{
    Extended, Page, REPORT_QUOTES, ReadPage, UnknownCursors, is_json, message_quotes, refuse_gap,
    undelivered,
};
use crate::domain::{Direction, Instance, PageForm, PageQuery};
use crate::store::error::Doing as _;
use crate::store::listing::listed;
use crate::store::readers::ask;
use crate::store::sql::{Connection, Sql, Utf8};
use crate::store::write_tx::ROLLBACK;
use crate::store::{Error, WireText, stored, stored_number};

listed!(BEGIN);

/// Begins a transaction whose reads all see the same snapshot.
const BEGIN: Sql = Sql::pair("BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");

/// Maximum bytes of data of a piece. A single message may exceed it.
const PIECE_BYTES: i64 = 1024 * 1024;

/// Maximum entries of a piece: with little or no data they have about 150 KiB.
const PIECE_ENTRIES: i64 = 512;

/// A run of consecutive entries of a page.
struct Entries {
    /// Row key of the first entry.
    first: i64,
    count: i64,
}

impl Entries {
    /// Returns `count` entries in this direction, beginning with the one nearest to the cursor.
    fn of(nearest: i64, count: i64, direction: Direction) -> Self {
        let first = match direction {
            Direction::Forward => nearest,
            Direction::Backward => nearest - count + 1,
        };
        Self { first, count }
    }

    /// Returns the first and the last row key.
    fn row_keys(&self) -> (i64, i64) {
        (self.first, self.first + self.count - 1)
    }

    /// Returns the first row key of the next piece, and the last one that it may have. `None` where no entry is left.
    fn next_piece(&self) -> Option<(i64, i64)> {
        let entries = self.count.min(PIECE_ENTRIES);
        (entries > 0).then(|| (self.first, self.first + entries - 1))
    }

    /// Drops the entries up to and including this row key.
    fn drop_up_to(&mut self, last: i64) {
        self.count -= last + 1 - self.first;
        self.first = last + 1;
    }
}

/// The extent of a page, and the parameters for reading its messages.
struct Plan {
    more: bool,
    instance: Instance,
    generation: i64,
    unknown: UnknownCursors,
    messages: Entries,
    reports: Entries,
    reader_number: i64,
    /// All messages up to this row key are reported as delivered to the reader.
    delivered_to: i64,
    may_report: bool,
    /// Number and id of the other participant. Only the plan of an extended page has them.
    partner: Option<(i64, String)>,
}

impl Plan {
    /// Parses the plan that [`PAGE`](super::PAGE) or [`EXTENDED_PAGE`](super::EXTENDED_PAGE) has written.
    fn read(text: &WireText, query: &PageQuery) -> Result<Self, Error> {
        let no_plan = || Error::not_as_stored("the plan of a page");
        let text = str::from_utf8(text).map_err(|_| no_plan())?;
        let mut words = text.split(' ');
        let mut next = || words.next().ok_or_else(no_plan);
        let (more, instance) = (next()? == "1", stored(next()?)?);
        let generation = stored_number(next()?)?;
        let unknown = UnknownCursors::of(query, [next()?, next()?]);
        let mut next = || stored_number(next()?);
        Ok(Self {
            more,
            instance,
            generation,
            unknown,
            messages: Entries::of(next()?, next()?, query.direction),
            reports: Entries::of(next()?, next()?, query.direction),
            reader_number: next()?,
            delivered_to: next()?,
            may_report: next()? == 1,
            partner: match (words.next(), words.next()) {
                (Some(number), Some(id)) => Some((stored_number(number)?, id.to_owned())),
                _ => None,
            },
        })
    }
}

/// Reads a page of any size in one snapshot; `None` if the user has no such conversation. On cancellation, it stops
/// after the current piece.
pub(super) async fn read(
    connection: &mut Connection,
    query: &PageQuery,
    cancelled: &CancellationToken,
) -> Result<Option<Page>, Error> {
    // Plain statements, because SQLite ends a transaction by itself after some errors. sqlx would take that transaction
    // for open, and the connection would keep a snapshot for ever.
    connection.query(BEGIN).execute().await.doing("beginning a read of messages")?;
    let page = read_within(connection, query, cancelled).await;
    let ended = connection.query(ROLLBACK).execute().await.doing("ending a read of messages");
    let page = page?;
    ended?;
    Ok(page)
}

async fn read_within(
    connection: &mut Connection,
    query: &PageQuery,
    cancelled: &CancellationToken,
) -> Result<Option<Page>, Error> {
    let read_plan = ReadPage { query: query.clone(), light_bytes: -1 };
    let plan = match query.form {
        PageForm::Documented => ask(connection, &read_plan).await?,
        PageForm::Extended { .. } => ask(connection, &Extended(read_plan)).await?,
    };
    let Some(plan) = plan else { return Ok(None) };
    let plan = Plan::read(&plan, query)?;
    Reading { query, plan, cancelled }.read(connection).await.map(Some)
}

struct Reading<'a> {
    query: &'a PageQuery,
    plan: Plan,
    cancelled: &'a CancellationToken,
}

/// A piece of a page's messages.
#[derive(FromRow)]
struct Messages {
    /// Message objects, separated by commas.
    objects: Utf8,
    /// Row keys of the first and the last message that is still to be reported as delivered.
    first_news: Option<i64>,
    last_news: Option<i64>,
    /// Row key of the last message: a piece with much data ends early.
    last: Option<i64>,
}

impl Reading<'_> {
    async fn read(mut self, connection: &mut Connection) -> Result<Page, Error> {
        let (first, last) = self.plan.messages.row_keys();
        // Reserved in full, because a vector that grows is copied each time.
        let mut messages = Vec::with_capacity(usize::try_from(self.query.bytes).unwrap_or(0));
        let (mut first_news, mut last_news) = (None, None);
        while let Some(piece) = self.plan.messages.next_piece() {
            let read = self.messages(connection, piece).await?;
            self.plan.messages.drop_up_to(read.last.unwrap_or(piece.1));
            append(&mut messages, &read.objects.0);
            first_news = first_news.or(read.first_news);
            last_news = read.last_news.or(last_news);
        }
        let mut reports = match (self.query.form, self.query.direction) {
            // At most two about each of 500 messages: 214 KiB.
            (PageForm::Extended { .. }, Direction::Backward) => {
                let statements = [REPORTS_ABOUT, DAMAGED_REPORTS_ABOUT];
                self.reports(statements, connection, (first, last)).await?
            }
            _ => WireText::new(),
        };
        while let Some(piece) = self.plan.reports.next_piece() {
            let statements = [REPORTS, DAMAGED_REPORTS];
            append(&mut reports, &self.reports(statements, connection, piece).await?);
            self.plan.reports.drop_up_to(piece.1);
        }
        let Plan { more, instance, generation, unknown, .. } = self.plan;
        refuse_gap(more, &messages, &reports)?;
        let undelivered = undelivered(self.query, generation, first_news.zip(last_news));
        Ok(Page { instance, messages, reports, more, unknown, undelivered, _turn: None })
    }

    async fn messages(
        &self,
        connection: &mut Connection,
        piece: (i64, i64),
    ) -> Result<Messages, Error> {
        let (plain, damaged) = match self.query.form {
            PageForm::Documented => (MESSAGES, DAMAGED_MESSAGES),
            PageForm::Extended { .. } => (EXTENDED_MESSAGES, EXTENDED_DAMAGED_MESSAGES),
        };
        let read = self.messages_by(plain, connection, piece).await?;
        if is_json(&read.objects.0, message_quotes(self.query.form)) {
            return Ok(read);
        }
        self.warn();
        let read = self.messages_by(damaged, connection, piece).await?;
        Ok(Messages { objects: Utf8(as_text(&read.objects.0)), ..read })
    }

    async fn messages_by(
        &self,
        statement: Sql,
        connection: &mut Connection,
        (first, last): (i64, i64),
    ) -> Result<Messages, Error> {
        self.refuse_cancelled()?;
        let mut objects = connection
            .query(statement)
            .bind(first)
            .bind(last)
            .bind(self.query.user.as_str())
            .bind(self.plan.reader_number)
            .bind(self.plan.delivered_to)
            .bind(self.plan.may_report)
            .bind(PIECE_BYTES);
        if let Some((number, id)) = &self.plan.partner {
            objects = objects.bind(*number).bind(id.as_str());
        }
        objects.one().await.doing("reading messages")
    }

    /// Reads reports by the first statement, or by the second one where their texts are damaged.
    async fn reports(
        &self,
        [plain, damaged]: [Sql; 2],
        connection: &mut Connection,
        piece: (i64, i64),
    ) -> Result<WireText, Error> {
        let objects = self.reports_by(plain, connection, piece).await?;
        if is_json(&objects, REPORT_QUOTES) {
            return Ok(objects);
        }
        self.warn();
        Ok(as_text(&self.reports_by(damaged, connection, piece).await?))
    }

    async fn reports_by(
        &self,
        statement: Sql,
        connection: &mut Connection,
        (first, last): (i64, i64),
    ) -> Result<WireText, Error> {
        self.refuse_cancelled()?;
        let objects = connection.query(statement).bind(first).bind(last);
        let Utf8(objects) = objects.value().await.doing("reading reports")?;
        Ok(objects)
    }

    fn refuse_cancelled(&self) -> Result<(), Error> {
        if self.cancelled.is_cancelled() { Err(Error::Closed) } else { Ok(()) }
    }

    fn warn(&self) {
        let conversation = self.query.conversation;
        tracing::warn!(%conversation, "a stored text of this conversation is corrupt: check the disk");
    }
}

/// Decodes objects that are not UTF-8. What can't be decoded becomes U+FFFD.
fn as_text(objects: &WireText) -> WireText {
    String::from_utf8_lossy(objects).into_owned().into_bytes()
}

fn append(to: &mut WireText, objects: &WireText) {
    if !to.is_empty() && !objects.is_empty() {
        to.push(b',');
    }
    to.extend_from_slice(objects);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(mut entries: Entries, last: impl Fn((i64, i64)) -> i64) -> Vec<(i64, i64)> {
        let mut pieces = Vec::new();
        while let Some(piece) = entries.next_piece() {
            let last = last(piece);
            pieces.push((piece.0, last));
            entries.drop_up_to(last);
        }
        pieces
    }

    #[test]
    fn pieces_cover_all_entries_once() {
        let whole = |entries| pieces(entries, |(_, last)| last);
        assert_eq!(whole(Entries { first: 5, count: 0 }), []);
        assert_eq!(whole(Entries { first: 5, count: 512 }), [(5, 516)]);
        assert_eq!(whole(Entries { first: 5, count: 1000 }), [(5, 516), (517, 1004)]);
        let backward = Entries::of(9, 4, Direction::Backward);
        assert_eq!(whole(backward), [(6, 9)]);
    }

    #[test]
    fn a_piece_that_ends_early_leaves_the_rest_to_the_next_one() {
        let short = pieces(Entries { first: 5, count: 3 }, |(first, _)| first);
        assert_eq!(short, [(5, 5), (6, 6), (7, 7)]);
    }
}
