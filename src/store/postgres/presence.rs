//! The table of reachable users and their nodes. Each node writes what has changed at it, and reads what the others have
//! written since its last look.
//!
//! The tables are unlogged: they cost no write-ahead log, so no commit waits for the disk, and a crash of the server
//! empties them. A node notices by its own lease, and writes everything anew.

use std::time::Duration;

use tokio::time::Instant;

use super::server::Server;
use super::session::Session;
use crate::domain::{Parse as _, UserId};
use crate::store::error::Doing as _;
use crate::store::listing::listed;
use crate::store::sql::Sql;
use crate::store::{Error, stored};

listed!(NUMBER, RENEW, WRITE, RUNNING, READ, REACHABLE, FORGET_NODES, FORGET_USERS);

/// Time for which a node counts as running after a sign of life.
const LEASE: Duration = Duration::from_secs(3);

/// Interval between removals of what nodes that have ended have left.
const CLEAN_EVERY: Duration = Duration::from_secs(30);

const DOING: &str = "exchanging the presence of users";

const NUMBER: Sql = Sql::of_postgres("SELECT nextval('node_numbers')");

/// Renews the lease. Returns whether there was none.
const RENEW: Sql = Sql::of_postgres(
    "
    INSERT INTO nodes (number, lease_until) VALUES ($1, clock_timestamp() + $2 * interval '1 second')
    ON CONFLICT (number) DO UPDATE SET lease_until = excluded.lease_until
    RETURNING xmax = 0",
);

const WRITE: Sql = Sql::of_postgres(
    "
    INSERT INTO presence (user_number, node, listens, reachable_until, choices, written_at)
    SELECT u.number, $1, here.listens, clock_timestamp() + here.millis * interval '1 millisecond', here.choices,
           clock_timestamp()
    FROM unnest($2::text[], $3::boolean[], $4::bigint[], $5::bigint[]) AS here (id, listens, millis, choices)
    JOIN users u ON u.id = here.id
    ON CONFLICT (user_number, node) DO UPDATE
    SET listens = excluded.listens, reachable_until = excluded.reachable_until, choices = excluded.choices,
        written_at = excluded.written_at",
);

/// Selects the other nodes whose lease has not ended.
const RUNNING: Sql = Sql::of_postgres(
    "SELECT number FROM nodes WHERE number <> $1 AND lease_until > clock_timestamp()",
);

/// SQL for the time until which a row counts. A node that has ended counts as if its listeners had closed with its
/// lease. The argument is SQL for the seconds that a user stays reachable without a sign of life.
macro_rules! reachable_until {
    ($timeout:literal) => {
        concat!(
            "CASE WHEN p.listens THEN greatest(p.reachable_until, n.lease_until + ",
            $timeout,
            " * interval '1 second') ELSE p.reachable_until END"
        )
    };
}

/// Selects what other nodes have written since a time before the last look. What was written shortly before that may
/// have been committed after it, so the times overlap.
const READ: Sql = Sql::of_postgres(concat!(
    "SELECT u.id, p.node, p.listens AND n.lease_until > clock_timestamp(),
            greatest(0, extract(epoch FROM ",
    reachable_until!("$3"),
    "            - clock_timestamp()) * 1000)::bigint, p.choices
     FROM presence p JOIN nodes n ON n.number = p.node JOIN users u ON u.number = p.user_number
     WHERE p.node <> $1 AND p.written_at > clock_timestamp() - $2 * interval '1 millisecond'"
));

/// Selects the friends of a user who are reachable at any node.
const REACHABLE: Sql = Sql::of_postgres(concat!(
    "SELECT DISTINCT f.friend_id
     FROM friends f JOIN users u ON u.id = f.friend_id
     JOIN presence p ON p.user_number = u.number JOIN nodes n ON n.number = p.node
     WHERE f.user_id = $1 AND NOT u.is_disabled AND ",
    reachable_until!("$2"),
    " > clock_timestamp()"
));

/// Removes nodes whose lease has long ended.
const FORGET_NODES: Sql = Sql::of_postgres(
    "DELETE FROM nodes WHERE lease_until < clock_timestamp() - ($1 + 60) * interval '1 second'",
);

/// Removes rows of nodes that were removed, and those that count no more.
const FORGET_USERS: Sql = Sql::of_postgres(
    "DELETE FROM presence p
     WHERE NOT EXISTS (SELECT 1 FROM nodes n WHERE n.number = p.node)
        OR NOT p.listens AND p.reachable_until < clock_timestamp() - ($1 + 60) * interval '1 second'",
);

/// Time by which looks overlap.
const OVERLAP: Duration = Duration::from_secs(5);

/// State of a user at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HereAtNode {
    pub(crate) user: UserId,
    /// Whether the user has an open listener there.
    pub(crate) listens: bool,
    /// Time for which the user stays reachable there without a further sign of life.
    pub(crate) reachable_for: Duration,
    /// Number of the user's choices of an availability there.
    pub(crate) choices: i64,
}

/// News of other nodes.
#[derive(Debug, Default)]
pub(crate) struct Elsewhere {
    /// The nodes that run. What others have told counts no more.
    pub(crate) nodes: Vec<i64>,
    /// Rows written since the last look, and a little before.
    pub(crate) users: Vec<(i64, HereAtNode)>,
}

/// This node's part in the exchange.
pub(crate) struct PresenceExchange {
    server: Server,
    session: Option<Session>,
    /// The number of this node, once it has one.
    node: Option<i64>,
    /// Seconds that a user stays reachable without a sign of life.
    timeout: i64,
    looked_at: Option<Instant>,
    /// Beginning of the newest renewal of the lease.
    renewed_at: Option<Instant>,
    cleaned_at: Instant,
}

/// Outcome of a round.
pub(crate) enum Exchanged {
    Read(Elsewhere),
    /// The table has nothing of this node, or others did not read it: everything is to be written again.
    Forgotten,
}

impl PresenceExchange {
    pub(crate) fn new(server: Server, timeout: Duration) -> Self {
        let (timeout, cleaned_at) = (seconds(timeout), Instant::now());
        let (session, node, looked_at, renewed_at) = (None, None, None, None);
        Self { server, session, node, timeout, looked_at, renewed_at, cleaned_at }
    }

    /// Writes what has changed at this node, and reads what has changed at others.
    ///
    /// # Errors
    ///
    /// [`Error`] if the exchange failed. What was to be written may be written or not.
    pub(crate) async fn exchange(&mut self, here: &[HereAtNode]) -> Result<Exchanged, Error> {
        let exchanged = self.try_to_exchange(here).await;
        if exchanged.is_err() {
            self.session = None;
        }
        exchanged
    }

    async fn try_to_exchange(&mut self, here: &[HereAtNode]) -> Result<Exchanged, Error> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.server.connect().await?,
        };
        let node = if let Some(node) = self.node {
            node
        } else {
            let (connection, health) = session.parts();
            let number = sqlx::query_scalar(NUMBER.postgres).fetch_one(connection);
            *self.node.insert(health.watch(number).await.doing(DOING)?)
        };
        let now = Instant::now();
        let is_new = renew(&mut session, node).await?;
        let has_lapsed = self.renewed_at.replace(now).is_some_and(|then| now - then >= LEASE);
        if (is_new || has_lapsed) && self.looked_at.take().is_some() {
            self.session = Some(session);
            return Ok(Exchanged::Forgotten);
        }
        write(&mut session, node, here).await?;
        let elsewhere = self.read(&mut session, node).await?;
        if self.cleaned_at.elapsed() >= CLEAN_EVERY {
            self.cleaned_at = Instant::now();
            for statement in [FORGET_NODES, FORGET_USERS] {
                let (connection, health) = session.parts();
                let clean = sqlx::query(statement.postgres).bind(self.timeout).execute(connection);
                health.watch(clean).await.doing(DOING)?;
            }
        }
        self.session = Some(session);
        Ok(Exchanged::Read(elsewhere))
    }

    async fn read(&mut self, session: &mut Session, node: i64) -> Result<Elsewhere, Error> {
        let (connection, health) = session.parts();
        let nodes = sqlx::query_scalar(RUNNING.postgres).bind(node).fetch_all(connection);
        let nodes = health.watch(nodes).await.doing(DOING)?;
        let looked_at = self.looked_at.replace(Instant::now());
        // The first look reads everything.
        let since = looked_at.map_or(Duration::from_hours(24 * 365), |at| at.elapsed() + OVERLAP);
        let since = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        let (connection, health) = session.parts();
        let rows = sqlx::query_as(READ.postgres).bind(node).bind(since).bind(self.timeout);
        let rows = rows.fetch_all(connection);
        let rows: Vec<(String, i64, bool, i64, i64)> = health.watch(rows).await.doing(DOING)?;
        let users = rows.into_iter().filter_map(|(user, node, listens, millis, choices)| {
            let reachable_for = Duration::from_millis(millis.try_into().ok()?);
            let user = UserId::parse(&user)?;
            Some((node, HereAtNode { user, listens, reachable_for, choices }))
        });
        Ok(Elsewhere { nodes, users: users.collect() })
    }
}

/// Reads which friends of a user are reachable at any node.
pub(crate) async fn reachable_friends(
    session: &mut Session,
    user: UserId,
    timeout: Duration,
) -> Result<Vec<UserId>, Error> {
    let (connection, health) = session.parts();
    let friends = sqlx::query_scalar(REACHABLE.postgres).bind(user.as_str()).bind(seconds(timeout));
    let friends: Vec<String> =
        health.watch(friends.fetch_all(connection)).await.doing("reading who is reachable")?;
    friends.iter().map(|id| stored(id)).collect()
}

fn seconds(time: Duration) -> i64 {
    time.as_secs().try_into().unwrap_or(i64::MAX)
}

async fn renew(session: &mut Session, node: i64) -> Result<bool, Error> {
    let (connection, health) = session.parts();
    let renewed =
        sqlx::query_scalar(RENEW.postgres).bind(node).bind(seconds(LEASE)).fetch_one(connection);
    health.watch(renewed).await.doing(DOING)
}

async fn write(session: &mut Session, node: i64, here: &[HereAtNode]) -> Result<(), Error> {
    if here.is_empty() {
        return Ok(());
    }
    let (mut ids, mut listen) = (Vec::new(), Vec::new());
    let (mut millis, mut choices) = (Vec::new(), Vec::new());
    for one in here {
        ids.push(one.user.as_str());
        listen.push(one.listens);
        millis.push(i64::try_from(one.reachable_for.as_millis()).unwrap_or(i64::MAX));
        choices.push(one.choices);
    }
    let (connection, health) = session.parts();
    let write =
        sqlx::query(WRITE.postgres).bind(node).bind(ids).bind(listen).bind(millis).bind(choices);
    health.watch(write.execute(connection)).await.map(drop).doing(DOING)
}
