//! Messages, added in batches. One statement reads what decides about a batch. [`Head::accept`] judges each message in
//! order, and one statement stores the accepted ones.

use std::collections::HashMap;

use super::changes::ChangeLog;
use super::error::Doing as _;
use super::listing::listed;
use super::many_rows::Column::{Integer, Text};
use super::many_rows::ManyRows;
use super::message_ids::{Listed, hash, list, row_key_of_id};
use super::row_keys::row_key;
use super::sql::Sql;
use super::write_op::Batched;
use super::write_tx::WriteTx;
use super::{Error, Store, WriteError, stored, stored_number};
use crate::domain::{
    Access, ConversationId, Head, Incoming, Instance, Limits, Message, Refusal, SameId, StationId,
    Subject, Timestamp, UserId,
};

listed!(PRECHECK, IS_IDENTICAL, INSERT, ADVANCE);

/// Reads what decides each message ([`Precheck`]), for senders that take part in the conversation. The result is one
/// text, with a comma between messages and a space between values. If a message with the ID exists already, its row key
/// is included.
static PRECHECK: ManyRows = ManyRows::new(
    concat!(
        "WITH incoming (nth, user_id, conversation_id, id, hash) AS ({rows})
         SELECT string_agg(concat_ws(' ', i.nth, c.number, c.instance, c.generation, c.next_seq, c.sent_by_first,
                                     c.max_accepted_at, c.longest_data, c.data_bytes, p.standing, p.user_number, o.user_number, o.user_id, ",
        row_key_of_id!("c.generation", "i.id", "i.hash"),
        "), ',')
         FROM incoming i
         CROSS JOIN participants p CROSS JOIN conversations c CROSS JOIN participants o
         WHERE p.user_id = i.user_id AND p.conversation_id = i.conversation_id
             AND c.number = p.conversation_number
             AND o.conversation_number = c.number AND o.user_id <> p.user_id"
    ),
    &[Integer, Text, Text, Text, Integer],
);

/// Whether the message with this row key is identical to the bound values. One that has expired may have lost its data.
const IS_IDENTICAL: Sql = Sql::both(
    "
    SELECT sender_number = $2 AND type IS NOT DISTINCT FROM $3 AND created = $4 AND valid_until = $5
           AND (data = $6 OR data = '' AND valid_until <> '')
    FROM messages WHERE place = $1",
);

/// SQL that advances conversations. The argument is how it begins.
macro_rules! advance {
    ($update:literal) => {
        concat!(
            "WITH changed (number, next_seq, sent_by_first, last_message_id, last_access, max_accepted_at, longest_data,
                           data_bytes)
                 AS ({rows}) ",
            $update,
            " conversations
             SET next_seq = changed.next_seq, sent_by_first = changed.sent_by_first,
                 last_message_id = changed.last_message_id, last_access = changed.last_access,
                 max_accepted_at = changed.max_accepted_at, longest_data = changed.longest_data,
                 data_bytes = changed.data_bytes
             FROM changed WHERE conversations.number = changed.number"
        )
    };
}

/// To undo a single failed statement, SQLite copies each page before it changes it. A failure here rolls back the whole
/// transaction anyway, so `OR FAIL` drops that copy. It works only if the statement calls no SQL function: add none.
/// `IS NOT NULL` skips the padding of [`ManyRows`].
static INSERT: ManyRows = ManyRows::pair(
    "INSERT OR FAIL INTO messages (place, id, sender_number, type, created, valid_until, accepted_at, data, nth)
     SELECT * FROM ({rows}) AS incoming WHERE column1 IS NOT NULL",
    "INSERT INTO messages (place, id, sender_number, type, created, valid_until, accepted_at, data, nth) {rows}",
    &[Integer, Text, Integer, Text, Integer, Text, Integer, Text, Integer],
);

static ADVANCE: ManyRows = ManyRows::pair(
    advance!("UPDATE OR FAIL"),
    advance!("UPDATE"),
    &[Integer, Integer, Integer, Text, Integer, Integer, Integer, Integer],
);

/// A message to store.
#[derive(Clone, Debug)]
pub struct AddMessage {
    /// The conversation that the message goes into.
    pub conversation: ConversationId,
    /// The sending user.
    pub sender: UserId,
    /// The sending station, which is not told of the message.
    pub station: Option<StationId>,
    /// The instance that the sender believes to be current.
    pub instance: Instance,
    /// The message as the client sent it.
    pub message: Message,
    /// The server's time in seconds. It becomes the message's second of acceptance, unless the conversation's latest
    /// one is greater.
    pub now: Timestamp,
}

impl Store {
    /// Stores a message once, however often it is sent.
    ///
    /// # Errors
    ///
    /// The refusals of docs/protocol.md#add, and [`Error`] if it was not stored.
    pub async fn add_message(&self, message: AddMessage) -> Result<(), WriteError> {
        self.writer.add(message).await
    }
}

/// Parsed result of [`PRECHECK`] for one message: the sender's conversation as it was before this batch.
struct Precheck {
    conversation_number: i64,
    generation: i64,
    head: Head,
    sent_by_first: i64,
    access: Access,
    sender_number: i64,
    recipient_number: i64,
    recipient: UserId,
    /// Row key of the message that has the ID already.
    existing_row_key: Option<i64>,
    /// Hash of the message's ID.
    hash: i64,
}

impl Precheck {
    /// Parses the values of one message, without the first one, which is the message's index in the batch.
    fn read(values: &str, hash: i64) -> Result<Self, Error> {
        let mut values = values.split(' ');
        let mut next = || values.next().ok_or_else(|| Error::not_as_stored("all values"));
        let conversation_number = stored_number(next()?)?;
        let instance = stored(next()?)?;
        let generation = stored_number(next()?)?;
        let next_seq = stored_number(next()?)?;
        let sent_by_first = stored_number(next()?)?;
        let head = Head {
            instance,
            next_seq,
            // Set when a message is accepted; only such conversations are written.
            last_access: 0,
            max_accepted_at: stored_number(next()?)?,
            longest_data: stored_number(next()?)?,
            data_bytes: stored_number(next()?)?,
        };
        Ok(Self {
            conversation_number,
            generation,
            sent_by_first,
            access: stored(next()?)?,
            sender_number: stored_number(next()?)?,
            recipient_number: stored_number(next()?)?,
            recipient: stored(next()?)?,
            existing_row_key: values.next().map(stored_number).transpose()?,
            head,
            hash,
        })
    }
}

/// A conversation after the messages of this batch.
struct Conversation {
    head: Head,
    /// Number of messages from the participant with the lower user number.
    sent_by_first: i64,
    /// Indices of the batch's messages that are stored in this conversation.
    stored: Vec<usize>,
}

impl Conversation {
    /// Counts a message with this sequence number, and returns its number among its sender's.
    fn count(&mut self, seq: i64, is_by_first: bool) -> i64 {
        if is_by_first {
            self.sent_by_first += 1;
            return self.sent_by_first;
        }
        seq - self.sent_by_first
    }
}

struct Row {
    key: i64,
    /// Index of the message in the batch.
    nth: usize,
    sender_number: i64,
    /// Number of the message among its sender's.
    nth_of_sender: i64,
    accepted_at: i64,
}

struct AddBatch {
    /// Maximum bytes of message data in one conversation.
    quota: i64,
    /// Keyed by conversation number.
    conversations: HashMap<i64, Conversation>,
    rows: Vec<Row>,
    /// Rows to insert into `message_ids`.
    listed: Vec<Listed>,
    changes: ChangeLog,
}

impl Batched for AddMessage {
    type Outcome = Result<(), Refusal>;

    /// Judges and stores messages in order. A refused message takes no sequence number.
    async fn apply_all(tx: &mut WriteTx, all: &[&Self]) -> Result<Vec<Self::Outcome>, Error> {
        let precheck = precheck(tx, all).await?;
        let mut batch = AddBatch::new(tx.limits());
        let mut outcomes = Vec::with_capacity(all.len());
        for (nth, precheck) in precheck.into_iter().enumerate() {
            let Some(precheck) = precheck else {
                outcomes.push(Err(Refusal::ConversationNotFound));
                continue;
            };
            let same_id = same_id(tx, all[nth], &precheck).await?;
            outcomes.push(batch.add(all, nth, &precheck, same_id));
        }
        batch.write(tx, all).await?;
        Ok(outcomes)
    }
}

/// Compares a message with the stored one that has its ID.
async fn same_id(tx: &mut WriteTx, add: &AddMessage, precheck: &Precheck) -> Result<SameId, Error> {
    let Some(row_key) = precheck.existing_row_key else { return Ok(SameId::Unknown) };
    let message = &add.message;
    let identical = tx.query(IS_IDENTICAL).await?;
    let identical = identical
        .bind(row_key)
        .bind(precheck.sender_number)
        .bind(type_column(&message.kind))
        .bind(message.created.unix())
        .bind(message.valid_until.as_str())
        .bind(message.data.as_str());
    let identical = identical.optional_value().await.doing("comparing a repeated message")?;
    Ok(identical.map_or(SameId::Unknown, SameId::of))
}

impl AddBatch {
    fn new(limits: &Limits) -> Self {
        let quota = match i64::try_from(limits.conversation_bytes) {
            Ok(0) | Err(_) => i64::MAX,
            Ok(bytes) => bytes,
        };
        Self {
            quota,
            conversations: HashMap::new(),
            rows: Vec::new(),
            listed: Vec::new(),
            changes: ChangeLog::default(),
        }
    }

    /// Judges one message, and gives an accepted one the next sequence number.
    fn add(
        &mut self,
        all: &[&AddMessage],
        nth: usize,
        precheck: &Precheck,
        stored: SameId,
    ) -> Result<(), Refusal> {
        let add = all[nth];
        let number = precheck.conversation_number;
        let conversation = self.conversations.entry(number).or_insert_with(|| Conversation {
            head: precheck.head.clone(),
            sent_by_first: precheck.sent_by_first,
            stored: Vec::new(),
        });
        let mut earlier = conversation.stored.iter().map(|&earlier| all[earlier]);
        let same_id = earlier.find(|earlier| earlier.message.id == add.message.id).map(|earlier| {
            SameId::of(earlier.sender == add.sender && earlier.message == add.message)
        });
        let incoming = Incoming {
            instance: add.instance,
            access: precheck.access,
            same_id: same_id.unwrap_or(stored),
            data_bytes: i64::try_from(add.message.data.len()).unwrap_or(i64::MAX),
            now: add.now,
        };
        let Some(accepted) = conversation.head.accept(incoming, self.quota)? else {
            return Ok(());
        };
        let row_key = row_key(precheck.generation, accepted.seq);
        self.listed.push((precheck.generation, precheck.hash, accepted.seq));
        conversation.stored.push(nth);
        let sender_number = precheck.sender_number;
        let nth_of_sender =
            conversation.count(accepted.seq, sender_number < precheck.recipient_number);
        let accepted_at = accepted.accepted_at;
        self.rows.push(Row { key: row_key, nth, sender_number, nth_of_sender, accepted_at });
        self.record(add, precheck);
        Ok(())
    }

    /// Records the message for both users' notifications. Skips the sending station.
    fn record(&mut self, add: &AddMessage, precheck: &Precheck) {
        let subject = Subject::Conversation(add.conversation);
        self.changes.know_conversation(add.conversation, precheck.conversation_number);
        self.changes.know_user(add.sender, precheck.sender_number);
        self.changes.know_user(precheck.recipient, precheck.recipient_number);
        self.changes.set.add(add.sender, subject, add.station);
        self.changes.set.add(precheck.recipient, subject, None);
    }

    async fn write(mut self, tx: &mut WriteTx, all: &[&AddMessage]) -> Result<(), Error> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.rows.sort_unstable_by_key(|row| row.key);
        insert(tx, all, &self.rows);
        list(tx, self.listed);
        advance(tx, all, &self.conversations);
        self.changes.record(tx).await
    }
}

/// Returns the value of the column `type`: NULL stands for `Message`.
fn type_column(kind: &str) -> Option<&str> {
    (kind != "Message").then_some(kind)
}

/// `None` for a sender that has no such conversation.
async fn precheck(tx: &mut WriteTx, all: &[&AddMessage]) -> Result<Vec<Option<Precheck>>, Error> {
    let hashes: Vec<_> = all.iter().map(|add| hash(add.message.id.as_str())).collect();
    let rows: Vec<_> = (0..).zip(all).zip(&hashes).collect();
    let judging = tx.query_scalar(&PRECHECK, &rows, |((nth, add), hash), values| {
        values
            .add(*nth)
            .add(add.sender.as_str())
            .add(add.conversation.as_str())
            .add(add.message.id.as_str())
            .add(**hash);
    });
    let rows: Option<String> = judging.await.doing("checking messages")?;
    let mut precheck: Vec<_> = all.iter().map(|_| None).collect();
    let rows = rows.unwrap_or_default();
    for (nth, values) in rows.split(',').filter_map(|values| values.split_once(' ')) {
        let nth = usize::try_from(stored_number(nth)?).unwrap_or(usize::MAX);
        let precheck =
            precheck.get_mut(nth).ok_or_else(|| Error::not_as_stored("an index of the batch"))?;
        *precheck = Some(Precheck::read(values, hashes[nth])?);
    }
    Ok(precheck)
}

fn insert(tx: &mut WriteTx, all: &[&AddMessage], rows: &[Row]) {
    tx.defer(&INSERT, rows, |row, values| {
        let message = &all[row.nth].message;
        values
            .add(row.key)
            .add(message.id.as_str())
            .add(row.sender_number)
            .add(type_column(&message.kind))
            .add(message.created.unix())
            .add(message.valid_until.as_str())
            .add(row.accepted_at)
            .add(message.data.as_str())
            .add(row.nth_of_sender);
    });
}

fn advance(tx: &mut WriteTx, all: &[&AddMessage], conversations: &HashMap<i64, Conversation>) {
    let changed = conversations.iter().filter_map(|(number, conversation)| {
        Some((*number, conversation, *conversation.stored.last()?))
    });
    let changed: Vec<_> = changed.collect();
    tx.defer(&ADVANCE, &changed, |(number, conversation, last), values| {
        let head = &conversation.head;
        values
            .add(*number)
            .add(head.next_seq)
            .add(conversation.sent_by_first)
            .add(all[*last].message.id.as_str())
            .add(head.last_access)
            .add(head.max_accepted_at)
            .add(head.longest_data)
            .add(head.data_bytes);
    });
}
