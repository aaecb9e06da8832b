//! A session of a copy on PostgreSQL, and how it keeps other copies and servers away.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::time::{Instant, sleep};

use super::tables::TABLES;
use super::{CopyError, End};
use crate::store::PgUrl;
use crate::store::postgres::connect;

/// Maximum wait for sessions that are about to end: those of a process that was just stopped or killed.
const PATIENCE: Duration = Duration::from_secs(2);

const TRY_AGAIN: Duration = Duration::from_millis(50);

/// A copy reads whole tables in the order of their keys, without sorting them. While the other end is slow, this one may
/// leave data unread for longer than a server is given to take it.
const SETTINGS: &str = "
    SET application_name = 'chatserver copy'; SET tcp_user_timeout = 0;
    SET enable_seqscan = off; SET enable_sort = off";

/// Takes the lock of a database, once for each copy. It ends with the session. The number is `copy` in ASCII.
const LOCK: &str = "SELECT pg_try_advisory_lock(1668247673)";

const FORGET_SESSIONS: &str = "SELECT pg_stat_clear_snapshot()";

/// Counts the sessions of servers and commands in this database.
const SESSIONS: &str = "
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'chatserver'";

pub(crate) struct CopySession {
    pub(crate) connection: PgConnection,
    pub(crate) url: PgUrl,
    end: End,
}

impl CopySession {
    /// Connects to a database that no server has open.
    pub(crate) async fn open(url: &PgUrl, end: End) -> Result<Self, CopyError> {
        let connection = connect::migrate(url).await.map_err(|source| end.unusable(source))?;
        let mut session = Self { connection, url: url.clone(), end };
        session.run(SETTINGS, "beginning").await?;
        let since = Instant::now();
        while !session.is_locked().await? {
            if since.elapsed() >= PATIENCE {
                return Err(CopyError::Locked { end, url: url.to_string() });
            }
            sleep(TRY_AGAIN).await;
        }
        session.refuse_servers().await?;
        Ok(session)
    }

    async fn is_locked(&mut self) -> Result<bool, CopyError> {
        let locked = sqlx::query_scalar(LOCK).fetch_one(&mut self.connection).await;
        locked.map_err(|source| self.end.failed("taking its lock", source))
    }

    /// Refuses a database in which a server or a command has a session.
    ///
    /// This can't see a server that is connecting again at this moment, one that starts later, or one behind a pooler
    /// that gives its sessions another name. None of these can change the source ([`Self::freeze`]), or open the target
    /// once it has the mark of a copy.
    pub(crate) async fn refuse_servers(&mut self) -> Result<(), CopyError> {
        let since = Instant::now();
        loop {
            // A transaction sees the sessions of its first look, unless it forgets them.
            self.run(FORGET_SESSIONS, "looking for servers").await?;
            let count = sqlx::query_scalar(SESSIONS).fetch_one(&mut self.connection).await;
            let sessions: i64 =
                count.map_err(|source| self.end.failed("looking for servers", source))?;
            if sessions == 0 {
                return Ok(());
            }
            if since.elapsed() >= PATIENCE {
                return Err(CopyError::Serving {
                    end: self.end,
                    url: self.url.to_string(),
                    sessions,
                });
            }
            sleep(TRY_AGAIN).await;
        }
    }

    /// Begins a transaction that reads one snapshot, and makes every change of the copied tables wait for its end.
    pub(crate) async fn freeze(&mut self) -> Result<(), CopyError> {
        let tables = TABLES.iter().map(|table| table.name).collect::<Vec<_>>().join(", ");
        // The snapshot is taken by the first query after the lock.
        let freeze = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = '5s'; LOCK TABLE {tables} IN SHARE MODE"
        );
        let begun = sqlx::raw_sql(AssertSqlSafe(freeze)).execute(&mut self.connection).await;
        begun.map(drop).map_err(|source| self.end.failed("locking its tables", source))
    }

    /// Runs statements without parameters. Several at once are one transaction.
    pub(crate) async fn run(
        &mut self,
        statements: &'static str,
        doing: &'static str,
    ) -> Result<(), CopyError> {
        let ran = sqlx::raw_sql(statements).execute(&mut self.connection).await;
        ran.map(drop).map_err(|source| self.end.failed(doing, source))
    }

    pub(crate) async fn close(self) -> Result<(), CopyError> {
        let closed = self.connection.close().await;
        closed.map_err(|source| self.end.failed("closing it", source))
    }
}
