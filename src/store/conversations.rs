//! Conversations as each participant sees them, and clearing them. A clear begins a new generation in one step. The
//! messages of the old one are purged afterwards in small steps, so that no clear holds the writer for long.

use std::convert::Infallible;

use super::changes::ChangeLog;
use super::error::Doing as _;
use super::listing::listed;
use super::many_rows::Column::Text;
use super::many_rows::{ManyRows, Values};
use super::objects::{conversation_object, extended_conversation_object};
use super::readers::BatchQuery;
use super::sql::{Connection, Sql, Utf8};
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Store, WireText, WriteError, stored};
use crate::domain::{
    ChangeSet, ConversationId, Instance, Refusal, StationId, Subject, UserId, refuse_clear,
};

listed!(
    CONVERSATION,
    CONVERSATION_WITH_UNREAD,
    CONVERSATIONS,
    CONVERSATIONS_WITH_UNREAD,
    ACCESS,
    CLEAR,
    PURGE_LATER,
    NEXT_PURGE,
    PURGE,
    PURGE_IDS,
    PURGE_REPORTS,
    PURGED
);

/// SQL for the number of messages of the other user behind the read position of participant `p`, at most 100. Looks at no
/// message: a user may have sent millions without viewing any.
macro_rules! unread {
    () => {
        "min(100, CASE WHEN p.partner_number < p.user_number THEN c.sent_by_first
                       ELSE c.next_seq - 1 - c.sent_by_first END
                  - max(0, p.read_to - (c.generation << 32)))"
    };
}

/// SQL for the ID of the oldest message of conversation `c`.
macro_rules! first_message_id {
    () => {
        "(SELECT m.id FROM messages m WHERE m.place = max(c.first_message, (c.generation << 32) + 1))"
    };
}

/// SQL for one conversation as an object.
macro_rules! conversation {
    ($object:expr) => {
        concat!(
            "SELECT concat(",
            $object,
            ")
             FROM participants p
             JOIN conversations c ON c.number = p.conversation_number
             JOIN users u ON u.number = p.user_number
             JOIN users o ON o.number = p.partner_number
             WHERE p.conversation_id = $1 AND p.user_id = $2"
        )
    };
}

const CONVERSATION: Sql = Sql::both(conversation!(conversation_object!()));

const CONVERSATION_WITH_UNREAD: Sql =
    Sql::both(conversation!(extended_conversation_object!(unread!(), first_message_id!())));

/// SQL for all conversations of a user as objects. Sorts in a subquery before concatenating: `string_agg` with its own
/// ORDER BY copies all of the text.
macro_rules! conversations {
    ($object:expr) => {
        concat!(
            "SELECT string_agg(object, ',') FROM (
             SELECT concat(",
            $object,
            ") AS object
             FROM users u
             CROSS JOIN participants p CROSS JOIN conversations c CROSS JOIN users o
             WHERE u.id = ? AND p.place > u.number << 32 AND p.place < (u.number + 1) << 32
                 AND c.number = p.conversation_number AND o.number = p.partner_number
             ORDER BY c.last_access DESC, c.id) AS mine"
        )
    };
}

static CONVERSATIONS: ManyRows =
    ManyRows::values_of(conversations!(conversation_object!()), &[Text]);

static CONVERSATIONS_WITH_UNREAD: ManyRows = ManyRows::values_of(
    conversations!(extended_conversation_object!(unread!(), first_message_id!())),
    &[Text],
);

pub(super) struct ListConversations(UserId);

impl BatchQuery for ListConversations {
    const STATEMENT: &'static ManyRows = &CONVERSATIONS;
    const DOING: &'static str = "listing conversations";

    fn bind(&self, values: &mut Values<'_>) {
        values.add(self.0.as_str());
    }
}

/// Lists all conversations of a user, with the numbers of unread messages.
pub(super) struct ListWithUnread(UserId);

impl BatchQuery for ListWithUnread {
    const STATEMENT: &'static ManyRows = &CONVERSATIONS_WITH_UNREAD;
    const DOING: &'static str = ListConversations::DOING;

    fn bind(&self, values: &mut Values<'_>) {
        values.add(self.0.as_str());
    }
}

/// Instance, generation, next sequence number and access of the participant, which decide about a clear; and the ID of
/// the other participant.
const ACCESS: Sql = Sql::both(
    "
    SELECT c.instance, c.generation, c.next_seq, p.standing, o.user_id
    FROM participants p
    JOIN conversations c ON c.number = p.conversation_number
    JOIN participants o ON o.conversation_number = c.number AND o.user_id <> p.user_id
    WHERE p.conversation_id = $1 AND p.user_id = $2",
);

const CLEAR: Sql = Sql::both(
    "
    UPDATE conversations
    SET generation = (SELECT max(generation) + 1 FROM conversations), instance = $2, next_seq = 1,
        sent_by_first = 0, last_message_id = '', max_accepted_at = 0, longest_data = 0, data_bytes = 0,
        next_report_seq = 1, last_report_id = ''
    WHERE id = $1",
);

const PURGE_LATER: Sql = Sql::both("INSERT INTO purges (generation) VALUES ($1)");

const NEXT_PURGE: Sql = Sql::both("SELECT min(generation) FROM purges");

const PURGE: Sql = Sql::both(
    "
    DELETE FROM messages WHERE place > $1 << 32 AND place <= (
        SELECT max(place) FROM (
            SELECT place, row_number() OVER (ORDER BY place) AS nth,
                   sum(bytes) OVER (ORDER BY place ROWS UNBOUNDED PRECEDING) AS bytes
            FROM (
                SELECT place, octet_length(data) AS bytes FROM messages
                WHERE place > $1 << 32 AND place < ($1 + 1) << 32 ORDER BY place LIMIT $2
            ) AS oldest
        ) AS sized WHERE nth = 1 OR bytes <= $3)",
);

const PURGE_IDS: Sql = Sql::both("
    DELETE FROM message_ids WHERE generation = $1 AND hash <= (
        SELECT max(hash) FROM (
            SELECT hash FROM message_ids WHERE generation = $1 ORDER BY hash LIMIT $2) AS smallest)");

const PURGE_REPORTS: Sql = Sql::both(
    "
    DELETE FROM reports WHERE place > $1 << 32 AND place <= (
        SELECT max(place) FROM (
            SELECT place FROM reports
            WHERE place > $1 << 32 AND place < ($1 + 1) << 32 ORDER BY place LIMIT $2) AS oldest)",
);

const PURGED: Sql = Sql::both(
    "
    DELETE FROM purges WHERE generation = $1
        AND NOT EXISTS (SELECT 1 FROM messages WHERE place > $1 << 32 AND place < ($1 + 1) << 32)
        AND NOT EXISTS (SELECT 1 FROM message_ids WHERE generation = $1)
        AND NOT EXISTS (SELECT 1 FROM reports WHERE place > $1 << 32 AND place < ($1 + 1) << 32)",
);

/// Maximum rows per table, and maximum bytes of data, that one purge step removes. They keep a step from holding the
/// writer for more than milliseconds.
const PURGE_STEP: i64 = 256;
const PURGE_BYTES: i64 = 512 * 1024;

impl Store {
    /// Returns all conversations of a user, newest `lastaccess` first: conversation objects, separated by commas.
    ///
    /// # Errors
    ///
    /// [`Error`] if the read failed.
    pub async fn conversations(&self, user: UserId) -> Result<WireText, Error> {
        Ok(self.lists.ask(ListConversations(user)).await?.unwrap_or_default())
    }

    /// Returns all conversations like [`Self::conversations`], with the numbers of unread messages.
    ///
    /// # Errors
    ///
    /// [`Error`] where the read failed.
    pub(crate) async fn conversations_with_unread(&self, user: UserId) -> Result<WireText, Error> {
        Ok(self.extended_lists.ask(ListWithUnread(user)).await?.unwrap_or_default())
    }

    /// Returns one conversation object; `None` unless the user takes part in it.
    ///
    /// # Errors
    ///
    /// [`Error`] if the read failed.
    pub async fn conversation(
        &self,
        conversation: ConversationId,
        user: UserId,
    ) -> Result<Option<WireText>, Error> {
        let mut reads = self.reader().await?;
        object(&mut reads, conversation, user).await
    }

    /// Returns one conversation object like [`Self::conversation`], with the number of unread messages.
    ///
    /// # Errors
    ///
    /// [`Error`] where the read failed.
    pub(crate) async fn conversation_with_unread(
        &self,
        conversation: ConversationId,
        user: UserId,
    ) -> Result<Option<WireText>, Error> {
        let mut reads = self.reader().await?;
        object_by(CONVERSATION_WITH_UNREAD, &mut reads, conversation, user).await
    }

    /// Removes one bounded step of messages, message IDs and reports of cleared generations.
    ///
    /// # Errors
    ///
    /// [`Error`] if the read or the removal failed.
    pub async fn purge(&self) -> Result<Purged, Error> {
        let next = self.reader().await?.query(NEXT_PURGE).value().await;
        match next.doing("looking for cleared messages")? {
            Some(generation) => Ok(self.write(Purge { generation }).await?),
            None => Ok(Purged::NothingLeft),
        }
    }
}

pub(super) async fn object(
    connection: &mut Connection,
    conversation: ConversationId,
    user: UserId,
) -> Result<Option<WireText>, Error> {
    object_by(CONVERSATION, connection, conversation, user).await
}

async fn object_by(
    statement: Sql,
    connection: &mut Connection,
    conversation: ConversationId,
    user: UserId,
) -> Result<Option<WireText>, Error> {
    let one = connection.query(statement).bind(conversation.as_str()).bind(user.as_str());
    let object: Option<Utf8> = one.optional_value().await.doing("reading a conversation")?;
    Ok(object.map(|Utf8(object)| object))
}

/// Clears a conversation: ends its instance and begins the next one.
#[derive(Clone, Debug)]
pub struct Clear {
    /// The conversation to clear.
    pub conversation: ConversationId,
    /// The participant that clears it.
    pub user: UserId,
    /// The station that makes the change; it is not notified of it.
    pub station: Option<StationId>,
    /// The instance to end; refused if it is not the current one.
    pub instance: Instance,
    /// The name of the next instance.
    pub next: Instance,
}

impl WriteOp for Clear {
    /// The conversation object after the change.
    type Output = WireText;
    /// [`Refusal::ConversationNotFound`], [`Refusal::InstanceChanged`], [`Refusal::Blocked`], [`Refusal::NotFriends`].
    type Refusal = Refusal;

    async fn apply(&self, tx: &mut WriteTx) -> Result<WireText, WriteError> {
        let access = tx.query(ACCESS).await?;
        let access = access.bind(self.conversation.as_str()).bind(self.user.as_str());
        let access: Option<(String, i64, i64, String, String)> =
            access.optional().await.doing("checking a clear")?;
        let (instance, generation, next_seq, access, other) =
            access.ok_or(Refusal::ConversationNotFound)?;
        refuse_clear(self.instance, stored(&instance)?, stored(&access)?)?;
        begin_generation(tx, self.conversation, self.next, generation, next_seq > 1).await?;
        let subject = Subject::Conversation(self.conversation);
        let changes = ChangeSet::default().with(self.user, subject, self.station);
        let changes = changes.with(stored(&other)?, subject, None);
        ChangeLog::from(changes).record(tx).await?;
        let object = object(tx.connection().await?, self.conversation, self.user).await?;
        Ok(object.ok_or_else(|| Error::not_as_stored("the partner of a participant"))?)
    }
}

/// Begins the next generation of a conversation, under this instance. The messages of the ended one are removed later.
pub(super) async fn begin_generation(
    tx: &mut WriteTx,
    conversation: ConversationId,
    instance: Instance,
    ended: i64,
    has_messages: bool,
) -> Result<(), Error> {
    let clear = tx.query(CLEAR).await?.bind(conversation.as_str()).bind(instance.as_str());
    clear.execute().await.doing("clearing a conversation")?;
    if has_messages {
        let later = tx.query(PURGE_LATER).await?.bind(ended);
        later.execute().await.doing("recording cleared messages")?;
    }
    Ok(())
}

/// Result of a purge step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purged {
    /// A step was done; there may be more to remove.
    Step,
    /// No cleared message is left.
    NothingLeft,
}

struct Purge {
    generation: i64,
}

impl WriteOp for Purge {
    type Output = Purged;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<Purged, WriteError<Infallible>> {
        let purge = tx.query(PURGE).await?.bind(self.generation).bind(PURGE_STEP);
        purge.bind(PURGE_BYTES).execute().await.doing("removing cleared messages")?;
        let purge = tx.query(PURGE_IDS).await?.bind(self.generation).bind(PURGE_STEP);
        purge.execute().await.doing("removing the IDs of cleared messages")?;
        let purge = tx.query(PURGE_REPORTS).await?.bind(self.generation).bind(PURGE_STEP);
        purge.execute().await.doing("removing cleared reports")?;
        let done = tx.query(PURGED).await?.bind(self.generation);
        done.execute().await.doing("ending a purge")?;
        Ok(Purged::Step)
    }
}
