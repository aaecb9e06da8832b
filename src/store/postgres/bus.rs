//! Wake-ups between the nodes of a PostgreSQL database.
//!
//! Each node gathers the users that its commits affect for some milliseconds and sends their ids with one NOTIFY. That
//! has a connection and a transaction of its own: within the writing transaction, NOTIFY would let one commit at a time
//! through. What is lost on the way is found by a look at the newest change numbers each second.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::time::Duration;

use futures_util::future;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{Receiver, Sender};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use uuid::Uuid;

use super::connect;
use super::server::Server;
use super::session::Session;
use crate::domain::{Parse as _, UserId};
use crate::store::epoch::{CurrentEpoch, EPOCH};
use crate::store::error::Doing as _;
use crate::store::{CommitEvent, Epoch, Error};

/// The channel of all nodes of a database: NOTIFY reaches the sessions of that database only.
const CHANNEL: &str = "chatserver";

/// Time for which affected users are gathered. A listener at another node hears of a change that much later.
const GATHER: Duration = Duration::from_millis(5);

/// Maximum users in a payload. PostgreSQL takes less than 8,000 bytes.
const USERS: usize = 200;

/// The payload that wakes all users, and forgets what is cached of them.
const ALL: &str = "*";

/// The payload that shows that the channel works.
const ALIVE: &str = ".";

/// Interval between two looks at the newest change numbers.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Maximum users of one look. A look at more takes several queries.
const LOOK_AT: usize = 1000;

/// A node hears its own signs of life. After a longer silence, the connection is given up.
const SILENCE: Duration = Duration::from_secs(5);

/// Pause before another attempt after a failure.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Notifies without waiting for the disk, since notifications are hints. The setting lasts as long as the statement.
const NOTIFY: &str = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)";

/// Selects what a listener is told of, or closed for: the newest change, and whether the user may still log in with this
/// key.
const STAMPS: &str = "
    SELECT u.id, concat(n.newest, ' ', u.is_disabled, ' ', u.api_key_digest)
    FROM unnest($1::text[]) AS wanted (id)
    JOIN users u ON u.id = wanted.id
    LEFT JOIN change_numbers n ON n.user_number = u.number";

pub(crate) struct Bus {
    server: Server,
    /// The name of this node in payloads.
    node: String,
}

/// Findings of a look.
struct Looked {
    epoch: Epoch,
    /// The newest state of each user who listens here.
    stamps: HashMap<UserId, String>,
    /// Users whose stamp is not the one of the last look.
    changed: Vec<UserId>,
}

/// A payload, as another node has sent it.
enum Heard {
    Users(Vec<UserId>),
    All,
    Nothing,
}

impl Bus {
    pub(crate) fn new(server: Server) -> Self {
        Self { server, node: Uuid::new_v4().simple().to_string() }
    }

    /// Wakes users at all nodes, and forgets what is cached of them. For a process that ends.
    pub(crate) async fn wake_all(&self) -> Result<(), Error> {
        let mut session = self.server.connect().await?;
        self.notify(&mut session, ALL).await?;
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
            let Some(payloads) = gather(&mut commits).await else { return };
            for payload in payloads {
                if let Err(error) = self.send(&mut session, &payload).await {
                    tracing::debug!(%error, "telling other nodes failed; they look for changes themselves");
                    session = None;
                    break;
                }
            }
        }
    }

    async fn send(&self, session: &mut Option<Session>, payload: &str) -> Result<(), Error> {
        let session = match session {
            Some(session) => session,
            none => none.insert(self.server.connect().await?),
        };
        self.notify(session, payload).await
    }

    async fn notify(&self, session: &mut Session, payload: &str) -> Result<(), Error> {
        let (connection, health) = session.parts();
        let payload = format!("{} {payload}", self.node);
        let notify = sqlx::query(NOTIFY).bind(CHANNEL).bind(payload).execute(connection);
        health.watch(notify).await.map(drop).doing("telling other nodes")
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
            match self.read(heard.ok_or_else(lost)?.payload()) {
                Heard::Users(users) => drop(events.send(CommitEvent::Elsewhere(users.into()))),
                Heard::All => drop(events.send(CommitEvent::AnyUser)),
                Heard::Nothing => {}
            }
        }
    }

    fn read(&self, payload: &str) -> Heard {
        match payload.split_once(' ') {
            Some((node, _)) if node == self.node => Heard::Nothing,
            Some((_, ALIVE)) | None => Heard::Nothing,
            Some((_, ALL)) => Heard::All,
            Some((_, users)) => Heard::Users(users.split(',').filter_map(UserId::parse).collect()),
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
                    if epoch.enter(found) {
                        drop(events.send(CommitEvent::NewEpoch));
                    } else if !changed.is_empty() {
                        drop(events.send(CommitEvent::Elsewhere(changed.into())));
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
        known: &HashMap<UserId, String>,
        listening: &[UserId],
    ) -> Result<Looked, Error> {
        self.send(session, ALIVE).await?;
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
            let found = sqlx::query_as(STAMPS).bind(ids).fetch_all(connection);
            let found: Vec<(String, String)> =
                health.watch(found).await.doing("looking for changes of other nodes")?;
            let found = found.into_iter();
            stamps.extend(found.filter_map(|(id, stamp)| Some((UserId::parse(&id)?, stamp))));
        }
        let changed = listening.iter().filter(|user| known.get(user) != stamps.get(user));
        let changed = changed.copied().collect();
        let epoch = Epoch::of(id, began_at).ok_or_else(|| Error::not_as_stored("a time"))?;
        Ok(Looked { epoch, stamps, changed })
    }
}

/// Waits for a commit of this node, and returns the payloads for the users that it and the next ones affect. Returns
/// `None` once the store is closed.
async fn gather(commits: &mut Receiver<CommitEvent>) -> Option<Vec<String>> {
    let mut users = HashSet::new();
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
            Ok(CommitEvent::Users(affected)) => users.extend(affected.keys().copied()),
            // These came from other nodes.
            Ok(_) => continue,
            Err(RecvError::Lagged(_)) => is_lagging = true,
            Err(RecvError::Closed) => return None,
        }
        until.get_or_insert_with(|| Instant::now() + GATHER);
    }
    if is_lagging {
        return Some(vec![ALL.to_owned()]);
    }
    let users: Vec<_> = users.into_iter().collect();
    let payload = |users: &[UserId]| {
        let ids: Vec<_> = users.iter().map(UserId::as_str).collect();
        ids.join(",")
    };
    Some(users.chunks(USERS).map(payload).collect())
}
