//! A session: a connection to PostgreSQL that notices when it is of no more use.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use tokio::time::{Instant, timeout};

use super::codes::ends_session;

/// Maximum time of a statement, with its answer. A connection whose other end has vanished reports nothing; it is given
/// up after this time.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Maximum time for a sign of life.
const ALIVE_WITHIN: Duration = Duration::from_secs(2);

/// Maximum time without a statement after which a session is taken for alive. A server that was restarted has ended all
/// sessions, and each would fail once.
const IDLE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Session {
    connection: PgConnection,
    health: Health,
}

/// Whether a session is still of use.
#[derive(Debug)]
pub(crate) struct Health {
    is_lost: bool,
    losses: Losses,
    /// Time of the latest answer.
    used_at: Instant,
}

/// Time of the latest loss of a session. The cause has probably ended the others, too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Losses(Arc<Mutex<Option<Instant>>>);

impl Losses {
    pub(crate) fn note(&self) {
        *self.latest_lost() = Some(Instant::now());
    }

    fn latest(&self) -> Option<Instant> {
        *self.latest_lost()
    }

    fn latest_lost(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    pub(crate) fn new(connection: PgConnection, losses: Losses) -> Self {
        let health = Health { is_lost: false, losses, used_at: Instant::now() };
        Self { connection, health }
    }

    /// Whether the session must be replaced: the connection is lost, or the server takes no more changes.
    pub(crate) fn is_lost(&self) -> bool {
        self.health.is_lost
    }

    /// Asks for a sign of life after a while without a statement, and where another session was lost since. Then
    /// [`Self::is_lost`] tells whether there was one.
    pub(crate) async fn look(&mut self) {
        let lost_at = self.health.losses.latest();
        let is_suspect = lost_at.is_some_and(|lost_at| lost_at >= self.health.used_at);
        if is_suspect || self.health.used_at.elapsed() >= IDLE {
            // A failure is noted.
            let ping = timeout(ALIVE_WITHIN, self.connection.ping());
            let ping = async { ping.await.unwrap_or_else(|_| Err(no_answer(ALIVE_WITHIN))) };
            drop(self.health.watch(ping).await);
        }
    }

    pub(crate) fn parts(&mut self) -> (&mut PgConnection, &mut Health) {
        (&mut self.connection, &mut self.health)
    }

    /// Ends the session. The server need not be there any more.
    pub(crate) async fn close(self) -> Result<(), sqlx::Error> {
        if self.health.is_lost {
            return Ok(());
        }
        self.connection.close().await
    }
}

impl Health {
    /// Awaits the answer to a statement, for at most [`ANSWERS_WITHIN`]. Where this call is cancelled, the next statement
    /// waits for the rest of the answer.
    pub(crate) async fn watch<T>(
        &mut self,
        answer: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let answer = timeout(ANSWERS_WITHIN, answer).await;
        let answer = answer.unwrap_or_else(|_| Err(no_answer(ANSWERS_WITHIN)));
        if answer.as_ref().err().is_some_and(ends_session) {
            self.is_lost = true;
            self.losses.note();
        }
        self.used_at = Instant::now();
        answer
    }
}

fn no_answer(within: Duration) -> sqlx::Error {
    let sentence = format!("PostgreSQL did not answer within {} s", within.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, sentence).into()
}
