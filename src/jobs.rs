//! Background jobs in small steps: removing messages that were cleared or are kept no longer, returning their space to the
//! file system, and removing expired signatures, old invitations and old entries of the audit log.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::app::App;
use crate::clock::ClockWatch;
use crate::config::MAX_CLOCK_SKEW_SECONDS;
use crate::domain::Timestamp;
use crate::store::{self, Purged, RemovedOf, Store, Sweep, Swept, Vacuumed};

/// The pause after a step is this times its duration. While clients write much, a step waits longer in the queue, so
/// the pause grows as well.
const PAUSE_FACTOR: u32 = 2;

/// Pause when there is nothing to do.
const WHEN_IDLE: Duration = Duration::from_secs(1);

/// Pause after the store refused or failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Interval between the starts of two sweeps for messages that are kept no longer. Their days end at any time of the day.
const SWEEP_EVERY: Duration = Duration::from_hours(1);

const LOOK_FOR_INVITATIONS_EVERY: Duration = Duration::from_mins(1);

/// How long a signature is kept beyond its expiry. After that its timestamp can't be fresh by the right clock, even if
/// it was accepted ahead of its time and the wall clock has been wrong since.
const KEEP_SIGNATURES: Duration = Duration::from_secs(2 * MAX_CLOCK_SKEW_SECONDS as u64);

/// Runs the jobs until the server closes.
pub async fn run(app: Arc<App>) {
    let mut watch = ClockWatch::new(app.clock.clone(), KEEP_SIGNATURES);
    let work = async {
        let mut cleared = Cleared { in_free_pages: true, in_log: app.store.has_log() };
        let mut sweeps =
            Sweeps { due: app.clock.read().monotonic, running: None, removed: RemovedOf::new() };
        let mut invitations = Invitations { due: app.clock.read().monotonic };
        loop {
            let started = Instant::now();
            let rest =
                match step(&app, &mut watch, &mut cleared, &mut sweeps, &mut invitations).await {
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
    sweeps: &mut Sweeps,
    invitations: &mut Invitations,
) -> Result<bool, store::Error> {
    let Some(passed) = watch.passed() else { return cleared.remove(&app.store).await };
    let swept = sweeps.step(app, passed, cleared).await;
    let removed = cleared.remove(&app.store).await;
    let expired = app.store.expire_replays(passed).await;
    let forgotten = forget_audit(app, passed).await;
    let uninvited = invitations.expire(app, passed).await;
    Ok(uninvited? | forgotten? | expired? | removed? | swept?)
}

/// Removes entries of the audit log that are older than `audit.days`. Returns whether there were any.
async fn forget_audit(app: &App, passed: Timestamp) -> Result<bool, store::Error> {
    match app.config.audit.oldest(passed) {
        Some(oldest) => app.store.expire_audit(oldest).await,
        None => Ok(false),
    }
}

/// Looks for old invitations once a minute. No index has their dates.
struct Invitations {
    /// By the monotonic clock.
    due: Duration,
}

impl Invitations {
    /// Removes invitations that answer no more. Returns whether there were any.
    async fn expire(&mut self, app: &App, passed: Timestamp) -> Result<bool, store::Error> {
        let now = app.clock.read().monotonic;
        if now < self.due {
            return Ok(false);
        }
        self.due = now + LOOK_FOR_INVITATIONS_EVERY;
        app.store.expire_invitations(passed).await
    }
}

/// Sweeps for messages that are kept no longer, one an hour.
struct Sweeps {
    /// Start of the next sweep, by the monotonic clock.
    due: Duration,
    running: Option<Sweep>,
    /// Removed by the running sweep.
    removed: RemovedOf,
}

impl Sweeps {
    /// Runs one step. Returns whether there may be more to do. `passed` is a moment that has passed for certain: a clock
    /// that was ahead must not remove anything.
    async fn step(
        &mut self,
        app: &App,
        passed: Timestamp,
        cleared: &mut Cleared,
    ) -> Result<bool, store::Error> {
        let now = app.clock.read().monotonic;
        if self.running.is_none() && now >= self.due {
            self.due = now + SWEEP_EVERY;
            self.running = app.store.sweep(app.config.retention.rule(), passed).await?;
        }
        // A step that fails ends the sweep: it may have lost its turn.
        let Some(mut sweep) = self.running.take() else { return Ok(false) };
        match sweep.step(&app.store).await? {
            Swept::Step(removed) => {
                if !removed.is_empty() {
                    (cleared.in_free_pages, cleared.in_log) = (true, true);
                }
                for (generation, removed) in removed {
                    self.removed.entry(generation).or_default().add(removed);
                }
                self.running = Some(sweep);
                Ok(true)
            }
            Swept::Done => {
                // Kept where the store fails: the entry of the next sweep then counts both.
                app.store.note_removal(&self.removed).await?;
                log(&std::mem::take(&mut self.removed));
                Ok(false)
            }
        }
    }
}

/// Logs what a sweep has removed, if anything.
fn log(removed: &RemovedOf) {
    if removed.is_empty() {
        return;
    }
    let conversations = removed.len();
    let messages: u64 = removed.values().map(|removed| removed.messages).sum();
    let emptied: u64 = removed.values().map(|removed| removed.emptied).sum();
    let bytes: i64 = removed.values().map(|removed| removed.bytes).sum();
    tracing::info!(conversations, messages, emptied, bytes, "retention removed messages");
}

/// Places that may still hold text of removed messages. At startup, free pages and a log that is not empty are suspect:
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
