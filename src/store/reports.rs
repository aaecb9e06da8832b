//! Reports: read receipts, each made once, and the read positions that they move. For the messages of a page the server
//! makes them itself, in one change per 256 row keys.

use std::convert::Infallible;

use sqlx::{FromRow, SqliteConnection};

use super::changes::ChangeLog;
use super::error::Doing as _;
use super::many_rows::ManyRows;
use super::sqlite::message_ids::{hashes_of, row_key_of_id};
use super::sqlite::row_keys::row_key;
use super::sqlite::write_tx::WriteTx;
use super::write_op::WriteOp;
use super::{Error, Store, WriteError, stored};
use crate::domain::{
    ChangeSet, ConversationId, Instance, MessageId, Refusal, ReportType, StationId, Subject,
    Timestamp, UserId, fence,
};

/// Reads what decides a participant's reports. Reports pass only between friends of whom neither blocks the other. Both
/// users see them, so a block must not look different from the end of the friendship.
const HEAD: &str = "
    SELECT c.number, c.instance, c.generation, c.next_report_seq,
           p.place AS participant, p.user_number, p.delivered_to, o.user_id AS other,
           o.user_number AS other_number, p.standing = 'open' AS may_report,
           coalesce((SELECT coalesce(r.max_created, r.created) FROM reports r
                     WHERE r.place > c.generation << 32 AND r.place < (c.generation + 1) << 32
                     ORDER BY r.place DESC LIMIT 1), '') AS max_created
    FROM participants p
    JOIN conversations c ON c.number = p.conversation_number
    JOIN participants o ON o.conversation_number = c.number AND o.user_id <> p.user_id
    WHERE p.conversation_id = $1 AND p.user_id = $2";

/// Inserts the reports that do not exist yet. An ID is a UUID version 8 (RFC 9562). Its last 48 bits are the report's
/// sequence number, by which it is found again. 72 other bits are random.
macro_rules! make_reports {
    ($messages:expr) => {
        concat!(
            "INSERT INTO reports (place, id, type, created, max_created, message_place, user_id)
             SELECT ($1 << 32) + seq,
                    substr(random, 1, 8) || '-' || substr(random, 9, 4) || '-8' || substr(random, 13, 3)
                        || '-' || substr('89ab', 1 + (seq & 3), 1) || substr(random, 16, 3)
                        || '-' || printf('%012x', seq),
                    $3, $4, $5, message_place, $2
             FROM (
                 SELECT m.place AS message_place, lower(hex(randomblob(9))) AS random,
                        $6 - 1 + row_number() OVER (ORDER BY m.place) AS seq
                 FROM ",
            $messages,
            "    AND m.sender_number <> $7
                     AND NOT EXISTS (
                         SELECT 1 FROM reports r
                         WHERE r.message_place = m.place AND r.user_id = $2 AND r.type = $3)
             ) AS missing"
        )
    };
}

/// `CROSS JOIN` makes SQLite look up each ID. A generation may have many messages.
const MAKE_FOR_IDS: &str = make_reports!(concat!(
    "json_each($8) AS named CROSS JOIN messages m
     WHERE m.place = ",
    row_key_of_id!("$1", "named.key", "named.value")
));

const MAKE_FOR_PLACES: &str = make_reports!("messages m WHERE m.place BETWEEN $8 AND $9");

/// Selects the messages that the user has not reported with this type, as a JSON array.
const UNREPORTED: &str = concat!(
    "SELECT json_group_array(named.key)
     FROM json_each($4) AS named
     CROSS JOIN participants p CROSS JOIN conversations c CROSS JOIN messages m
     WHERE p.user_id = $2 AND p.conversation_id = $1 AND c.number = p.conversation_number AND m.place = ",
    row_key_of_id!("c.generation", "named.key", "named.value"),
    "    AND m.sender_number <> p.user_number
         AND NOT EXISTS (
             SELECT 1 FROM reports r
             WHERE r.message_place = m.place AND r.user_id = $2 AND r.type = $3)"
);

/// Moves a reader's position forward to the newest of the named messages of the other user. A position of an earlier
/// generation is behind all of a later one.
const MOVE_POSITION: &str = concat!(
    "UPDATE participants SET read_to = named.newest
     FROM (SELECT ($3 << 32) + max(m.nth) AS newest FROM json_each($2) AS named CROSS JOIN messages m
           WHERE m.place = ",
    row_key_of_id!("$3", "named.key", "named.value"),
    "      AND m.sender_number <> $4) AS named
     WHERE participants.place = $1 AND participants.read_to < named.newest"
);

static ADVANCE: ManyRows = ManyRows::new(
    "WITH made (number, reports) AS ({rows})
     UPDATE conversations
     SET next_report_seq = next_report_seq + made.reports,
         last_report_id = (SELECT replace(r.id, '-', '') FROM reports r
                           WHERE r.place = (generation << 32) + next_report_seq + made.reports - 1)
     FROM made WHERE conversations.number = made.number",
    2,
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
    4,
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
    /// The messages. Unknown ones and the reader's own are skipped.
    pub(crate) messages: Vec<MessageId>,
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
        self.messages.iter().map(|id| size_of::<MessageId>() + id.as_str().len()).sum()
    }

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError> {
        let user = self.user;
        let head = Head::read(tx.connection().await?, self.conversation, user).await?;
        let head = head.ok_or(Refusal::ConversationNotFound)?;
        if let Some(instance) = self.instance {
            fence(instance, stored(&head.instance)?)?;
        }
        let mut making = Making { user, head, now: self.now };
        let hashes = hashes_of(&self.messages);
        let may_move = self.kind == ReportType::Viewed && !self.messages.is_empty();
        let is_moved = may_move && making.head.move_position(tx, &hashes).await?;
        let is_made = self.make(tx, &mut making, hashes).await?;
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
        hashes: String,
    ) -> Result<bool, Error> {
        let which = Which::Ids(hashes);
        let mut made = making.make(tx, ReportType::Delivered, &which).await?;
        if self.kind == ReportType::Viewed {
            made |= making.make(tx, ReportType::Viewed, &which).await?;
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
        let which = Which::Places(first, last);
        if making.make(tx, ReportType::Delivered, &which).await? {
            let subject = Subject::Conversation(conversation);
            let sender = stored(&making.head.other)?;
            let mut changes = ChangeLog::from(ChangeSet::default().with(sender, subject, None));
            changes.know_user(sender, making.head.other_number);
            changes.know_conversation(conversation, making.head.number);
            changes.record(tx).await?;
        }
        let known = making.head.delivered_to.max(row_key(generation, 0));
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
        connection: &mut SqliteConnection,
        conversation: ConversationId,
        user: UserId,
    ) -> Result<Option<Self>, Error> {
        let head = sqlx::query_as(HEAD).bind(conversation.as_str()).bind(user.as_str());
        head.fetch_optional(connection).await.doing("checking reports")
    }

    /// Moves the reader's position to the newest of these messages. Returns whether it moved.
    async fn move_position(&self, tx: &mut WriteTx, hashes: &str) -> Result<bool, Error> {
        let moved = sqlx::query(MOVE_POSITION)
            .bind(self.participant)
            .bind(hashes)
            .bind(self.generation)
            .bind(self.user_number);
        let moved = moved.execute(tx.connection().await?).await.doing("moving a read position")?;
        Ok(moved.rows_affected() > 0)
    }
}

/// The messages to report.
enum Which {
    /// JSON object of their IDs and hashes.
    Ids(String),
    /// First and last row key.
    Places(i64, i64),
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
        which: &Which,
    ) -> Result<bool, Error> {
        if !self.head.may_report {
            return Ok(false);
        }
        let statement = match which {
            Which::Ids(_) => MAKE_FOR_IDS,
            Which::Places(..) => MAKE_FOR_PLACES,
        };
        let created = self.now.to_string();
        let max_created = Some(&self.head.max_created).filter(|latest| **latest > created);
        let query = sqlx::query(statement)
            .bind(self.head.generation)
            .bind(self.user.as_str())
            .bind(report_type.as_str())
            .bind(created)
            .bind(max_created)
            .bind(self.head.next_report_seq)
            .bind(self.head.user_number);
        let query = match which {
            Which::Ids(ids) => query.bind(ids),
            Which::Places(first, last) => query.bind(first).bind(last),
        };
        let made =
            query.execute(tx.connection().await?).await.doing("making reports")?.rows_affected();
        if made == 0 {
            return Ok(false);
        }
        let made = i64::try_from(made).unwrap_or(i64::MAX);
        tx.defer(&ADVANCE, &[self.head.number], |conversation, values| {
            values.add(*conversation).add(made);
        });
        self.head.next_report_seq += made;
        Ok(true)
    }
}

impl Store {
    /// Returns the messages that a user has not reported with this type, so that those reported already take no time of
    /// the writer: a `viewed` has moved the position as well. The write checks again.
    pub(crate) async fn unreported(
        &self,
        conversation: ConversationId,
        user: UserId,
        report_type: ReportType,
        messages: &[MessageId],
    ) -> Result<Vec<MessageId>, Error> {
        let unreported = sqlx::query_scalar(UNREPORTED)
            .bind(conversation.as_str())
            .bind(user.as_str())
            .bind(report_type.as_str())
            .bind(hashes_of(messages));
        let unreported: String =
            unreported.fetch_one(&mut *self.reader().await?).await.doing("looking for reports")?;
        let unreported: Vec<String> = serde_json::from_str(&unreported)
            .map_err(|error| sqlx::Error::Decode(Box::new(error)))
            .doing("looking for reports")?;
        unreported.iter().map(|id| stored(id)).collect()
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
