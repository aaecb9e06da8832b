//! Whether changes can be made: what became of the last ones, and a probe.
//!
//! A read proves little: with a lock held by another process, or a table missing, reads go on and no change is made. So
//! whoever asks gets the outcome of a tiny change, made at most once every few seconds and only when it is asked for.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use sqlx::Row as _;
use tokio::time::{Instant, timeout_at};

use super::error::Doing as _;
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::writer::Writer;
use super::{Error, Store};
use crate::store::WriteError;

/// How long the outcome of a probe is good for.
const PROBE_EVERY: Duration = Duration::from_secs(3);

/// How long a probe may take. The busy time-out of SQLite is longer than load balancers wait.
const PROBE_WITHIN: Duration = Duration::from_secs(4);

/// How long all changes must have failed to count as failing for good.
const FAILING_FOR: Duration = Duration::from_secs(5);

/// How long a failure counts that no other one has followed.
const FAILURE_COUNTS: Duration = Duration::from_secs(10);

/// Names every table, so that it can't be prepared where one is missing.
const LOOK: &str = "
    SELECT (SELECT 1 FROM users LIMIT 0), (SELECT 1 FROM friends LIMIT 0), (SELECT 1 FROM friend_requests LIMIT 0),
           (SELECT 1 FROM blocks LIMIT 0), (SELECT 1 FROM conversations LIMIT 0),
           (SELECT 1 FROM participants LIMIT 0), (SELECT 1 FROM messages LIMIT 0),
           (SELECT 1 FROM message_ids LIMIT 0), (SELECT 1 FROM reports LIMIT 0), (SELECT 1 FROM purges LIMIT 0),
           (SELECT 1 FROM stations LIMIT 0), (SELECT 1 FROM changes LIMIT 0),
           (SELECT 1 FROM change_numbers LIMIT 0), (SELECT 1 FROM workspaces LIMIT 0)";

/// Leaves nothing behind, but changes a page, which the commit has to write.
const WRITE: &str = "
    INSERT INTO replays (expires_at, signature) VALUES (0, 'probe');
    DELETE FROM replays WHERE expires_at = 0 AND signature = 'probe'";

/// Why no change can be made.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// The database can't be read, or the store has closed.
    #[error("the store does not answer")]
    Unread(#[source] Error),
    /// The probe failed.
    #[error("no change can be made")]
    Unwritten(#[source] Error),
    /// The probe waits, and nothing has been committed meanwhile: another process may hold the database.
    #[error("no change was made for {} s", PROBE_WITHIN.as_secs())]
    Stuck,
    /// The probe succeeds, but all changes of clients fail.
    #[error("all changes have failed for {} s", FAILING_FOR.as_secs())]
    Failing,
}

/// What became of the last transactions of the writer.
#[derive(Default)]
pub(super) struct Outcomes(Mutex<Latest>);

#[derive(Default)]
struct Latest {
    commit: Option<Instant>,
    /// The first and the last failure since a change that somebody was told of.
    failures: Option<(Instant, Instant)>,
}

impl Outcomes {
    /// Notes a commit. One that nobody is told of, such as a probe's, does not make up for failures.
    pub(super) fn committed(&self, is_told: bool) {
        let mut latest = self.latest();
        latest.commit = Some(Instant::now());
        if is_told {
            latest.failures = None;
        }
    }

    /// Notes a failure of the database.
    pub(super) fn failed(&self) {
        let now = Instant::now();
        self.latest().failures.get_or_insert((now, now)).1 = now;
    }

    fn has_committed_lately(&self) -> bool {
        self.latest().commit.is_some_and(|commit| commit.elapsed() < PROBE_WITHIN)
    }

    fn are_failures(&self) -> bool {
        self.latest().failures.is_some_and(|(first, last)| {
            last.elapsed() < FAILURE_COUNTS && last.duration_since(first) >= FAILING_FOR
        })
    }

    fn latest(&self) -> std::sync::MutexGuard<'_, Latest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The latest probe, which all who ask share.
#[derive(Default)]
pub(super) struct Probes(Mutex<Option<Probing>>);

#[derive(Clone)]
struct Probing {
    begun: Instant,
    outcome: Shared<BoxFuture<'static, Result<(), Error>>>,
}

impl Probes {
    /// The latest probe, or a new one where that is done and too old.
    fn probe(&self, writer: &Writer) -> Result<Probing, Error> {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(probing) = latest.as_ref() {
            let is_done = probing.outcome.clone().now_or_never().is_some();
            if !is_done || probing.begun.elapsed() < PROBE_EVERY {
                return Ok(probing.clone());
            }
        }
        let outcome = writer.begin(Probe)?;
        let outcome = async {
            let Ok(()) = outcome.await.unwrap_or(Err(Error::Closed))?;
            Ok(())
        };
        let probing = Probing { begun: Instant::now(), outcome: outcome.boxed().shared() };
        Ok(latest.insert(probing).clone())
    }
}

struct Probe;

impl WriteOp for Probe {
    type Output = ();
    type Refusal = Infallible;

    async fn apply(&self, tx: &mut WriteTx) -> Result<(), WriteError<Infallible>> {
        const DOING: &str = "probing whether changes can be made";
        let connection = tx.connection().await?;
        let looked = sqlx::query(LOOK).fetch_one(&mut *connection).await;
        looked.map(|row| row.len()).doing(DOING)?;
        sqlx::query(WRITE).execute(connection).await.doing(DOING)?;
        Ok(())
    }
}

impl Store {
    /// Whether the database answers and changes can be made. A disk that is nearly full is no reason against it.
    ///
    /// # Errors
    ///
    /// [`NotReady`] says what can't be done.
    pub async fn ready(&self) -> Result<(), NotReady> {
        self.ping().await.map_err(NotReady::Unread)?;
        match self.probed().await {
            Err(Error::QueueFull) | Ok(None) if self.writer.outcomes().has_committed_lately() => {}
            Err(Error::QueueFull) | Ok(None) => return Err(NotReady::Stuck),
            Err(error) if self.is_storage_full() && error.cause() == "full" => {}
            Err(error) => return Err(NotReady::Unwritten(error)),
            Ok(Some(())) => {}
        }
        if self.writer.outcomes().are_failures() && !self.is_storage_full() {
            return Err(NotReady::Failing);
        }
        Ok(())
    }

    /// The outcome of the latest probe, or `None` where it takes too long.
    async fn probed(&self) -> Result<Option<()>, Error> {
        let Probing { begun, outcome } = self.probes.probe(&self.writer)?;
        timeout_at(begun + PROBE_WITHIN, outcome).await.ok().transpose()
    }
}
