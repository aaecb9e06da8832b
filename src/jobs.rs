//! Background jobs in small steps: removing cleared messages, returning their space to the file system, and removing
//! expired signatures.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::app::App;
use crate::clock::ClockWatch;
use crate::config::MAX_CLOCK_SKEW_SECONDS;
use crate::store::{self, Purged, Store, Vacuumed};

/// The pause after a step is this times its duration. While clients write much, a step waits longer in the queue, so
/// the pause grows as well.
const PAUSE_FACTOR: u32 = 2;

/// Pause when there is nothing to do.
const WHEN_IDLE: Duration = Duration::from_secs(1);

/// Pause after the store refused or failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// How long a signature is kept beyond its expiry. After that its timestamp can't be fresh by the right clock, even if
/// it was accepted ahead of its time and the wall clock has been wrong since.
const KEEP_SIGNATURES: Duration = Duration::from_secs(2 * MAX_CLOCK_SKEW_SECONDS as u64);

/// Runs the jobs until the server closes.
pub async fn run(app: Arc<App>) {
    let mut watch = ClockWatch::new(app.clock.clone(), KEEP_SIGNATURES);
    let work = async {
        let mut cleared = Cleared { in_free_pages: true, in_log: app.store.has_log() };
        loop {
            let started = Instant::now();
            let rest = match step(&app, &mut watch, &mut cleared).await {
                Ok(true) => started.elapsed() * PAUSE_FACTOR,
                Ok(false) => WHEN_IDLE,
                Err(error) => {
                    let retry_seconds = AFTER_FAILURE.as_secs();
                    tracing::warn!(%error, retry_seconds, "cleanup of the database failed");
                    AFTER_FAILURE
                }
            };
            sleep(rest).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = app.shutdown.closing() => {}
    }
}

/// Runs one step of each job. Returns whether there may be more to do.
async fn step(
    app: &App,
    watch: &mut ClockWatch,
    cleared: &mut Cleared,
) -> Result<bool, store::Error> {
    let removed = cleared.remove(&app.store).await;
    let expired = match watch.passed() {
        Some(passed) => app.store.expire_replays(passed).await,
        None => Ok(false),
    };
    Ok(expired? | removed?)
}

/// Places that may still hold text of cleared messages. At startup, free pages and a log that is not empty are suspect:
/// the last run may have been killed.
struct Cleared {
    in_free_pages: bool,
    in_log: bool,
}

impl Cleared {
    /// Runs one step: first removes messages, then vacuums free pages, at last truncates the write-ahead log. Returns
    /// whether there may be more to do.
    async fn remove(&mut self, store: &Store) -> Result<bool, store::Error> {
        if store.purge().await? == Purged::Step {
            (self.in_free_pages, self.in_log) = (true, true);
            return Ok(true);
        }
        if self.in_free_pages && store.vacuum().await? == Vacuumed::Step {
            self.in_log = true;
            return Ok(true);
        }
        self.in_free_pages = false;
        if std::mem::take(&mut self.in_log) {
            store.truncate_log();
        }
        Ok(false)
    }
}
