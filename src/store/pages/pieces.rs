//! Pages in pieces.
//!
//! SQLite and sqlx hold five copies of a text on its way. Of a page of 8 MiB these are 40 MiB, of a piece of it 5 MiB.

use std::iter;

use sqlx::{Connection as _, SqliteConnection};
use tokio_util::sync::CancellationToken;

use super::super::error::Doing as _;
use super::super::readers::ask;
use super::statements::{DAMAGED_MESSAGES, DAMAGED_REPORTS, MESSAGES, REPORTS};
use super::{Page, ReadPage, is_json, refuse_gap, undelivered};
use crate::domain::{Direction, Instance, PageQuery};
use crate::store::{Error, WireText, stored, stored_number};

/// Bytes of a piece. One message may exceed it.
const PIECE_BYTES: i64 = 1024 * 1024;

/// Maximum bytes of an object beside the data of a message.
const OBJECT_BYTES: i64 = 300;

/// Entries of a page.
struct Entries {
    /// The place of the first one.
    first: i64,
    count: i64,
}

impl Entries {
    /// Entries from the one that is nearest to the cursor.
    fn of(nearest: i64, count: i64, direction: Direction) -> Self {
        let first = match direction {
            Direction::Forward => nearest,
            Direction::Backward => nearest - count + 1,
        };
        Self { first, count }
    }

    /// The first and the last place of each piece with at most so many entries.
    fn pieces(&self, entries: i64) -> impl Iterator<Item = (i64, i64)> {
        let end = self.first + self.count;
        let next = move |first: i64| Some(first + entries).filter(|next| *next < end);
        let first = Some(self.first).filter(|first| *first < end);
        iter::successors(first, move |first| next(*first))
            .map(move |first| (first, end.min(first + entries) - 1))
    }
}

/// What a page has, and what its messages are read with.
struct Plan {
    more: bool,
    instance: Instance,
    generation: i64,
    messages: Entries,
    reports: Entries,
    longest_data: i64,
    reader_number: i64,
    /// All messages up to this place are reported as delivered to the reader.
    delivered_to: i64,
    may_report: bool,
}

impl Plan {
    /// Reads the plan that [`PAGE`](super::PAGE) has written.
    fn read(text: &WireText, direction: Direction) -> Result<Self, Error> {
        let no_plan = || Error::not_as_stored("the plan of a page");
        let text = str::from_utf8(text).map_err(|_| no_plan())?;
        let mut words = text.split(' ');
        let mut next = || words.next().ok_or_else(no_plan);
        let (more, instance) = (next()? == "1", stored(next()?)?);
        let mut next = || stored_number(next()?);
        Ok(Self {
            more,
            instance,
            generation: next()?,
            messages: Entries::of(next()?, next()?, direction),
            reports: Entries::of(next()?, next()?, direction),
            longest_data: next()?,
            reader_number: next()?,
            delivered_to: next()?,
            may_report: next()? == 1,
        })
    }
}

/// Reads a page of any size in one snapshot; `None` where the user has no such conversation. Ends after the piece that it is
/// at once it is given up.
pub(super) async fn read(
    connection: &mut SqliteConnection,
    query: &PageQuery,
    given_up: &CancellationToken,
) -> Result<Option<Page>, Error> {
    let mut snapshot = connection.begin().await.doing("beginning to read messages")?;
    let asking = ReadPage { query: query.clone(), light_bytes: -1 };
    let Some(plan) = ask(&mut snapshot, &asking).await? else { return Ok(None) };
    let plan = Plan::read(&plan, query.direction)?;
    let page = Reading { query, plan, given_up }.read(&mut snapshot).await?;
    snapshot.rollback().await.doing("ending to read messages")?;
    Ok(Some(page))
}

struct Reading<'a> {
    query: &'a PageQuery,
    plan: Plan,
    given_up: &'a CancellationToken,
}

impl Reading<'_> {
    async fn read(self, connection: &mut SqliteConnection) -> Result<Page, Error> {
        let plan = &self.plan;
        let message_bytes = plan.longest_data + OBJECT_BYTES;
        // A vector that grows is copied each time.
        let most = (plan.messages.count * message_bytes).min(i64::from(self.query.bytes));
        let mut messages = Vec::with_capacity(usize::try_from(most).unwrap_or(0));
        let mut news = (None, None);
        for piece in plan.messages.pieces((PIECE_BYTES / message_bytes).max(1)) {
            let (objects, undelivered) = self.messages(connection, piece).await?;
            append(&mut messages, &objects);
            let mut row_keys = undelivered.split(' ').filter(|place| !place.is_empty());
            let first = row_keys.next().map(str::to_owned);
            let last = row_keys.next_back().map(str::to_owned).or_else(|| first.clone());
            news = (news.0.or(first), last.or(news.1));
        }
        let mut reports = WireText::new();
        for piece in plan.reports.pieces(PIECE_BYTES / OBJECT_BYTES) {
            append(&mut reports, &self.reports(connection, piece).await?);
        }
        let Plan { more, instance, generation, .. } = self.plan;
        refuse_gap(more, &messages, &reports)?;
        let news = (news.0.as_deref(), news.1.as_deref());
        let undelivered = undelivered(self.query, generation, news)?;
        Ok(Page { instance, messages, reports, more, undelivered, _turn: None })
    }

    /// The objects of a piece, and the places of those that are to be reported as delivered.
    async fn messages(
        &self,
        connection: &mut SqliteConnection,
        piece: (i64, i64),
    ) -> Result<(WireText, String), Error> {
        let (objects, news) = self.messages_by(MESSAGES, connection, piece).await?;
        if is_json(&objects) {
            return Ok((objects, news));
        }
        self.warn();
        let (objects, news) = self.messages_by(DAMAGED_MESSAGES, connection, piece).await?;
        Ok((as_text(&objects), news))
    }

    async fn messages_by(
        &self,
        statement: &'static str,
        connection: &mut SqliteConnection,
        (first, last): (i64, i64),
    ) -> Result<(WireText, String), Error> {
        self.refuse_given_up()?;
        let objects = sqlx::query_as(statement)
            .bind(first)
            .bind(last)
            .bind(self.query.user.as_str().to_owned())
            .bind(self.plan.reader_number)
            .bind(self.plan.delivered_to)
            .bind(self.plan.may_report);
        objects.fetch_one(connection).await.doing("reading messages")
    }

    async fn reports(
        &self,
        connection: &mut SqliteConnection,
        piece: (i64, i64),
    ) -> Result<WireText, Error> {
        let objects = self.reports_by(REPORTS, connection, piece).await?;
        if is_json(&objects) {
            return Ok(objects);
        }
        self.warn();
        Ok(as_text(&self.reports_by(DAMAGED_REPORTS, connection, piece).await?))
    }

    async fn reports_by(
        &self,
        statement: &'static str,
        connection: &mut SqliteConnection,
        (first, last): (i64, i64),
    ) -> Result<WireText, Error> {
        self.refuse_given_up()?;
        let objects = sqlx::query_scalar(statement).bind(first).bind(last);
        objects.fetch_one(connection).await.doing("reading reports")
    }

    fn refuse_given_up(&self) -> Result<(), Error> {
        if self.given_up.is_cancelled() { Err(Error::Closed) } else { Ok(()) }
    }

    fn warn(&self) {
        let conversation = self.query.conversation;
        tracing::warn!(%conversation, "a text of this conversation is not what was stored: check the disk");
    }
}

/// What can be read of objects that are no UTF-8.
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

    #[test]
    fn pieces_cover_all_entries_once() {
        let pieces =
            |first, count, entries| Entries { first, count }.pieces(entries).collect::<Vec<_>>();
        assert_eq!(pieces(5, 0, 3), []);
        assert_eq!(pieces(5, 3, 3), [(5, 7)]);
        assert_eq!(pieces(5, 7, 3), [(5, 7), (8, 10), (11, 11)]);
        let nearest_last = Entries::of(9, 4, Direction::Backward);
        assert_eq!(nearest_last.pieces(9).collect::<Vec<_>>(), [(6, 9)]);
    }
}
