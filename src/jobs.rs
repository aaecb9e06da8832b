//! What is done by and by: removing cleared messages and expired signatures, in small steps.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::app::App;
use crate::store::{self, Purged};

/// How long to rest between two steps, so that the changes of clients come first.
const BETWEEN_STEPS: Duration = Duration::from_millis(20);

/// How long to rest when there is nothing to do.
const WHEN_IDLE: Duration = Duration::from_secs(1);

/// How long to rest when the store refuses.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Works until the server closes.
pub async fn run(app: Arc<App>) {
    let work = async {
        loop {
            let rest = match step(&app).await {
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
async fn step(app: &App) -> Result<bool, store::Error> {
    let purged = app.store.purge().await;
    let expired = app.store.expire_replays(app.clock.now()).await;
    Ok(expired? | (purged? == Purged::Step))
}
