//! What is done by and by: removing cleared messages and expired signatures, in small steps.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::app::App;
use crate::clock::ClockWatch;
use crate::config::MAX_CLOCK_SKEW_SECONDS;
use crate::store::{self, Purged};

/// How long to rest between two steps, so that the changes of clients come first.
const BETWEEN_STEPS: Duration = Duration::from_millis(20);

/// How long to rest when there is nothing to do.
const WHEN_IDLE: Duration = Duration::from_secs(1);

/// How long to rest when the store refuses.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// How long a signature is kept beyond its expiry: until then the timestamp can't be fresh by the right clock, even if it was
/// accepted ahead of its time and the wall clock has been wrong since.
const KEEP_SIGNATURES: Duration = Duration::from_secs(2 * MAX_CLOCK_SKEW_SECONDS as u64);

/// Works until the server closes.
pub async fn run(app: Arc<App>) {
    let mut watch = ClockWatch::new(app.clock.clone(), KEEP_SIGNATURES);
    let work = async {
        loop {
            let rest = match step(&app, &mut watch).await {
                Ok(true) => BETWEEN_STEPS,
                Ok(false) => WHEN_IDLE,
                Err(error) => {
                    tracing::warn!(%error, "removing what is no longer needed failed");
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

/// One step of each kind; whether there may be more to do.
async fn step(app: &App, watch: &mut ClockWatch) -> Result<bool, store::Error> {
    let purged = app.store.purge().await;
    let expired = match watch.passed() {
        Some(passed) => app.store.expire_replays(passed).await,
        None => Ok(false),
    };
    Ok(expired? | (purged? == Purged::Step))
}
