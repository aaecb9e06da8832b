//! News of commits between the nodes of a PostgreSQL database.
//!
//! Each node gathers for some milliseconds what its commits change for users, and sends it with one NOTIFY. That has a
//! connection and a transaction of its own: within the writing transaction, NOTIFY would let one commit at a time
//! through. What is lost on the way is found by a look at the newest change numbers each second.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{Receiver, Sender};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use uuid::Uuid;

use super::connect;
use super::payload::Payload;
use super::server::Server;
use super::session::Session;
use crate::domain::{Parse as _, UserId};
use crate::store::epoch::{CurrentEpoch, EPOCH};
use crate::store::error::Doing as _;
use crate::store::listing::listed;
use crate::store::sql::Sql;
use crate::store::{CommitEvent, Epoch, Error, News};

listed!(NOTIFY, STAMPS);

/// The channel of all nodes of a database: NOTIFY reaches the sessions of that database only.
const CHANNEL: &str = "chatserver";

/// Time for which changes are gathered. A listener at another node hears of a change that much later.
const GATHER: Duration = Duration::from_millis(5);

/// Interval between two looks at the newest change numbers.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Maximum users of one look. A look at more takes several queries.
const LOOK_AT: usize = 1000;

/// A node hears its own signs of life. After a longer silence, the connection is given up.
const SILENCE: Duration = Duration::from_secs(5);

/// Pause before another attempt after a failure.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Notifies without waiting for the disk, since notifications are hints. The setting lasts as long as the statement.
const NOTIFY: Sql =
    Sql::of_postgres("SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)");

/// Selects what a listener is told of, or closed for: the newest change, and whether the user may still log in, with which
/// key and stations.
const STAMPS: Sql = Sql::of_postgres(
    "
    SELECT u.id, coalesce(n.newest, 0), concat(u.is_disabled, ' ', u.api_key_digest, ' ', (
               SELECT md5(string_agg(s.station_id, ',' ORDER BY s.station_id)) FROM stations s WHERE s.user_id = u.id))
    FROM unnest($1::text[]) AS wanted (id)
    JOIN users u ON u.id = wanted.id
    LEFT JOIN change_numbers n ON n.user_number = u.number",
);

pub(crate) struct Bus {
    server: Server,
    /// The name of this node in payloads.
    node: String,
}

/// Findings of a look.
struct Looked {
    epoch: Epoch,
    /// The newest state of each user who listens here.
    stamps: HashMap<UserId, Stamp>,
    /// News since the last look.
    changed: HashMap<UserId, News>,
}

/// The state of a user.
struct Stamp {
    /// The number of the newest change.
    newest: i64,
    /// Whether the user may log in, with which key and stations.
    login: String,
}

impl Stamp {
    /// Returns what is new since the last look, if anything.
    fn news_since(&self, last: Option<&Self>) -> Option<News> {
        match last {
            Some(last) if last.login == self.login => {
                (last.newest != self.newest).then_some(News::UpTo(self.newest))
            }
            _ => Some(News::Unknown),
        }
    }
}

impl Bus {
    pub(crate) fn new(server: Server) -> Self {
        Self { server, node: Uuid::new_v4().simple().to_string() }
    }

    /// Wakes users at all nodes, and forgets what is cached of them. For a process that ends.
    pub(crate) async fn notify_all(&self) -> Result<(), Error> {
        let mut session = self.server.connect().await?;
        self.notify(&mut session, &Payload::All).await?;
        session.close().await.doing("closing a connection")
    }

    /// Passes this node's commits on to other nodes, and theirs to this one, until the future is dropped. `listening`
    /// returns the users who listen at this node.
    pub(crate) async fn run(
        &self,
        events: &Sender<CommitEvent>,
        epoch: &CurrentEpoch,
        listening: impl Fn() -> Vec<UserId>,
    ) {
        let tell = self.tell(events.subscribe());
        future::join3(tell, self.hear(events), self.look(events, epoch, listening)).await;
    }

    /// Tells other nodes of this one's commits.
    async fn tell(&self, mut commits: Receiver<CommitEvent>) {
        let mut session = None;
        loop {
            let Some(payload) = gather(&mut commits).await else { return };
            if let Err(error) = self.send(&mut session, &payload).await {
                tracing::debug!(%error, "telling other nodes failed; they look for changes themselves");
                session = None;
            }
        }
    }

    async fn send(&self, session: &mut Option<Session>, payload: &Payload) -> Result<(), Error> {
        let session = match session {
            Some(session) => session,
            none => none.insert(self.server.connect().await?),
        };
        self.notify(session, payload).await
    }

    async fn notify(&self, session: &mut Session, payload: &Payload) -> Result<(), Error> {
        for text in payload.texts(&self.node) {
            let (connection, health) = session.parts();
            let notify = sqlx::query(NOTIFY.postgres).bind(CHANNEL).bind(text).execute(connection);
            health.watch(notify).await.map(drop).doing("telling other nodes")?;
        }
        Ok(())
    }

    /// Wakes the users that other nodes name, and all users after an interruption.
    async fn hear(&self, events: &Sender<CommitEvent>) {
        loop {
            let Err(error) = self.hear_until_lost(events).await;
            self.server.note_loss();
            tracing::debug!(%error, "the connection to other nodes is lost");
            sleep(TRY_AGAIN).await;
        }
    }

    async fn hear_until_lost(
        &self,
        events: &Sender<CommitEvent>,
    ) -> Result<Infallible, sqlx::Error> {
        let lost = || sqlx::Error::Protocol("other nodes are not heard".into());
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(SILENCE);
        let pool = pool.connect_lazy_with(connect::options(self.server.url())?);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        // Whatever was sent meanwhile is missed.
        drop(events.send(CommitEvent::AnyUser));
        loop {
            let heard = timeout(SILENCE, listener.try_recv()).await.map_err(|_| lost())??;
            match Payload::read(heard.ok_or_else(lost)?.payload(), &self.node) {
                Some(Payload::Users(users)) => {
                    drop(events.send(CommitEvent::Elsewhere(Arc::new(users))));
                }
                Some(Payload::All) => drop(events.send(CommitEvent::AnyUser)),
                Some(Payload::Alive) | None => {}
            }
        }
    }

    /// Looks for changes that no node has told of, such as those of a node that was killed after its commit.
    async fn look(
        &self,
        events: &Sender<CommitEvent>,
        epoch: &CurrentEpoch,
        listening: impl Fn() -> Vec<UserId>,
    ) {
        let mut known = HashMap::new();
        let mut session = None;
        let mut every = interval(LOOK_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            match self.look_once(&mut session, &known, &listening()).await {
                Ok(Looked { epoch: found, stamps, changed }) => {
                    known = stamps;
                    let id = found.id.clone();
                    if epoch.enter(found) {
                        tracing::info!(
                            epoch = id,
                            "a new epoch has begun: clients read everything again"
                        );
                        drop(events.send(CommitEvent::NewEpoch));
                    } else if !changed.is_empty() {
                        drop(events.send(CommitEvent::Elsewhere(Arc::new(changed))));
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "looking for changes of other nodes failed");
                    session = None;
                }
            }
        }
    }

    async fn look_once(
        &self,
        session: &mut Option<Session>,
        known: &HashMap<UserId, Stamp>,
        listening: &[UserId],
    ) -> Result<Looked, Error> {
        self.send(session, &Payload::Alive).await?;
        let Some(session) = session else { return Err(Error::Disconnected) };
        let (id, began_at): (String, i64) = {
            let (connection, health) = session.parts();
            health.watch(sqlx::query_as(EPOCH.postgres).fetch_one(connection)).await
        }
        .doing("looking for a new epoch")?;
        let mut stamps = HashMap::with_capacity(listening.len());
        for users in listening.chunks(LOOK_AT) {
            let ids: Vec<_> = users.iter().map(UserId::as_str).collect();
            let (connection, health) = session.parts();
            let found = sqlx::query_as(STAMPS.postgres).bind(ids).fetch_all(connection);
            let found: Vec<(String, i64, String)> =
                health.watch(found).await.doing("looking for changes of other nodes")?;
            let stamp = |(id, newest, login): (String, i64, String)| {
                Some((UserId::parse(&id)?, Stamp { newest, login }))
            };
            stamps.extend(found.into_iter().filter_map(stamp));
        }
        let changed = listening.iter().filter_map(|user| {
            let news = stamps
                .get(user)
                .map_or(Some(News::Unknown), |stamp| stamp.news_since(known.get(user)));
            Some((*user, news?))
        });
        let changed = changed.collect();
        let epoch = Epoch::of(id, began_at).ok_or_else(|| Error::not_as_stored("a time"))?;
        Ok(Looked { epoch, stamps, changed })
    }
}

/// Waits for a commit of this node, and returns what it and the next ones change. Returns `None` once the store is closed.
async fn gather(commits: &mut Receiver<CommitEvent>) -> Option<Payload> {
    let mut users = HashMap::new();
    let mut is_lagging = false;
    let mut until: Option<Instant> = None;
    loop {
        let next = commits.recv();
        let event = match until {
            None => next.await,
            Some(until) => {
                match timeout(until.saturating_duration_since(Instant::now()), next).await {
                    Ok(event) => event,
                    Err(_) => break,
                }
            }
        };
        match event {
            Ok(CommitEvent::Here(affected)) => add(&mut users, &affected),
            // These came from other nodes.
            Ok(_) => continue,
            Err(RecvError::Lagged(_)) => is_lagging = true,
            Err(RecvError::Closed) => return None,
        }
        until.get_or_insert_with(|| Instant::now() + GATHER);
    }
    Some(if is_lagging { Payload::All } else { Payload::Users(users) })
}

fn add(gathered: &mut HashMap<UserId, News>, affected: &HashMap<UserId, News>) {
    for (user, news) in affected {
        match gathered.entry(*user) {
            Entry::Vacant(first) => drop(first.insert(news.clone())),
            Entry::Occupied(mut earlier) => earlier.get_mut().join(news),
        }
    }
}
