//! A PostgreSQL server, which may be away for a while.

use std::error::Error as StdError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connect;
use super::session::{Losses, Session};
use super::url::PgUrl;
use crate::store::{Error, OpenError};

/// Interval between attempts to connect while the server is away. What needs a connection meanwhile fails at once.
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// Interval between log lines while the server is away for the same reason.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// A server, and how long it has been away. Clones share that.
#[derive(Clone)]
pub(crate) struct Server {
    url: Arc<PgUrl>,
    outage: Arc<Mutex<Option<Outage>>>,
    losses: Losses,
}

/// Times of failed attempts to connect.
struct Outage {
    since: Instant,
    tried: Instant,
    /// Time and reason of the last log line.
    logged: Option<(Instant, String)>,
}

impl Server {
    pub(crate) fn new(url: PgUrl) -> Self {
        Self { url: Arc::new(url), outage: Arc::default(), losses: Losses::default() }
    }

    pub(crate) fn url(&self) -> &PgUrl {
        &self.url
    }

    /// Opens a session for serving, when a store is opened.
    pub(crate) async fn open(&self) -> Result<Session, OpenError> {
        connect::serve(&self.url, self.losses.clone()).await
    }

    /// Notes that a connection was lost, so that others are looked at before they are used.
    pub(crate) fn note_loss(&self) {
        self.losses.note();
    }

    /// Opens a session for serving. While the server is away, tries it every [`TRY_AGAIN`] only.
    ///
    /// # Errors
    ///
    /// [`Error::Disconnected`] if the server can't be reached or takes no changes.
    pub(crate) async fn connect(&self) -> Result<Session, Error> {
        if self.outage().as_ref().is_some_and(|outage| outage.tried.elapsed() < TRY_AGAIN) {
            return Err(Error::Disconnected);
        }
        match self.open().await {
            Ok(session) => {
                if let Some(outage) = self.outage().take() {
                    let seconds = outage.since.elapsed().as_secs();
                    tracing::info!(database = %self.url, seconds, "the database is back");
                }
                Ok(session)
            }
            Err(error) => {
                self.away(&error);
                Err(Error::Disconnected)
            }
        }
    }

    fn away(&self, error: &OpenError) {
        let (now, why) = (Instant::now(), error.to_string());
        let mut outage = self.outage();
        let outage = outage.get_or_insert(Outage { since: now, tried: now, logged: None });
        outage.tried = now;
        let is_told = outage
            .logged
            .as_ref()
            .is_some_and(|(logged, told)| now.duration_since(*logged) < LOG_EVERY && *told == why);
        if !is_told {
            outage.logged = Some((now, why));
            let seconds = outage.since.elapsed().as_secs();
            tracing::error!(error = error as &dyn StdError, seconds, "the database is away");
        }
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
