//! Readiness: whether changes can be made, by the outcome of the latest ones and a probe.
//!
//! A read proves little. With a lock held by another process or a table missing, reads succeed and no change is made.
//! So a readiness check makes a tiny change, at most once every few seconds and only on request. Concurrent checks
//! share it.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::{Instant, timeout_at};

use super::error::Doing as _;
use super::listing::listed;
use super::outcomes::FAILING_FOR;
use super::sql::Sql;
use super::write_op::WriteOp;
use super::write_tx::WriteTx;
use super::writer::Writer;
use super::{Error, Store, WriteError};

listed!(LOOK, WRITE, CLEAN_UP);

/// How long a probe's outcome is reused.
const PROBE_EVERY: Duration = Duration::from_secs(3);

/// Maximum duration of a probe. SQLite's busy time-out is longer than load balancers wait.
const PROBE_WITHIN: Duration = Duration::from_secs(4);

/// Names every table, so preparing it fails if one is missing.
const LOOK: Sql = Sql::both("
    SELECT (SELECT 1 FROM users LIMIT 0), (SELECT 1 FROM friends LIMIT 0), (SELECT 1 FROM friend_requests LIMIT 0),
           (SELECT 1 FROM blocks LIMIT 0), (SELECT 1 FROM conversations LIMIT 0),
           (SELECT 1 FROM participants LIMIT 0), (SELECT 1 FROM messages LIMIT 0),
           (SELECT 1 FROM message_ids LIMIT 0), (SELECT 1 FROM reports LIMIT 0), (SELECT 1 FROM purges LIMIT 0),
           (SELECT 1 FROM stations LIMIT 0), (SELECT 1 FROM changes LIMIT 0),
           (SELECT 1 FROM change_numbers LIMIT 0), (SELECT 1 FROM workspaces LIMIT 0),
           (SELECT 1 FROM invitations LIMIT 0), (SELECT 1 FROM sealing_keys LIMIT 0)");

/// Dirties a page, so that the commit has to write. [`CLEAN_UP`] removes the row in the same transaction.
const WRITE: Sql = Sql::both("INSERT INTO replays (expires_at, signature) VALUES (0, 'probe')");

const CLEAN_UP: Sql = Sql::both("DELETE FROM replays WHERE expires_at = 0 AND signature = 'probe'");

/// The reason why no change can be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReady {
    /// The database can't be read, or the store is closed.
    #[error("the store does not answer")]
    Unread(#[source] Error),
    #[error("no change can be made")]
    Unwritten(#[source] Error),
    /// The probe is still waiting or the queue is full, and nothing was committed for 4 s. Another process may hold the
    /// database.
    #[error("no change was made for {} s", PROBE_WITHIN.as_secs())]
    Stuck,
    /// The probe succeeds, but all changes of clients fail.
    #[error("all changes have failed for {} s", FAILING_FOR.as_secs())]
    Failing,
}

/// The latest probe, shared by all requests.
#[derive(Default)]
pub(super) struct Probes(Mutex<Option<Probing>>);

#[derive(Clone)]
struct Probing {
    begun: Instant,
    outcome: Shared<BoxFuture<'static, Result<(), Error>>>,
}

impl Probes {
    /// Returns the latest probe, or starts a new one if that is done and too old.
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
        for statement in [LOOK, WRITE, CLEAN_UP] {
            tx.query(statement).await?.execute().await.doing(DOING)?;
        }
        Ok(())
    }
}

impl Store {
    /// Checks that the database answers and that changes can be made. A nearly full disk does not fail the check.
    pub(crate) async fn ready(&self) -> Result<(), NotReady> {
        self.ping().await.map_err(NotReady::Unread)?;
        match self.probed().await {
            Err(Error::QueueFull) | Ok(None)
                if self.writer.outcomes().has_committed_within(PROBE_WITHIN) => {}
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

    /// `None` if the latest probe takes longer than 4 s.
    async fn probed(&self) -> Result<Option<()>, Error> {
        let Probing { begun, outcome } = self.probes.probe(&self.writer)?;
        timeout_at(begun + PROBE_WITHIN, outcome).await.ok().transpose()
    }
}
