//! Removal of messages that are kept no longer, in small steps.
//!
//! The messages of a generation have no gaps, because a page is everything between two row keys. So rows are removed
//! from the front only, and `conversations.first_message` is the oldest that is left. A message that expires while an
//! older one stays loses its data at once, and its row when it is the oldest.
//!
//! Reports have no gaps either, and stand in another order than the messages. A report is removed with its message or,
//! if an older report stays, together with that one. Until then it has the ID of the message in `message_id`.

mod preview;
pub(super) mod sweep;

use std::collections::BTreeMap;
use std::convert::Infallible;

use sqlx::FromRow;

use super::audit::{self, Event};
use super::changes::ChangeLog;
use super::error::Doing as _;
use super::listing::listed;
use super::many_rows::Column::Integer;
use super::many_rows::ManyRows;
use super::message_ids::{bind, hash};
use super::row_keys::{row_key, seq};
use super::sql::{Connection, Sql};
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::{Error, Store, WriteError, stored};
use crate::audit::Action;
use crate::domain::{Age, ChangeSet, ConversationId, Retention, Subject, Timestamp, UserId};
pub(crate) use sweep::{Sweep, Swept};

listed!(
    HEAD,
    OLDEST,
    OLDEST_REPORTS,
    REMOVE_REPORTS,
    KEEP_ID,
    UNLIST,
    REMOVE,
    SKIP_UNREAD,
    BEGIN_AT,
    EXPIRED,
    EMPTY,
    FREED,
    MEMBERS,
    SET_DAYS
);

const HEAD: Sql = Sql::both(
    "
    SELECT generation, next_seq, next_report_seq, data_bytes, retention_days,
           max(first_message, (generation << 32) + 1) AS first_message,
           max(first_report, (generation << 32) + 1) AS first_report
    FROM conversations WHERE number = $1",
);

const OLDEST: Sql = Sql::both(
    "
    SELECT place, id, sender_number, accepted_at, valid_until,
           CAST(octet_length(data) AS BIGINT) AS bytes, nth
    FROM messages WHERE place >= $1 AND place < $2 ORDER BY place LIMIT 256",
);

const OLDEST_REPORTS: Sql = Sql::both(
    "SELECT message_place FROM reports WHERE place >= $1 AND place < $2 ORDER BY place LIMIT 512",
);

const REMOVE_REPORTS: Sql = Sql::both("DELETE FROM reports WHERE place >= $1 AND place < $2");

/// Keeps the IDs of messages in the reports that outlive them.
const KEEP_ID: Sql = Sql::both(
    "
    UPDATE reports SET message_id = (SELECT m.id FROM messages m WHERE m.place = reports.message_place)
    WHERE message_place >= $1 AND message_place < $2",
);

static UNLIST: ManyRows = ManyRows::new(
    "DELETE FROM message_ids WHERE (generation, hash, seq) IN ({rows})",
    &[Integer, Integer, Integer],
);

const REMOVE: Sql = Sql::both("DELETE FROM messages WHERE place >= $1 AND place < $2");

/// Moves the read position of the participant with this user number behind the removed messages: they are not unread.
const SKIP_UNREAD: Sql = Sql::both(
    "
    UPDATE participants SET read_to = $3
    WHERE conversation_number = $1 AND user_number = $2 AND read_to < $3",
);

/// Sets the first entries of a conversation. Without messages or reports it names none as the last one.
const BEGIN_AT: Sql = Sql::both(
    "
    UPDATE conversations
    SET first_message = $2, first_report = $3, data_bytes = data_bytes - $4,
        last_message_id = CASE WHEN $2 < (generation << 32) + next_seq THEN last_message_id ELSE '' END,
        longest_data = CASE WHEN $2 < (generation << 32) + next_seq THEN longest_data ELSE 0 END,
        last_report_id = CASE WHEN $3 < (generation << 32) + next_report_seq THEN last_report_id ELSE '' END
    WHERE number = $1",
);

/// Selects messages with data whose validity has ended, behind a `ValidUntil` and a row key. A text that is no date
/// keeps its message.
const EXPIRED: Sql = Sql::both(
    "
    SELECT m.place, m.valid_until, CAST(octet_length(m.data) AS BIGINT) AS bytes FROM messages m
    WHERE m.valid_until <> '' AND m.data <> '' AND m.valid_until <= $1 AND (m.valid_until, m.place) > ($2, $3)
        AND m.valid_until LIKE '____-__-__ __:__:__'
    ORDER BY m.valid_until, m.place LIMIT 64",
);

static EMPTY: ManyRows = ManyRows::new(
    "UPDATE messages SET data = '' WHERE place IN (SELECT column1 FROM ({rows}) AS expired)",
    &[Integer],
);

const FREED: Sql =
    Sql::both("UPDATE conversations SET data_bytes = data_bytes - $2 WHERE generation = $1");

/// Both users of the conversation with this present generation.
const MEMBERS: Sql = Sql::both(
    "
    SELECT c.number AS conversation_number, c.id AS conversation_id, u.number AS user_number, u.id AS user_id, u.email
    FROM conversations c
    JOIN participants p ON p.conversation_number = c.number
    JOIN users u ON u.number = p.user_number
    WHERE c.generation = $1 ORDER BY u.number",
);

const SET_DAYS: Sql = Sql::both("UPDATE conversations SET retention_days = $2 WHERE id = $1");

/// Maximum bytes of data that a step removes. With at most 256 messages it holds the writer for milliseconds.
const STEP_BYTES: i64 = 512 * 1024;

/// Messages and bytes that a sweep removes from one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) messages: u64,
    /// Messages that lost their data only.
    pub(crate) emptied: u64,
    /// Bytes of data.
    pub(crate) bytes: i64,
}

impl Removed {
    pub(crate) fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.emptied += other.emptied;
        self.bytes += other.bytes;
    }
}

/// By generation.
pub(crate) type RemovedOf = BTreeMap<i64, Removed>;

#[derive(FromRow)]
struct Head {
    generation: i64,
    next_seq: i64,
    next_report_seq: i64,
    retention_days: Option<i64>,
    first_message: i64,
    first_report: i64,
}

impl Head {
    async fn read(connection: &mut Connection, conversation: i64) -> Result<Option<Self>, Error> {
        let head = connection.query(HEAD).bind(conversation);
        head.optional().await.doing("reading a conversation")
    }

    fn next_message(&self) -> i64 {
        row_key(self.generation, self.next_seq)
    }

    /// Returns those of the oldest messages, behind `from`, that are kept no longer.
    async fn over(
        &self,
        connection: &mut Connection,
        from: i64,
        retention: Retention,
        now: Timestamp,
    ) -> Result<Vec<Oldest>, Error> {
        let oldest = connection.query(OLDEST).bind(from).bind(self.next_message());
        let mut oldest: Vec<Oldest> = oldest.all().await.doing("reading the oldest messages")?;
        let kept = oldest.iter().position(|message| {
            let Oldest { accepted_at, valid_until, .. } = message;
            !retention.is_over(
                self.retention_days,
                Age { accepted_at: *accepted_at, valid_until },
                now,
            )
        });
        oldest.truncate(kept.unwrap_or(oldest.len()));
        Ok(oldest)
    }
}

#[derive(FromRow)]
struct Oldest {
    place: i64,
    id: String,
    sender_number: i64,
    accepted_at: i64,
    valid_until: String,
    bytes: i64,
    nth: i64,
}

/// Removes the oldest messages of a conversation that are kept no longer, as many as fit into a step. Returns `None` if
/// there are none.
struct Trim {
    /// The number of the conversation.
    conversation: i64,
    retention: Retention,
    now: Timestamp,
}

impl WriteOp for Trim {
    type Output = Option<(i64, Removed)>;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<Self::Output, WriteError<Infallible>> {
        let head = Head::read(tx.connection().await?, self.conversation).await?;
        let Some(head) = head else { return Ok(None) };
        let connection = tx.connection().await?;
        let mut over = head.over(connection, head.first_message, self.retention, self.now).await?;
        over.truncate(within_a_step(over.iter().map(|message| message.bytes)));
        let first_message = over.last().map_or(head.first_message, |last| last.place + 1);
        let first_report = head.first_report_of(connection, first_message).await?;
        if first_message == head.first_message && first_report == head.first_report {
            return Ok(None);
        }
        let bytes = over.iter().map(|message| message.bytes).sum();
        let removed =
            Removed { messages: over.len().try_into().unwrap_or(u64::MAX), emptied: 0, bytes };
        remove_reports(tx, [head.first_report, first_report]).await?;
        self.remove_messages(tx, &head, &over).await?;
        let begin = tx.query(BEGIN_AT).await?.bind(self.conversation).bind(first_message);
        let begin = begin.bind(first_report).bind(bytes).execute().await;
        begin.doing("removing old messages")?;
        tell_members(tx, [head.generation]).await?;
        Ok(Some((head.generation, removed)))
    }
}

impl Head {
    /// Returns the row key of the oldest report that stays when the messages before `first_message` are removed.
    async fn first_report_of(
        &self,
        connection: &mut Connection,
        first_message: i64,
    ) -> Result<i64, Error> {
        let reports = connection.query(OLDEST_REPORTS).bind(self.first_report);
        let reports = reports.bind(row_key(self.generation, self.next_report_seq));
        let about: Vec<i64> = reports.values().await.doing("reading the oldest reports")?;
        let over = about.iter().take_while(|message| **message < first_message).count();
        Ok(self.first_report + i64::try_from(over).unwrap_or(0))
    }
}

impl Trim {
    async fn remove_messages(
        &self,
        tx: &mut WriteTx,
        head: &Head,
        over: &[Oldest],
    ) -> Result<(), Error> {
        let Some(last) = over.last() else { return Ok(()) };
        let (first, end) = (head.first_message, last.place + 1);
        let keep = tx.query(KEEP_ID).await?.bind(first).bind(end);
        keep.execute().await.doing("keeping the IDs of removed messages")?;
        let listed =
            over.iter().map(|message| (head.generation, hash(&message.id), seq(message.place)));
        tx.defer(&UNLIST, &listed.collect::<Vec<_>>(), bind);
        let remove = tx.query(REMOVE).await?.bind(first).bind(end);
        remove.execute().await.doing("removing old messages")?;
        for member in members(tx.connection().await?, head.generation).await? {
            // Messages that the other user sent, up to the last removed one.
            let sent = if member.user_number == last.sender_number {
                seq(last.place) - last.nth
            } else {
                last.nth
            };
            let skip = tx.query(SKIP_UNREAD).await?.bind(self.conversation);
            let skip = skip.bind(member.user_number).bind(row_key(head.generation, sent));
            skip.execute().await.doing("moving a read position")?;
        }
        Ok(())
    }
}

async fn remove_reports(tx: &mut WriteTx, [first, end]: [i64; 2]) -> Result<(), Error> {
    let remove = tx.query(REMOVE_REPORTS).await?.bind(first).bind(end);
    remove.execute().await.map(drop).doing("removing old reports")
}

/// Returns how many of these sizes fit into a step: at least one, if there is one.
fn within_a_step(sizes: impl Iterator<Item = i64>) -> usize {
    let sums = sizes.scan(0, |sum, bytes| {
        *sum += bytes;
        Some(*sum)
    });
    sums.enumerate().take_while(|(n, sum)| *n == 0 || *sum <= STEP_BYTES).count()
}

/// Removes the data of messages whose validity has ended, of as many as fit into a step.
struct Expire {
    now: Timestamp,
}

impl WriteOp for Expire {
    type Output = RemovedOf;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<RemovedOf, WriteError<Infallible>> {
        let mut expired = expired(tx.connection().await?, self.now, &(String::new(), 0)).await?;
        expired.truncate(within_a_step(expired.iter().map(|message| message.bytes)));
        let mut removed = RemovedOf::new();
        if expired.is_empty() {
            return Ok(removed);
        }
        for Expired { place, bytes, .. } in &expired {
            let emptied = Removed { emptied: 1, bytes: *bytes, ..Removed::default() };
            removed.entry(place >> 32).or_default().add(emptied);
        }
        tx.defer(&EMPTY, &expired, |message, values| {
            values.add(message.place);
        });
        for (generation, Removed { bytes, .. }) in &removed {
            let freed = tx.query(FREED).await?.bind(*generation).bind(*bytes);
            freed.execute().await.doing("removing the data of expired messages")?;
        }
        tell_members(tx, removed.keys().copied()).await?;
        Ok(removed)
    }
}

#[derive(FromRow)]
struct Expired {
    place: i64,
    valid_until: String,
    bytes: i64,
}

async fn expired(
    connection: &mut Connection,
    now: Timestamp,
    (valid_until, place): &(String, i64),
) -> Result<Vec<Expired>, Error> {
    let now = now.to_string();
    let expired = connection.query(EXPIRED).bind(now.as_str());
    let expired = expired.bind(valid_until.as_str()).bind(*place);
    expired.all().await.doing("looking for expired messages")
}

/// A participant of a conversation, as messages are removed.
#[derive(FromRow)]
struct Member {
    conversation_number: i64,
    conversation_id: String,
    user_number: i64,
    user_id: String,
    email: String,
}

/// Returns both users of the conversation. An ended generation has none.
async fn members(connection: &mut Connection, generation: i64) -> Result<Vec<Member>, Error> {
    let members = connection.query(MEMBERS).bind(generation);
    members.all().await.doing("reading the participants of a conversation")
}

/// Records that conversations changed, for both users of each.
async fn tell_members(
    tx: &mut WriteTx,
    generations: impl IntoIterator<Item = i64>,
) -> Result<(), Error> {
    let mut changes = ChangeLog::from(ChangeSet::default());
    for generation in generations {
        for member in members(tx.connection().await?, generation).await? {
            let user: UserId = stored(&member.user_id)?;
            let conversation: ConversationId = stored(&member.conversation_id)?;
            changes.know_user(user, member.user_number);
            changes.know_conversation(conversation, member.conversation_number);
            changes.set.add(user, Subject::Conversation(conversation), None);
        }
    }
    changes.record(tx).await
}

/// Sets how long a conversation keeps its messages.
struct SetDays {
    conversation: ConversationId,
    days: Option<u32>,
}

impl WriteOp for SetDays {
    /// Whether there is such a conversation.
    type Output = bool;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<bool, WriteError<Infallible>> {
        let set = tx.query(SET_DAYS).await?.bind(self.conversation.as_str());
        let set = set.bind(self.days.map(i64::from)).execute().await;
        let is_set = set.doing("setting the retention of a conversation")? > 0;
        if is_set {
            let details = match self.days {
                None => "as the settings say".to_owned(),
                Some(0) => "for ever".to_owned(),
                Some(days) => format!("{days} days"),
            };
            let conversation = Some(self.conversation);
            let event = Event { conversation, details: &details, ..Event::default() };
            audit::record(tx, Action::RetentionSet, event).await?;
        }
        Ok(is_set)
    }
}

impl Store {
    /// Sets how many days a conversation keeps its messages: 0 is for ever, `None` as the settings say. Returns whether
    /// there is such a conversation.
    pub(crate) async fn set_retention(
        &self,
        conversation: ConversationId,
        days: Option<u32>,
    ) -> Result<bool, Error> {
        Ok(self.write(SetDays { conversation, days }).await?)
    }

    /// Returns the id and the users' e-mail addresses of the conversation with this generation. `None` if that has
    /// ended.
    pub(crate) async fn conversation_with(
        &self,
        generation: i64,
    ) -> Result<Option<(ConversationId, Vec<String>)>, Error> {
        let members = members(&mut *self.reader().await?, generation).await?;
        let Some(first) = members.first() else { return Ok(None) };
        let id = stored(&first.conversation_id)?;
        Ok(Some((id, members.into_iter().map(|member| member.email).collect())))
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqliteConnection};

    use super::sweep::{ALL, WITH_OWN};
    use super::*;

    /// Returns the steps of SQLite's plan for a statement.
    async fn plan(on: &mut SqliteConnection, sql: Sql) -> Vec<String> {
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", sql.sqlite));
        let rows = sqlx::query(explain).fetch_all(on).await.unwrap();
        rows.iter().map(|row| row.get("detail")).collect()
    }

    #[tokio::test]
    async fn a_sweep_searches_and_scans_nothing() {
        let mut on = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlx::migrate!("migrations/sqlite").run_direct(None, &mut on, false).await.unwrap();
        let statements = [
            ALL,
            WITH_OWN,
            HEAD,
            OLDEST,
            OLDEST_REPORTS,
            REMOVE_REPORTS,
            KEEP_ID,
            REMOVE,
            SKIP_UNREAD,
            BEGIN_AT,
            EXPIRED,
            FREED,
            MEMBERS,
            SET_DAYS,
        ];
        for statement in statements {
            let plan = plan(&mut on, statement).await;
            assert!(plan.iter().all(|step| !step.starts_with("SCAN")), "{plan:?}");
            assert!(plan.iter().any(|step| step.starts_with("SEARCH")), "{plan:?}");
        }
        let expired = plan(&mut on, EXPIRED).await;
        assert!(expired[0].contains("messages_by_validity"), "{expired:?}");
        let own = plan(&mut on, WITH_OWN).await;
        assert!(own.iter().any(|step| step.contains("conversations_with_retention")), "{own:?}");
    }

    #[test]
    fn a_step_has_at_least_one_message_and_no_more_bytes_than_its_bound() {
        let fit = |sizes: &[i64]| within_a_step(sizes.iter().copied());
        assert_eq!(fit(&[]), 0);
        assert_eq!(fit(&[2 * STEP_BYTES, 1]), 1);
        assert_eq!(fit(&[STEP_BYTES / 2, STEP_BYTES / 2, 1]), 2);
        assert_eq!(fit(&[1; 256]), 256);
    }
}
