//! Messages: many are judged and stored by one statement each.

use std::collections::HashMap;

use serde::Deserialize;
use sqlx::SqliteConnection;

use super::changes::{Changes, Subject};
use super::error::Doing as _;
use super::values::ManyRows;
use super::writer::Writing;
use super::{Error, Store, stored};
use crate::clock::Timestamp;
use crate::id::{ConversationId, Instance, MessageId, StationId, UserId};

/// What decides about each message, as one row: its conversation, if it is the sender's, the other participant,
/// if the two are friends, who has blocked whom, and the message that has its ID already. The data of that one is
/// compared only if it must be.
static JUDGE: ManyRows = ManyRows::new(
    "WITH incoming (place, conversation_id, sender_id, id) AS (VALUES {rows})
     SELECT json_group_array(json_array(
         CASE WHEN c.id IS NOT NULL
              THEN json_array(c.instance, c.generation, c.next_seq, c.last_access) END,
         f.friend_id,
         mine.blocked_id IS NOT NULL,
         theirs.blocked_id IS NOT NULL,
         CASE WHEN m.id IS NOT NULL
              THEN json_array(m.sender_id, m.type, m.created, m.valid_until, octet_length(m.data)) END
     ) ORDER BY i.place)
     FROM incoming i
     LEFT JOIN participants p ON p.conversation_id = i.conversation_id AND p.user_id = i.sender_id
     LEFT JOIN conversations c ON c.id = p.conversation_id
     LEFT JOIN participants o ON o.conversation_id = p.conversation_id AND o.user_id <> p.user_id
     LEFT JOIN friends f ON f.user_id = p.user_id AND f.friend_id = o.user_id
     LEFT JOIN blocks mine ON mine.user_id = p.user_id AND mine.blocked_id = o.user_id
     LEFT JOIN blocks theirs ON theirs.user_id = o.user_id AND theirs.blocked_id = p.user_id
     LEFT JOIN messages m
         ON m.conversation_id = c.id AND m.generation = c.generation AND m.id = i.id
     WHERE i.place IS NOT NULL",
    4,
);

const HAS_DATA: &str = "
    SELECT EXISTS (
        SELECT 1 FROM messages
        WHERE conversation_id = $1 AND generation = $2 AND id = $3 AND data = $4)";

static INSERT: ManyRows = ManyRows::new(
    "INSERT INTO messages (conversation_id, generation, seq, id, sender_id, type, created,
                           valid_until, accepted_at, data)
     SELECT * FROM (VALUES {rows}) AS incoming WHERE column1 IS NOT NULL",
    10,
);

static ADVANCE: ManyRows = ManyRows::new(
    "WITH changed (id, next_seq, last_message_id, last_access) AS (VALUES {rows})
     UPDATE conversations
     SET next_seq = changed.next_seq, last_message_id = changed.last_message_id,
         last_access = changed.last_access
     FROM changed WHERE conversations.id = changed.id",
    4,
);

/// A message as its sender made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The ID that the sender gave it.
    pub id: MessageId,
    /// Its type, 1 to 32 characters.
    pub kind: String,
    /// When the sender says it was made: a date.
    pub created: String,
    /// A date or the empty string.
    pub valid_until: String,
    /// The encrypted payload: the very text that came.
    pub data: String,
}

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

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is stored: now, or it was already.
    Stored,
    /// The sender has no such conversation.
    NotFound,
    /// The conversation has been cleared since.
    InstanceChanged,
    /// Another message has this ID.
    Conflict,
    /// The two are not friends, or the sender is blocked.
    NotFriends,
    /// The sender has blocked the other participant.
    Blocked,
}

impl Store {
    /// Stores a message, once, however often it is sent.
    ///
    /// # Errors
    ///
    /// [`Error`] where it was not stored.
    pub async fn add_message(&self, message: AddMessage) -> Result<Added, Error> {
        self.writer.add(message).await
    }
}

/// What [`JUDGE`] says of a message.
#[derive(Deserialize)]
struct Standing {
    conversation: Option<Conversation>,
    /// The other participant, where the two are friends.
    friend: Option<String>,
    /// Whether the sender has blocked the other one: 0 or 1.
    has_blocked: u8,
    /// Whether the other one has blocked the sender: 0 or 1.
    is_blocked: u8,
    stored: Option<Stored>,
}

/// The sender's conversation as it stands before this run.
#[derive(Deserialize)]
struct Conversation {
    instance: String,
    generation: i64,
    next_seq: i64,
    last_access: i64,
}

/// The message that has the ID already.
#[derive(Deserialize)]
struct Stored {
    sender: String,
    kind: String,
    created: String,
    valid_until: String,
    data_bytes: usize,
}

impl Stored {
    /// Whether everything but the data, and the length of that, is the same.
    fn resembles(&self, add: &AddMessage) -> bool {
        let AddMessage { sender, message, .. } = add;
        self.sender == sender.as_str()
            && self.kind == message.kind
            && self.created == message.created
            && self.valid_until == message.valid_until
            && self.data_bytes == message.data.len()
    }
}

/// A conversation as this run leaves it.
struct Head {
    generation: i64,
    next_seq: i64,
    last_access: i64,
    /// Places in the run of the messages that this run stores.
    stored: Vec<usize>,
}

/// A message that gets a place in its conversation.
struct Row {
    place: usize,
    recipient: UserId,
    generation: i64,
    seq: i64,
    accepted_at: i64,
}

/// Judges and stores a run of messages in their order. A refused one takes no place in its conversation.
pub(super) async fn add_all(on: &mut Writing, run: &[&AddMessage]) -> Result<Vec<Added>, Error> {
    let standings = judge(&mut on.connection, run).await?;
    let mut heads = HashMap::new();
    let mut rows = Vec::with_capacity(run.len());
    let mut outcomes = Vec::with_capacity(run.len());
    for (place, standing) in standings.into_iter().enumerate() {
        let repeats = repeats(&mut on.connection, run[place], &standing).await?;
        outcomes.push(place_message(run, place, standing, repeats, &mut heads, &mut rows)?);
    }
    if !rows.is_empty() {
        insert(&mut on.connection, run, &rows).await?;
        advance(&mut on.connection, run, &heads).await?;
        changes(run, &rows).note(on).await?;
    }
    Ok(outcomes)
}

/// Where a message with this ID is stored: whether it is this very one.
async fn repeats(
    on: &mut SqliteConnection,
    add: &AddMessage,
    standing: &Standing,
) -> Result<Option<bool>, Error> {
    let (Some(conversation), Some(stored)) = (&standing.conversation, &standing.stored) else {
        return Ok(None);
    };
    if !stored.resembles(add) {
        return Ok(Some(false));
    }
    let same = sqlx::query_scalar(HAS_DATA)
        .bind(add.conversation.as_str())
        .bind(conversation.generation)
        .bind(add.message.id.as_str())
        .bind(add.message.data.as_str());
    same.fetch_one(on).await.map(Some).doing("comparing a repeated message")
}

/// Decides about one message; where it is to be stored, gives it the next place.
fn place_message(
    run: &[&AddMessage],
    place: usize,
    standing: Standing,
    repeats: Option<bool>,
    heads: &mut HashMap<ConversationId, Head>,
    rows: &mut Vec<Row>,
) -> Result<Added, Error> {
    let add = run[place];
    let Some(conversation) = standing.conversation else {
        return Ok(Added::NotFound);
    };
    if conversation.instance != add.instance.as_str() {
        return Ok(Added::InstanceChanged);
    }
    let head = heads.entry(add.conversation).or_insert(Head {
        generation: conversation.generation,
        next_seq: conversation.next_seq,
        last_access: conversation.last_access,
        stored: Vec::new(),
    });
    let same_id = |&earlier: &usize| run[earlier].message.id == add.message.id;
    let earlier = head.stored.iter().copied().find(same_id).map(|earlier| run[earlier]);
    let repeats_earlier =
        earlier.map(|earlier| earlier.sender == add.sender && earlier.message == add.message);
    match repeats.or(repeats_earlier) {
        Some(true) => return Ok(Added::Stored),
        Some(false) => return Ok(Added::Conflict),
        None if standing.has_blocked != 0 => return Ok(Added::Blocked),
        None if standing.is_blocked != 0 => return Ok(Added::NotFriends),
        None => {}
    }
    let Some(recipient) = standing.friend else {
        return Ok(Added::NotFriends);
    };
    // A clock that was set back must not break the order of the seconds of acceptance.
    head.last_access = head.last_access.max(add.now.unix());
    rows.push(Row {
        place,
        recipient: stored(&recipient)?,
        generation: head.generation,
        seq: head.next_seq,
        accepted_at: head.last_access,
    });
    head.stored.push(place);
    head.next_seq += 1;
    Ok(Added::Stored)
}

/// What both participants of each message are to be told.
fn changes(run: &[&AddMessage], rows: &[Row]) -> Changes {
    let mut changes = Changes::default();
    for row in rows {
        let add = run[row.place];
        let subject = Subject::Conversation(add.conversation);
        changes.add(add.sender, subject, add.station);
        changes.add(row.recipient, subject, None);
    }
    changes
}

async fn judge(on: &mut SqliteConnection, run: &[&AddMessage]) -> Result<Vec<Standing>, Error> {
    let mut query = sqlx::query_scalar::<_, String>(JUDGE.text(run.len()));
    for place in 0..ManyRows::padded(run.len()) {
        let add = run.get(place);
        query = query
            .bind(add.and(i64::try_from(place).ok()))
            .bind(add.map(|add| add.conversation.as_str()))
            .bind(add.map(|add| add.sender.as_str()))
            .bind(add.map(|add| add.message.id.as_str()));
    }
    let judged = query.fetch_one(on).await;
    let judged = judged.and_then(|rows| {
        serde_json::from_str(&rows).map_err(|error| sqlx::Error::Decode(Box::new(error)))
    });
    judged.doing("judging messages")
}

async fn insert(on: &mut SqliteConnection, run: &[&AddMessage], rows: &[Row]) -> Result<(), Error> {
    let mut query = sqlx::query(INSERT.text(rows.len()));
    for index in 0..ManyRows::padded(rows.len()) {
        let row = rows.get(index);
        let add = row.map(|row| run[row.place]);
        let message = add.map(|add| &add.message);
        query = query
            .bind(add.map(|add| add.conversation.as_str()))
            .bind(row.map(|row| row.generation))
            .bind(row.map(|row| row.seq))
            .bind(message.map(|message| message.id.as_str()))
            .bind(add.map(|add| add.sender.as_str()))
            .bind(message.map(|message| message.kind.as_str()))
            .bind(message.map(|message| message.created.as_str()))
            .bind(message.map(|message| message.valid_until.as_str()))
            .bind(row.map(|row| row.accepted_at))
            .bind(message.map(|message| message.data.as_str()));
    }
    query.execute(on).await.map(drop).doing("storing messages")
}

async fn advance(
    on: &mut SqliteConnection,
    run: &[&AddMessage],
    heads: &HashMap<ConversationId, Head>,
) -> Result<(), Error> {
    let changed: Vec<_> =
        heads.iter().filter_map(|(id, head)| Some((id, head, *head.stored.last()?))).collect();
    let mut query = sqlx::query(ADVANCE.text(changed.len()));
    for index in 0..ManyRows::padded(changed.len()) {
        let changed = changed.get(index);
        query = query
            .bind(changed.map(|(id, ..)| id.as_str()))
            .bind(changed.map(|(_, head, _)| head.next_seq))
            .bind(changed.map(|(.., last)| run[*last].message.id.as_str()))
            .bind(changed.map(|(_, head, _)| head.last_access));
    }
    query.execute(on).await.map(drop).doing("moving conversations on")
}
