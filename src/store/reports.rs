//! Reports: read receipts, each made once, and the read positions that they move. For the messages of a page the server
//! makes them itself, in one change per 256 row keys.

use std::convert::Infallible;

use sqlx::FromRow;
use uuid::{Builder, Uuid};

use super::changes::ChangeLog;
use super::error::Doing as _;
use super::listing::listed;
use super::many_rows::Column::{Integer, Text};
use super::many_rows::{ManyRows, ROWS};
use super::message_ids::{hash, row_key_of_id};
use super::row_keys::row_key;
use super::sql::{Connection, Sql};
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Store, WriteError, stored, stored_number};
use crate::domain::{
    ChangeSet, ConversationId, Instance, MessageId, Refusal, ReportType, StationId, Subject,
    Timestamp, UserId, fence,
};

listed!(
    HEAD,
    UNREPORTED,
    UNREPORTED_OF,
    UNREPORTED_BETWEEN,
    INSERT,
    MOVE_POSITION,
    ADVANCE,
    DELIVERED_TO
);

/// Reads what decides a participant's reports. Reports pass only between friends of whom neither blocks the other. Both
/// users see them, so a block must not look different from the end of the friendship.
const HEAD: Sql = Sql::both(
    "
    SELECT c.number, c.instance, c.generation, c.next_report_seq,
           max(c.first_message, (c.generation << 32) + 1) AS first_message,
           p.place AS participant, p.user_number, p.delivered_to, o.user_id AS other,
           o.user_number AS other_number, p.standing = 'open' AS may_report,
           coalesce((SELECT coalesce(r.max_created, r.created) FROM reports r
                     WHERE r.place > c.generation << 32 AND r.place < (c.generation + 1) << 32
                     ORDER BY r.place DESC LIMIT 1), '') AS max_created
    FROM participants p
    JOIN conversations c ON c.number = p.conversation_number
    JOIN participants o ON o.conversation_number = c.number AND o.user_id <> p.user_id
    WHERE p.conversation_id = $1 AND p.user_id = $2",
);

/// Selects the row keys of the named messages that the user has not reported with this type: of messages of the other
/// user in the present generation. `CROSS JOIN` makes SQLite look up each ID. A generation may have many messages.
static UNREPORTED: ManyRows = ManyRows::new(
    concat!(
        "WITH named (user_id, conversation_id, type, id, hash) AS ({rows})
         SELECT string_agg(CAST(m.place AS TEXT), ' ')
         FROM named CROSS JOIN participants p CROSS JOIN conversations c CROSS JOIN messages m
         WHERE p.user_id = named.user_id AND p.conversation_id = named.conversation_id
             AND c.number = p.conversation_number AND m.place = ",
        row_key_of_id!("c.generation", "named.id", "named.hash"),
        "    AND m.sender_number <> p.user_number
             AND NOT EXISTS (
                 SELECT 1 FROM reports r
                 WHERE r.message_place = m.place AND r.user_id = p.user_id AND r.type = named.type)"
    ),
    &[Text, Text, Text, Text, Integer],
);

/// Selects those row keys that the user has not reported with this type.
static UNREPORTED_OF: ManyRows = ManyRows::new(
    "WITH named (place, user_id, type) AS ({rows})
     SELECT string_agg(CAST(named.place AS TEXT), ' ') FROM named
     WHERE named.place IS NOT NULL AND NOT EXISTS (
         SELECT 1 FROM reports r
         WHERE r.message_place = named.place AND r.user_id = named.user_id AND r.type = named.type)",
    &[Integer, Text, Text],
);

/// Like [`UNREPORTED_OF`], of the other user's messages between two row keys.
const UNREPORTED_BETWEEN: Sql = Sql::both(
    "
    SELECT string_agg(CAST(m.place AS TEXT), ' ') FROM messages m
    WHERE m.place BETWEEN $1 AND $2 AND m.sender_number <> $3
        AND NOT EXISTS (
            SELECT 1 FROM reports r
            WHERE r.message_place = m.place AND r.user_id = $4 AND r.type = $5)",
);

static INSERT: ManyRows = ManyRows::new(
    "INSERT INTO reports (place, id, type, created, max_created, message_place, user_id)
     SELECT * FROM ({rows}) AS made WHERE column1 IS NOT NULL",
    &[Integer, Text, Text, Text, Text, Integer, Text],
);

/// Moves a reader's position forward to a message of the other user. A position of an earlier generation is behind all of
/// a later one.
const MOVE_POSITION: Sql = Sql::both(
    "UPDATE participants SET read_to = viewed.nth
     FROM (SELECT ((place >> 32) << 32) + nth AS nth FROM messages WHERE place = $2) AS viewed
     WHERE participants.place = $1 AND participants.read_to < viewed.nth",
);

static ADVANCE: ManyRows = ManyRows::new(
    "WITH made (number, reports) AS ({rows})
     UPDATE conversations
     SET next_report_seq = next_report_seq + made.reports,
         last_report_id = (SELECT replace(r.id, '-', '') FROM reports r
                           WHERE r.place = (generation << 32) + next_report_seq + made.reports - 1)
     FROM made WHERE conversations.number = made.number",
    &[Integer, Integer],
);

/// Advances `delivered_to` to `last` if every message of the other user between `known` and `first` was reported as
/// delivered. Does nothing if `known` is more than 1,000 row keys behind `first`, to bound the search.
static DELIVERED_TO: ManyRows = ManyRows::new(
    "WITH delivered (place, known, first, last) AS ({rows})
     UPDATE participants SET delivered_to = delivered.last
     FROM delivered
     WHERE participants.place = delivered.place AND delivered_to < delivered.last
         AND delivered.known >= delivered.first - 1000
         AND NOT EXISTS (
             SELECT 1 FROM messages m
             WHERE m.place > delivered.known AND m.place < delivered.first
                 AND m.sender_number <> participants.user_number
                 AND NOT EXISTS (
                     SELECT 1 FROM reports r
                     WHERE r.message_place = m.place AND r.user_id = participants.user_id
                         AND r.type = 'delivered'))",
    &[Integer, Integer, Integer, Integer],
);

/// Maximum row keys of one [`MarkDelivered`], so that it holds the writer for milliseconds.
const STEP: i64 = 256;

#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) conversation: ConversationId,
    /// The instance of the messages; `None` means the current one.
    pub(crate) instance: Option<Instance>,
    /// The report's type. `Viewed` reports the messages as delivered as well, and moves the reader's position, also
    /// where no report may be made.
    pub(crate) kind: ReportType,
    /// Row keys of messages of the other user, in ascending order. Those of an earlier generation, and those that were
    /// removed, are skipped.
    pub(crate) messages: Vec<i64>,
    pub(crate) now: Timestamp,
    /// The reader.
    pub(crate) user: UserId,
    /// The calling station, which is not told of the change.
    pub(crate) station: Option<StationId>,
}

impl WriteOp for Report {
    type Output = ();
    /// [`Refusal::ConversationNotFound`], [`Refusal::InstanceChanged`].
    type Refusal = Refusal;

    fn grows(&self) -> bool {
        true
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.messages)
    }

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError> {
        let user = self.user;
        let head = Head::read(tx.connection().await?, self.conversation, user).await?;
        let head = head.ok_or(Refusal::ConversationNotFound)?;
        if let Some(instance) = self.instance {
            fence(instance, stored(&head.instance)?)?;
        }
        let first = self.messages.partition_point(|row_key| *row_key < head.first_message);
        let messages = &self.messages[first..];
        let mut making = Making { user, head, now: self.now };
        let is_moved = match messages.last() {
            Some(newest) if self.kind == ReportType::Viewed => {
                making.head.move_position(tx, *newest).await?
            }
            _ => false,
        };
        let is_made = self.make(tx, &mut making, messages).await?;
        if is_moved || is_made {
            let subject = Subject::Conversation(self.conversation);
            let other = stored(&making.head.other)?;
            let mut changes = ChangeSet::default().with(user, subject, self.station);
            if is_made {
                changes.add(other, subject, None);
            }
            let mut changes = ChangeLog::from(changes);
            changes.know_user(user, making.head.user_number);
            changes.know_user(other, making.head.other_number);
            changes.know_conversation(self.conversation, making.head.number);
            changes.record(tx).await?;
        }
        Ok(())
    }
}

impl Report {
    /// Makes the missing reports. Returns whether there were any.
    async fn make(
        &self,
        tx: &mut WriteTx,
        making: &mut Making,
        messages: &[i64],
    ) -> Result<bool, Error> {
        let mut made = making.make(tx, ReportType::Delivered, Which::These(messages)).await?;
        if self.kind == ReportType::Viewed {
            made |= making.make(tx, ReportType::Viewed, Which::These(messages)).await?;
        }
        Ok(made)
    }
}

/// Messages of a page that its reader receives for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undelivered {
    pub(crate) conversation: ConversationId,
    /// The reader.
    pub(crate) user: UserId,
    pub(super) generation: i64,
    /// Row keys of the first and the last message. All messages between them are in the page.
    pub(super) row_keys: (i64, i64),
}

/// Reports messages as delivered. Only their sender is told.
struct MarkDelivered {
    undelivered: Undelivered,
    now: Timestamp,
}

impl WriteOp for MarkDelivered {
    type Output = ();
    type Refusal = Infallible;

    fn grows(&self) -> bool {
        true
    }

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError<Infallible>> {
        let Undelivered { conversation, user, generation, row_keys: (first, last) } =
            self.undelivered;
        let Some(head) = Head::read(tx.connection().await?, conversation, user).await? else {
            return Ok(());
        };
        if head.generation != generation || !head.may_report {
            return Ok(());
        }
        let mut making = Making { user, head, now: self.now };
        let which = Which::Between(first, last);
        if making.make(tx, ReportType::Delivered, which).await? {
            let subject = Subject::Conversation(conversation);
            let sender = stored(&making.head.other)?;
            let mut changes = ChangeLog::from(ChangeSet::default().with(sender, subject, None));
            changes.know_user(sender, making.head.other_number);
            changes.know_conversation(conversation, making.head.number);
            changes.record(tx).await?;
        }
        let known = making.head.delivered_to.max(making.head.first_message - 1);
        tx.defer(&DELIVERED_TO, &[making.head.participant], |participant, values| {
            values.add(*participant).add(known).add(first).add(last);
        });
        Ok(())
    }
}

/// A conversation as its reader's reports need it.
#[derive(FromRow)]
struct Head {
    number: i64,
    instance: String,
    generation: i64,
    next_report_seq: i64,
    /// Row key of the oldest message.
    first_message: i64,
    /// Row key of the reader among the participants.
    participant: i64,
    user_number: i64,
    delivered_to: i64,
    other: String,
    other_number: i64,
    may_report: bool,
    /// Latest date of this generation's reports. A clock may be set back, so new reports must not precede it.
    max_created: String,
}

impl Head {
    async fn read(
        connection: &mut Connection,
        conversation: ConversationId,
        user: UserId,
    ) -> Result<Option<Self>, Error> {
        let head = connection.query(HEAD).bind(conversation.as_str()).bind(user.as_str());
        head.optional().await.doing("checking reports")
    }

    /// Moves the reader's position forward to this row key. Returns whether it moved.
    async fn move_position(&self, tx: &mut WriteTx, row_key: i64) -> Result<bool, Error> {
        let moved = tx.query(MOVE_POSITION).await?.bind(self.participant).bind(row_key);
        Ok(moved.execute().await.doing("moving a read position")? > 0)
    }
}

/// Row keys of the messages to report.
#[derive(Clone, Copy)]
enum Which<'a> {
    These(&'a [i64]),
    /// First and last row key. The reader's own messages are skipped.
    Between(i64, i64),
}

struct Making {
    user: UserId,
    head: Head,
    now: Timestamp,
}

impl Making {
    /// Makes the missing reports of one type. Returns whether there were any. Does nothing if the reader may not
    /// report.
    async fn make(
        &mut self,
        tx: &mut WriteTx,
        report_type: ReportType,
        which: Which<'_>,
    ) -> Result<bool, Error> {
        if !self.head.may_report {
            return Ok(false);
        }
        let messages = self.unreported(tx, report_type, which).await?;
        if messages.is_empty() {
            return Ok(false);
        }
        let made = i64::try_from(messages.len()).unwrap_or(i64::MAX);
        self.insert(tx, report_type, &messages);
        tx.defer(&ADVANCE, &[self.head.number], |conversation, values| {
            values.add(*conversation).add(made);
        });
        self.head.next_report_seq += made;
        Ok(true)
    }

    /// Returns the row keys of the messages that have no report of this type, in ascending order.
    async fn unreported(
        &self,
        tx: &mut WriteTx,
        report_type: ReportType,
        which: Which<'_>,
    ) -> Result<Vec<i64>, Error> {
        const DOING: &str = "looking for missing reports";
        let (user, report_type) = (self.user.as_str(), report_type.as_str());
        let mut found = Vec::new();
        match which {
            Which::These(messages) => {
                for messages in messages.chunks(ROWS) {
                    let keys = tx.query_scalar(&UNREPORTED_OF, messages, |row_key, values| {
                        values.add(*row_key).add(user).add(report_type);
                    });
                    found.extend(row_keys(keys.await.doing(DOING)?)?);
                }
            }
            Which::Between(first, last) => {
                let keys = tx.query(UNREPORTED_BETWEEN).await?.bind(first).bind(last);
                let keys = keys.bind(self.head.user_number).bind(user).bind(report_type);
                found = row_keys(keys.value().await.doing(DOING)?)?;
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    fn insert(&self, tx: &mut WriteTx, report_type: ReportType, messages: &[i64]) {
        let (generation, created) = (self.head.generation, self.now.to_string());
        let max_created = Some(self.head.max_created.as_str()).filter(|latest| **latest > *created);
        let rows: Vec<_> = (self.head.next_report_seq..).zip(messages).collect();
        for rows in rows.chunks(ROWS) {
            tx.defer(&INSERT, rows, |(seq, message), values| {
                values
                    .add(row_key(generation, *seq))
                    .add(report_id(*seq).as_str())
                    .add(report_type.as_str())
                    .add(created.as_str())
                    .add(max_created)
                    .add(**message)
                    .add(self.user.as_str());
            });
        }
    }
}

/// Returns a UUID version 8 (RFC 9562) for a report. Its last 48 bits are the report's sequence number, by which it is
/// found again. 74 other bits are random.
fn report_id(seq: i64) -> String {
    let mut bytes = Uuid::new_v4().into_bytes();
    bytes[10..].copy_from_slice(&seq.to_be_bytes()[2..]);
    Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

/// Parses row keys that a statement has joined with spaces.
fn row_keys(text: Option<String>) -> Result<Vec<i64>, Error> {
    text.unwrap_or_default().split_ascii_whitespace().map(stored_number).collect()
}

impl Store {
    /// Returns the row keys, in ascending order, of the other user's messages that a user has not reported with this
    /// type. Those reported already take no time of the writer: a `viewed` has moved the position as well. The write
    /// checks again.
    pub(crate) async fn unreported(
        &self,
        conversation: ConversationId,
        user: UserId,
        report_type: ReportType,
        messages: &[MessageId],
    ) -> Result<Vec<i64>, Error> {
        let mut reads = self.reader().await?;
        let mut unreported = Vec::new();
        for messages in messages.chunks(ROWS) {
            let keys = reads.query_rows(&UNREPORTED, messages, |message, values| {
                values
                    .add(user.as_str())
                    .add(conversation.as_str())
                    .add(report_type.as_str())
                    .add(message.as_str())
                    .add(hash(message.as_str()));
            });
            unreported.extend(row_keys(keys.value().await.doing("looking for reports")?)?);
        }
        unreported.sort_unstable();
        // A request may name a message twice.
        unreported.dedup();
        Ok(unreported)
    }

    /// Reports messages of a page as delivered, in the background and in steps of 256 row keys. A lost report is made
    /// by the next page that holds the message.
    pub fn mark_delivered(&self, undelivered: Undelivered, now: Timestamp) {
        let (first, last) = undelivered.row_keys;
        let mut from = first;
        while from <= last {
            let row_keys = (from, last.min(from + STEP - 1));
            let undelivered = Undelivered { row_keys, ..undelivered };
            self.writer.offer(MarkDelivered { undelivered, now });
            from += STEP;
        }
    }
}
