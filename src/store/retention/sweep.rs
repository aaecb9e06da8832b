//! A sweep: it looks at the oldest message of each conversation, and removes what is kept no longer.

use sqlx::FromRow;

use super::{Expire, RemovedOf, Trim};
use crate::domain::{Age, Retention, Timestamp};
use crate::store::engine::Engine;
use crate::store::error::Doing as _;
use crate::store::listing::listed;
use crate::store::sql::{Connection, Sql};
use crate::store::{Error, Store};

listed!(ALL, WITH_OWN, LOCK);

/// SQL for a step of conversations, behind a number, with the age of the oldest message of each. Reads one row of
/// messages for each of them.
macro_rules! conversations {
    ($which:literal) => {
        concat!(
            "
    SELECT c.number, c.retention_days,
           (SELECT m.accepted_at FROM messages m
            WHERE m.place = max(c.first_message, (c.generation << 32) + 1)) AS accepted_at,
           (SELECT m.valid_until FROM messages m
            WHERE m.place = max(c.first_message, (c.generation << 32) + 1)) AS valid_until
    FROM conversations c WHERE c.number > $1",
            $which,
            " ORDER BY c.number LIMIT 500"
        )
    };
}

pub(super) const ALL: Sql = Sql::both(conversations!(""));

/// If the settings keep everything, only conversations with days of their own need a look.
pub(super) const WITH_OWN: Sql = Sql::both(conversations!(" AND c.retention_days > 0"));

/// The session's lock, so that one node or command sweeps at a time. Without it, two would do the same work twice.
const LOCK: Sql = Sql::of_postgres("SELECT pg_try_advisory_lock(1919251566)");

#[derive(FromRow)]
struct Conversation {
    number: i64,
    retention_days: Option<i64>,
    accepted_at: Option<i64>,
    valid_until: Option<String>,
}

impl Conversation {
    fn is_due(&self, retention: Retention, now: Timestamp) -> bool {
        let (Some(accepted_at), Some(valid_until)) = (self.accepted_at, &self.valid_until) else {
            return false;
        };
        retention.is_over(self.retention_days, Age { accepted_at, valid_until }, now)
    }
}

/// The conversations whose oldest message is kept no longer, in steps.
pub(super) struct Walk {
    retention: Retention,
    now: Timestamp,
    /// Number of the last conversation that was looked at.
    last: i64,
}

impl Walk {
    pub(super) fn new(retention: Retention, now: Timestamp) -> Self {
        Self { retention, now, last: 0 }
    }

    /// Returns the numbers of the due conversations of the next step. `None` at the end.
    pub(super) async fn step(
        &mut self,
        connection: &mut Connection,
    ) -> Result<Option<Vec<i64>>, Error> {
        let keeps_all = self.retention == Retention::default();
        let conversations = connection.query(if keeps_all { WITH_OWN } else { ALL });
        let conversations: Vec<Conversation> = conversations
            .bind(self.last)
            .all()
            .await
            .doing("looking for messages that are kept no longer")?;
        let Some(last) = conversations.last() else { return Ok(None) };
        self.last = last.number;
        let due = conversations.iter().filter(|one| one.is_due(self.retention, self.now));
        Ok(Some(due.map(|one| one.number).collect()))
    }
}

/// Outcome of a step.
#[derive(Debug)]
pub(crate) enum Swept {
    /// There may be more to remove.
    Step(RemovedOf),
    Done,
}

/// A sweep over all conversations. It keeps nothing between two sweeps, so one that ends early costs a repetition only.
pub(crate) struct Sweep {
    retention: Retention,
    now: Timestamp,
    /// `None` once all conversations were looked at.
    walk: Option<Walk>,
    /// Numbers of conversations with messages to remove.
    due: Vec<i64>,
    /// The session that has the lock.
    _turn: Option<Connection>,
}

impl Sweep {
    /// Removes one step.
    pub(crate) async fn step(&mut self, store: &Store) -> Result<Swept, Error> {
        let (retention, now) = (self.retention, self.now);
        if let Some(conversation) = self.due.last().copied() {
            let removed = store.write(Trim { conversation, retention, now }).await?;
            if removed.is_none() {
                self.due.pop();
            }
            return Ok(Swept::Step(removed.into_iter().collect()));
        }
        if let Some(walk) = &mut self.walk {
            match walk.step(&mut *store.reader().await?).await? {
                Some(due) => self.due = due,
                None => self.walk = None,
            }
            return Ok(Swept::Step(RemovedOf::new()));
        }
        if retention.honours_valid_until {
            let removed = store.write(Expire { now }).await?;
            if !removed.is_empty() {
                return Ok(Swept::Step(removed));
            }
        }
        Ok(Swept::Done)
    }
}

impl Store {
    /// Begins a sweep; `None` while another node or command of a PostgreSQL database has one under way.
    pub(crate) async fn sweep(
        &self,
        retention: Retention,
        now: Timestamp,
    ) -> Result<Option<Sweep>, Error> {
        let mut turn = None;
        if let Engine::Postgres(server) = &self.engine {
            let mut session = Connection::Postgres(Box::new(server.connect().await?));
            let is_locked: bool =
                session.query(LOCK).value().await.doing("beginning to remove old messages")?;
            if !is_locked {
                return Ok(None);
            }
            turn = Some(session);
        }
        let walk = Some(Walk::new(retention, now));
        Ok(Some(Sweep { retention, now, walk, due: Vec::new(), _turn: turn }))
    }
}
