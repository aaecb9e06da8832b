//! The change log: for each user every changed subject once, with the number of its newest change. A station's position
//! is such a number too. So pending changes are a query, not a queue, and survive a restart.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use super::error::Doing as _;
use super::listing::listed;
use super::many_rows::Column::{Flag, Integer, Text};
use super::many_rows::{ManyRows, ROWS};
use super::message_ids::hash;
use super::sql::{Connection, Sql, Utf8};
use super::write_op::{Batched, WriteOp};
use super::write_tx::WriteTx;
use super::{Epoch, Error, OncePerSignature, Store, WireText, WriteError, stored, stored_number};
use crate::domain::{
    ApiKey, ChangeSet, ConversationId, Origin, Parse, Replay, StationId, Subject, UserId,
};
use crate::sealing::KeyRing;

listed!(NUMBER, RECORD, USERS, CONVERSATIONS, PENDING, MOVE, POSITION, NEWEST);

/// Advances each user's counter by one. All changes of a transaction that concern a user share that number.
static NUMBER: ManyRows = ManyRows::new(
    "INSERT INTO change_numbers (user_number, newest)
     SELECT column1, 1 FROM ({rows}) AS incoming WHERE column1 IS NOT NULL
     ON CONFLICT (user_number) DO UPDATE SET newest = change_numbers.newest + 1",
    &[Integer],
);

/// Keeps two numbers: of the newest change, and of the newest one made elsewhere than at that change's station. A
/// change from another station than the last one moves the last number to `other_number`.
static RECORD: ManyRows = ManyRows::new(
    "WITH incoming (user_number, kind, subject, station, is_others) AS ({rows})
     INSERT INTO changes (user_number, kind, subject, number, station, other_number)
     SELECT i.user_number, i.kind, i.subject, n.newest, i.station,
            CASE WHEN i.is_others THEN n.newest ELSE 0 END
     FROM incoming i JOIN change_numbers n ON n.user_number = i.user_number
     WHERE i.user_number IS NOT NULL
     ON CONFLICT (user_number, kind, subject) DO UPDATE
     SET number = excluded.number,
         station = excluded.station,
         other_number = CASE
             WHEN excluded.other_number > 0 THEN excluded.other_number
             WHEN changes.station = excluded.station THEN changes.other_number
             ELSE changes.number END",
    &[Integer, Integer, Integer, Integer, Flag],
);

static USERS: ManyRows = ManyRows::new(
    "SELECT string_agg(concat(u.id, ' ', u.number), ',')
     FROM ({rows}) AS named JOIN users u ON u.id = named.column1",
    &[Text],
);

static CONVERSATIONS: ManyRows = ManyRows::new(
    "SELECT string_agg(concat(c.id, ' ', c.number), ',')
     FROM ({rows}) AS named JOIN conversations c ON c.id = named.column1",
    &[Text],
);

/// Selects the changes that a station must be told of: those after `since`, which is the larger of `$3` and the
/// station's position. With neither, everything is pending (`is_first`), former friends included: the client may have
/// received them without acknowledging. `mine` holds the changes after `since` that were made at other stations.
const PENDING: Sql = Sql::both(
    r#"
WITH station AS (
    SELECT u.id AS user_id, u.number AS user_number, s.position,
           CASE WHEN u.api_key <> '' THEN u.api_key ELSE concat(u.sealing_key, ':', u.sealed_api_key) END AS api_key,
           coalesce(n.newest, 0) AS newest, s.position IS NULL AND $3 IS NULL AS is_first,
           CASE WHEN s.position IS NULL OR s.position < $3 THEN $3 ELSE s.position END AS since
    FROM users u
    JOIN stations s ON s.user_id = u.id AND s.station_id = $2
    LEFT JOIN change_numbers n ON n.user_number = u.number
    WHERE u.id = $1 AND NOT u.is_disabled
),
mine AS (
    SELECT c.kind, c.subject FROM station CROSS JOIN changes c
    WHERE c.user_number = station.user_number AND CASE
        WHEN is_first THEN c.kind = 2
        WHEN c.station = $5 THEN c.other_number > station.since
        ELSE c.number > station.since END
)
SELECT api_key, newest, position,
       coalesce(CASE WHEN is_first
           THEN (SELECT string_agg('"' || p.conversation_id || '"', ',' ORDER BY p.conversation_id)
                 FROM participants p WHERE p.user_id = station.user_id)
           ELSE (SELECT string_agg('"' || c.id || '"', ',' ORDER BY c.id)
                 FROM mine CROSS JOIN conversations c
                 WHERE mine.kind = 1 AND c.number = mine.subject) END, ''),
       is_first OR EXISTS (SELECT 1 FROM mine WHERE kind = 3),
       coalesce(CASE WHEN is_first OR $4
           THEN (SELECT string_agg(f.friend_id, ',' ORDER BY f.friend_id)
                 FROM friends f JOIN users u ON u.id = f.friend_id
                 WHERE f.user_id = station.user_id AND NOT u.is_disabled) END, ''),
       coalesce((SELECT string_agg(u.id, ',' ORDER BY u.id)
                 FROM mine CROSS JOIN users u
                 WHERE mine.kind = 2 AND u.number = mine.subject AND NOT u.is_deleted), '')
FROM station"#,
);

/// Advances positions. A position never decreases. It never exceeds the user's newest number: a client may remember an
/// answer that a database restored from a backup does not. A node may learn of a new epoch a moment late, so the
/// statement checks it.
static MOVE: ManyRows = ManyRows::new(
    "WITH told (user_id, station_id, position) AS (
         SELECT column1, column2, max(column3) FROM ({rows}) AS incoming
         WHERE column1 IS NOT NULL AND column4 = (SELECT id FROM epoch) GROUP BY column1, column2)
     UPDATE stations SET position = told.position
     FROM told
     WHERE stations.user_id = told.user_id AND stations.station_id = told.station_id
         AND (stations.position IS NULL OR stations.position < told.position)
         AND told.position <= coalesce((
             SELECT n.newest FROM users u JOIN change_numbers n ON n.user_number = u.number
             WHERE u.id = told.user_id), 0)",
    &[Text, Text, Integer, Text],
);

const POSITION: Sql = Sql::both(
    "
    SELECT coalesce(s.position, -1), coalesce(n.newest, 0)
    FROM stations s
    JOIN users u ON u.id = s.user_id
    LEFT JOIN change_numbers n ON n.user_number = u.number
    WHERE s.user_id = $1 AND s.station_id = $2",
);

const NEWEST: Sql = Sql::both("SELECT newest FROM change_numbers WHERE user_number = $1");

/// Cache of the numbers that stand for IDs in these tables. They never change.
#[derive(Default)]
struct Numbers {
    users: HashMap<UserId, i64>,
    conversations: HashMap<ConversationId, i64>,
}

/// Records the changes of one transaction. A number that the caller knows already saves a lookup.
#[derive(Default)]
pub(super) struct ChangeLog {
    pub(super) set: ChangeSet,
    known: Numbers,
}

impl From<ChangeSet> for ChangeLog {
    fn from(set: ChangeSet) -> Self {
        Self { set, known: Numbers::default() }
    }
}

impl ChangeLog {
    pub(super) fn know_user(&mut self, user: UserId, number: i64) {
        self.known.users.insert(user, number);
    }

    pub(super) fn know_conversation(&mut self, conversation: ConversationId, number: i64) {
        self.known.conversations.insert(conversation, number);
    }

    /// Numbers and stores the changes. Their users' listeners are notified after the commit.
    pub(super) async fn record(mut self, tx: &mut WriteTx) -> Result<(), Error> {
        self.look_up(tx).await?;
        for (user, subject, origin) in self.set.iter() {
            if let Some(number) = self.known.users.get(&user) {
                tx.affected.change(user, *number, subject, origin);
            }
        }
        let mut users: Vec<_> = self.set.iter().map(|(user, ..)| user).collect();
        users.dedup();
        let known = |user| self.known.users.get(user).copied();
        let users: Vec<_> = users.iter().filter_map(known).collect();
        for users in users.chunks(ROWS) {
            number(tx, users);
        }
        let rows: Vec<_> = self.set.iter().filter_map(|change| self.known.row(change)).collect();
        for rows in rows.chunks(ROWS) {
            record_rows(tx, rows);
        }
        Ok(())
    }

    async fn look_up(&mut self, tx: &mut WriteTx) -> Result<(), Error> {
        let Numbers { users, conversations } = &mut self.known;
        let mut unknown_users = Vec::new();
        let mut unknown_conversations = Vec::new();
        for (user, subject, _) in self.set.iter() {
            unknown_users.extend((!users.contains_key(&user)).then_some(user));
            match subject {
                Subject::Conversation(id) if !conversations.contains_key(&id) => {
                    unknown_conversations.push(id);
                }
                Subject::Friend(id) if !users.contains_key(&id) => unknown_users.push(id),
                _ => {}
            }
        }
        let unknown: Vec<_> = unknown_users.iter().map(UserId::as_str).collect();
        users.extend(numbers(tx, &USERS, &unknown).await?);
        let unknown: Vec<_> = unknown_conversations.iter().map(ConversationId::as_str).collect();
        conversations.extend(numbers(tx, &CONVERSATIONS, &unknown).await?);
        Ok(())
    }
}

/// A row of `changes`, without the number that the statement adds.
struct Row {
    user: i64,
    kind: i64,
    subject: i64,
    origin: Origin,
}

impl Numbers {
    /// Returns `None` if the user or conversation does not exist.
    fn row(&self, (user, subject, origin): (UserId, Subject, Origin)) -> Option<Row> {
        let (kind, subject) = match subject {
            Subject::Conversation(id) => (1, *self.conversations.get(&id)?),
            Subject::Friend(id) => (2, *self.users.get(&id)?),
            Subject::Lists => (3, 0),
        };
        Some(Row { user: *self.users.get(&user)?, kind, subject, origin })
    }
}

/// Skips IDs that do not exist.
async fn numbers<T: Parse>(
    tx: &mut WriteTx,
    statement: &'static ManyRows,
    ids: &[&str],
) -> Result<Vec<(T, i64)>, Error> {
    let mut found = Vec::with_capacity(ids.len());
    for ids in ids.chunks(ROWS) {
        let pairs = tx.query_scalar(statement, ids, |id, values| {
            values.add(*id);
        });
        let pairs: Option<String> = pairs.await.doing("looking up numbers")?;
        let pairs = pairs.unwrap_or_default();
        for (id, number) in pairs.split(',').filter_map(|pair| pair.split_once(' ')) {
            found.push((stored(id)?, stored_number(number)?));
        }
    }
    Ok(found)
}

fn number(tx: &mut WriteTx, users: &[i64]) {
    tx.affected.take_numbers(users);
    tx.defer(&NUMBER, users, |user, values| {
        values.add(*user);
    });
}

fn record_rows(tx: &mut WriteTx, rows: &[Row]) {
    tx.defer(&RECORD, rows, |Row { user, kind, subject, origin }, values| {
        values
            .add(*user)
            .add(*kind)
            .add(*subject)
            .add(origin.station.as_ref().map_or(0, bits))
            .add(origin.is_mixed);
    });
}

/// Returns the 63-bit hash that stands for a station in `changes`. Hashed because clients choose their stations'
/// IDs. Never 0, which stands for no station.
fn bits(station: &StationId) -> i64 {
    (hash(station.as_str()) & i64::MAX).max(1)
}

/// Changes that a station has not been notified of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// A listener's signature is checked against it anew, because the key may have been replaced.
    pub(crate) api_key: ApiKey,
    /// The number of the user's newest change. This answer covers all changes up to it and none after.
    pub(crate) newest: i64,
    /// The change number up to which the station was notified; `None` before the first time.
    pub(crate) position: Option<i64>,
    /// IDs of changed conversations in ascending order: JSON strings, separated by commas.
    pub(crate) conversations: WireText,
    pub(crate) lists: bool,
    /// All friends, if the query asks for them or everything is pending; else empty.
    pub(crate) all_friends: Vec<UserId>,
    /// Friends that came, went, or changed in anything but their availability.
    pub(crate) friends: Vec<UserId>,
}

impl Pending {
    /// Ignores `all_friends`, which is no change.
    pub(crate) fn is_empty(&self) -> bool {
        self.conversations.is_empty() && !self.lists && self.friends.is_empty()
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingQuery {
    pub(crate) user: UserId,
    pub(crate) station: StationId,
    /// Change number already delivered to the station. The query starts after this or the position, whichever is
    /// larger.
    pub(crate) delivered_up_to: Option<i64>,
    pub(crate) all_friends: bool,
}

impl PendingQuery {
    async fn read(
        &self,
        connection: &mut Connection,
        keys: &KeyRing,
    ) -> Result<Option<Pending>, Error> {
        type Row = (String, i64, Option<i64>, Utf8, bool, String, String);
        let pending = connection
            .query(PENDING)
            .bind(self.user.as_str())
            .bind(self.station.as_str())
            .bind(self.delivered_up_to)
            .bind(self.all_friends)
            .bind(bits(&self.station));
        let row: Option<Row> =
            pending.optional().await.doing("reading the pending changes of a station")?;
        let Some((key, newest, position, Utf8(conversations), lists, all_friends, friends)) = row
        else {
            return Ok(None);
        };
        Ok(Some(Pending {
            api_key: keys.read(self.user, &key)?,
            newest,
            position,
            conversations,
            lists,
            all_friends: ids(&all_friends)?,
            friends: ids(&friends)?,
        }))
    }
}

/// Parses user IDs that a statement has joined with commas.
pub(super) fn ids(text: &str) -> Result<Vec<UserId>, Error> {
    text.split(',').filter(|id| !id.is_empty()).map(stored).collect()
}

/// Reads what is pending for a station and advances its position in the same transaction.
struct TakePending {
    query: PendingQuery,
    epoch: Arc<Epoch>,
}

impl WriteOp for TakePending {
    type Output = Option<Pending>;
    type Refusal = Infallible;

    /// A cancelled poll must not advance the position.
    const IS_FOR_ITS_ANSWER: bool = true;

    async fn apply(&self, tx: &mut WriteTx) -> Result<Self::Output, WriteError<Infallible>> {
        let keys = tx.shared_keys();
        let Some(pending) = self.query.read(tx.connection().await?, &keys).await? else {
            return Ok(None);
        };
        let PendingQuery { user, station, .. } = self.query;
        let (number, epoch) = (pending.newest, Arc::clone(&self.epoch));
        move_to(tx, &[&Acknowledge { user, station, number, epoch }]);
        Ok(Some(pending))
    }
}

/// Advances a station's position to this number.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledge {
    pub(crate) user: UserId,
    pub(crate) station: StationId,
    pub(crate) number: i64,
    /// The epoch of the number.
    pub(crate) epoch: Arc<Epoch>,
}

impl Batched for Acknowledge {
    type Outcome = ();

    async fn apply_all(tx: &mut WriteTx, all: &[&Self]) -> Result<Vec<()>, Error> {
        move_to(tx, all);
        Ok(vec![(); all.len()])
    }
}

struct AcknowledgeAll(Vec<Acknowledge>);

impl WriteOp for AcknowledgeAll {
    type Output = ();
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError<Infallible>> {
        for some in self.0.chunks(ROWS) {
            move_to(tx, &some.iter().collect::<Vec<_>>());
        }
        Ok(())
    }
}

fn move_to(tx: &mut WriteTx, all: &[&Acknowledge]) {
    tx.defer(&MOVE, all, |acknowledge, values| {
        let Acknowledge { user, station, number, epoch, .. } = acknowledge;
        values.add(user.as_str()).add(station.as_str()).add(*number).add(epoch.id.as_str());
    });
}

/// See [`Store::take_number`].
struct TakeNumber(UserId);

impl WriteOp for TakeNumber {
    type Output = i64;
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<i64, WriteError<Infallible>> {
        let found = numbers::<UserId>(tx, &USERS, &[self.0.as_str()]).await?;
        let Some((_, user)) = found.first() else { return Ok(0) };
        number(tx, &[*user]);
        let newest = tx.query(NEWEST).await?.bind(*user);
        Ok(newest.value().await.doing("reading a change number")?)
    }
}

impl Store {
    /// `None` if the user is disabled or the station is not bound.
    pub(crate) async fn pending(&self, asked: &PendingQuery) -> Result<Option<Pending>, Error> {
        let mut reads = self.reader().await?;
        asked.read(&mut reads, &self.keys).await
    }

    /// Like [`Self::pending`], and advances the station's position past what it returns, at most once per signed
    /// request.
    ///
    /// # Errors
    ///
    /// [`Refusal::Replayed`](crate::domain::Refusal::Replayed).
    pub(crate) async fn take_pending(
        &self,
        query: PendingQuery,
        replay: Replay,
    ) -> Result<Option<Pending>, WriteError> {
        let change = TakePending { query, epoch: self.epoch() };
        self.write(OncePerSignature { replay, change }).await
    }

    /// Whether this number is greater than the station's position and at most the user's newest change.
    pub(crate) async fn is_news(
        &self,
        user: UserId,
        station: StationId,
        number: i64,
    ) -> Result<bool, Error> {
        let mut reads = self.reader().await?;
        let position = reads.query(POSITION).bind(user.as_str()).bind(station.as_str());
        let position: Option<(i64, i64)> = position.optional().await.doing("reading a position")?;
        Ok(position.is_some_and(|(position, newest)| position < number && number <= newest))
    }

    /// Advances the station's position to this number, unless it is there or further already.
    ///
    /// # Errors
    ///
    /// [`Error`] if the position was not moved.
    pub async fn acknowledge(
        &self,
        user: UserId,
        station: StationId,
        number: i64,
    ) -> Result<(), Error> {
        self.writer.acknowledge(Acknowledge { user, station, number, epoch: self.epoch() }).await
    }

    /// Advances many positions like [`Self::acknowledge`].
    pub(crate) async fn acknowledge_all(&self, all: Vec<Acknowledge>) -> Result<(), Error> {
        Ok(self.write(AcknowledgeAll(all)).await?)
    }

    /// Allocates a change number for a notification that is not stored; 0 if the user does not exist.
    ///
    /// # Errors
    ///
    /// [`Error`] if none was allocated.
    pub async fn take_number(&self, user: UserId) -> Result<i64, Error> {
        Ok(self.write(TakeNumber(user)).await?)
    }
}
