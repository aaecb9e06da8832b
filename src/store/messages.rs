//! Messages: many are judged and stored by one statement each.

use std::collections::HashMap;
use std::ops::Range;

use super::changes::ChangeLog;
use super::error::Doing as _;
use super::message_ids::{Listed, RecentIds, hash, list, listed_place};
use super::row_keys::place;
use super::values::ManyRows;
use super::write_op::Batched;
use super::write_tx::WriteTx;
use super::{Error, Store, stored, stored_number};
use crate::domain::{
    Access, ConversationId, Head, Incoming, Instance, Limits, Message, Refusal, StationId, Subject,
    Timestamp, UserId,
};
use crate::store::WriteError;

/// What decides about each message whose sender takes part in its conversation, see [`Precheck`]: one text for all, with a
/// comma between two messages and a space between two values. A message that has the ID already is named by its place, but
/// of the youngest there are the hashes alone.
static PRECHECK: ManyRows = ManyRows::new(
    concat!(
        "WITH incoming (nth, user_id, conversation_id, id, hash) AS (VALUES {rows})
         SELECT string_agg(concat_ws(' ', i.nth, c.number, c.instance, c.generation, c.next_seq, c.max_accepted_at,
                                     c.longest_data, c.data_bytes, p.standing, p.user_number, o.user_number, o.user_id,
                                     hex(c.young), ",
        listed_place!("c.generation", "i.id", "i.hash"),
        "), ',')
         FROM incoming i
         CROSS JOIN participants p
             ON p.user_id = i.user_id AND p.conversation_id = i.conversation_id
         CROSS JOIN conversations c ON c.number = p.conversation_number
         CROSS JOIN participants o
             ON o.conversation_number = c.number AND o.user_id <> p.user_id"
    ),
    5,
);

/// Whether the message with an ID at one of these places is this very one.
const REPEATS: &str = "
    SELECT sender_number = $4 AND type IS $5 AND created = $6 AND valid_until = $7 AND data = $8
    FROM messages WHERE place >= $1 AND place < $2 AND id = $3";

/// Where a statement is to undo what it has done if it fails, SQLite copies each page before it changes it. Here the whole
/// transaction is undone then, so this one is not to (`OR FAIL`), which SQLite heeds where no function is called.
static INSERT: ManyRows = ManyRows::new(
    "INSERT OR FAIL INTO messages (place, id, sender_number, type, created, valid_until, accepted_at, data)
     SELECT * FROM (VALUES {rows}) AS incoming WHERE column1 IS NOT NULL",
    8,
);

static ADVANCE: ManyRows = ManyRows::new(
    "WITH changed (number, next_seq, last_message_id, last_access, max_accepted_at, longest_data, data_bytes, young)
         AS (VALUES {rows})
     UPDATE OR FAIL conversations
     SET next_seq = changed.next_seq, last_message_id = changed.last_message_id,
         last_access = changed.last_access, max_accepted_at = changed.max_accepted_at,
         longest_data = changed.longest_data, data_bytes = changed.data_bytes, young = changed.young
     FROM changed WHERE conversations.number = changed.number",
    8,
);

/// A message to be added.
#[derive(Clone, Debug)]
pub struct AddMessage {
    /// The conversation.
    pub conversation: ConversationId,
    /// Who sends it.
    pub sender: UserId,
    /// Where from: that station is not told of it.
    pub station: Option<StationId>,
    /// The instance that the sender believes to be the current one.
    pub instance: Instance,
    /// The message.
    pub message: Message,
    /// The server's second, which becomes the message's second of acceptance.
    pub now: Timestamp,
}

impl Store {
    /// Stores a message, once, however often it is sent.
    ///
    /// # Errors
    ///
    /// The refusals of docs/protocol.md#add, and [`Error`] where it was not stored.
    pub async fn add_message(&self, message: AddMessage) -> Result<(), WriteError> {
        self.writer.add(message).await
    }
}

/// What [`PRECHECK`] says of a message: the sender's conversation as it stands before this batch.
struct Precheck {
    conversation_number: i64,
    generation: i64,
    head: Head,
    access: Access,
    sender_number: i64,
    recipient_number: i64,
    recipient: UserId,
    recent: RecentIds,
    /// The row key of the message that has the ID already, unless it is a recent one.
    known_at: Option<i64>,
    /// The hash of the message's ID.
    hash: i64,
}

impl Precheck {
    /// Reads the values of one message, after the first one: how many messages came before it.
    fn read(values: &str, hash: i64) -> Result<Self, Error> {
        let mut values = values.split(' ');
        let mut next = || values.next().ok_or_else(|| Error::not_as_stored("all values"));
        let conversation_number = stored_number(next()?)?;
        let instance = stored(next()?)?;
        let generation = stored_number(next()?)?;
        let head = Head {
            instance,
            next_seq: stored_number(next()?)?,
            last_access: 0,
            max_accepted_at: stored_number(next()?)?,
            longest_data: stored_number(next()?)?,
            data_bytes: stored_number(next()?)?,
        };
        Ok(Self {
            conversation_number,
            generation,
            access: stored(next()?)?,
            sender_number: stored_number(next()?)?,
            recipient_number: stored_number(next()?)?,
            recipient: stored(next()?)?,
            recent: RecentIds::read(next()?, head.next_seq)?,
            known_at: values.next().map(stored_number).transpose()?,
            head,
            hash,
        })
    }

    /// The row keys among which a message is that may have the ID already.
    fn known_within(&self) -> Option<Range<i64>> {
        let next = place(self.generation, self.head.next_seq);
        match self.known_at {
            Some(place) => Some(place..place + 1),
            None => self.recent.may_have(self.hash).then(|| self.recent.row_keys(next)),
        }
    }
}

/// A conversation as this batch leaves it.
struct Conversation {
    head: Head,
    recent: RecentIds,
    /// The messages that this batch stores, by their numbers in it.
    stored: Vec<usize>,
}

/// A message that is stored.
struct Row {
    place: i64,
    nth: usize,
    sender_number: i64,
    accepted_at: i64,
}

/// A batch of messages that is being stored.
struct AddBatch {
    /// Maximum bytes of data of one conversation.
    quota: i64,
    /// By the numbers of the conversations.
    conversations: HashMap<i64, Conversation>,
    rows: Vec<Row>,
    /// IDs that are to be listed.
    listed: Vec<Listed>,
    changes: ChangeLog,
}

impl Batched for AddMessage {
    type Outcome = Result<(), Refusal>;

    /// Judges and stores messages in their order. A refused one takes no position in its conversation.
    async fn apply_all(tx: &mut WriteTx, all: &[&Self]) -> Result<Vec<Self::Outcome>, Error> {
        let precheck = precheck(tx, all).await?;
        let mut batch = AddBatch::new(tx.limits());
        let mut outcomes = Vec::with_capacity(all.len());
        for (nth, precheck) in precheck.into_iter().enumerate() {
            let Some(precheck) = precheck else {
                outcomes.push(Err(Refusal::ConversationNotFound));
                continue;
            };
            let is_repeat = is_repeat(tx, all[nth], &precheck).await?;
            outcomes.push(batch.add(all, nth, &precheck, is_repeat));
        }
        batch.write(tx, all).await?;
        Ok(outcomes)
    }
}

/// Whether a stored message with this ID is this very one; `None` where none has the ID.
async fn is_repeat(
    tx: &mut WriteTx,
    add: &AddMessage,
    precheck: &Precheck,
) -> Result<Option<bool>, Error> {
    let Some(row_keys) = precheck.known_within() else { return Ok(None) };
    let message = &add.message;
    let repeats = sqlx::query_scalar(REPEATS)
        .bind(row_keys.start)
        .bind(row_keys.end)
        .bind(message.id.as_str())
        .bind(precheck.sender_number)
        .bind(type_column(&message.kind))
        .bind(message.created.unix())
        .bind(message.valid_until.as_str())
        .bind(message.data.as_str());
    repeats.fetch_optional(tx.connection().await?).await.doing("comparing a repeated message")
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

    /// Judges one message, and gives it the next position where it is to be stored.
    fn add(
        &mut self,
        all: &[&AddMessage],
        nth: usize,
        precheck: &Precheck,
        is_repeat: Option<bool>,
    ) -> Result<(), Refusal> {
        let add = all[nth];
        let number = precheck.conversation_number;
        let conversation = self.conversations.entry(number).or_insert_with(|| Conversation {
            head: precheck.head.clone(),
            recent: precheck.recent.clone(),
            stored: Vec::new(),
        });
        let same_id = |&earlier: &usize| all[earlier].message.id == add.message.id;
        let earlier = conversation.stored.iter().copied().find(same_id);
        let is_same = |earlier: usize| {
            all[earlier].sender == add.sender && all[earlier].message == add.message
        };
        let incoming = Incoming {
            instance: add.instance,
            access: precheck.access,
            is_repeat: is_repeat.or(earlier.map(is_same)),
            data_bytes: i64::try_from(add.message.data.len()).unwrap_or(i64::MAX),
            now: add.now,
        };
        let Some(position) = conversation.head.accept(incoming, self.quota)? else {
            return Ok(());
        };
        let place = place(precheck.generation, position.seq);
        self.listed.extend(conversation.recent.push(place, precheck.hash));
        conversation.stored.push(nth);
        let sender_number = precheck.sender_number;
        self.rows.push(Row { place, nth, sender_number, accepted_at: position.accepted_at });
        self.note(add, precheck);
        Ok(())
    }

    /// Notes what both participants are to be told of a message.
    fn note(&mut self, add: &AddMessage, precheck: &Precheck) {
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
        self.rows.sort_unstable_by_key(|row| row.place);
        insert(tx, all, &self.rows);
        list(tx, self.listed);
        advance(tx, all, &self.conversations);
        self.changes.record(tx).await
    }
}

/// What the column `type` holds for this type: NULL stands for the usual one.
fn type_column(kind: &str) -> Option<&str> {
    (kind != "Message").then_some(kind)
}

/// What decides about each message; `None` where the sender has no such conversation.
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
    let rows: Option<String> = judging.await.doing("judging messages")?;
    let mut precheck: Vec<_> = all.iter().map(|_| None).collect();
    let rows = rows.unwrap_or_default();
    for (nth, values) in rows.split(',').filter_map(|values| values.split_once(' ')) {
        let nth = usize::try_from(stored_number(nth)?).unwrap_or(usize::MAX);
        let precheck = precheck.get_mut(nth).ok_or_else(|| Error::not_as_stored("a place"))?;
        *precheck = Some(Precheck::read(values, hashes[nth])?);
    }
    Ok(precheck)
}

fn insert(tx: &mut WriteTx, all: &[&AddMessage], rows: &[Row]) {
    tx.defer(&INSERT, rows, |row, values| {
        let message = &all[row.nth].message;
        values
            .add(row.place)
            .add(message.id.as_str())
            .add(row.sender_number)
            .add(type_column(&message.kind))
            .add(message.created.unix())
            .add(message.valid_until.as_str())
            .add(row.accepted_at)
            .add(message.data.as_str());
    });
}

fn advance(tx: &mut WriteTx, all: &[&AddMessage], conversations: &HashMap<i64, Conversation>) {
    let changed = conversations.iter().filter_map(|(number, conversation)| {
        Some((*number, conversation, *conversation.stored.last()?))
    });
    let changed: Vec<_> = changed.collect();
    tx.defer(&ADVANCE, &changed, |(number, Conversation { head, recent, .. }, last), values| {
        values
            .add(*number)
            .add(head.next_seq)
            .add(all[*last].message.id.as_str())
            .add(head.last_access)
            .add(head.max_accepted_at)
            .add(head.longest_data)
            .add(head.data_bytes)
            .add(recent.bytes());
    });
}
