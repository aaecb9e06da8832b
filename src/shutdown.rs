//! Shutdown in order: report not ready, close to new connections, end the writer, exit.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Maximum time for a partly received request to arrive once the server is closing.
pub(crate) const CUT_AFTER: Duration = Duration::from_secs(5);

/// Maximum time for everything to finish once the server is closing.
pub(crate) const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// The two stages of a shutdown, which tasks observe: stopping, then closing.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    stopping: CancellationToken,
    closing: CancellationToken,
}

impl Shutdown {
    /// Stops being ready at once, and closes to new connections after `drain`.
    pub async fn begin(&self, drain: Duration) {
        self.stopping.cancel();
        tokio::time::sleep(drain).await;
        self.closing.cancel();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Waits until new connections are no longer accepted.
    pub(crate) async fn closing(&self) {
        self.closing.cancelled().await;
    }
}

/// Reaction to SIGHUP, which a process gets when its terminal is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hangup {
    /// Logs SIGHUP and goes on: a server has no terminal, and no settings that could be reloaded.
    Ignored,
    /// Stops as on SIGTERM.
    Stops,
}

pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    on_hangup: Hangup,
}

impl Signals {
    /// Replaces the default handling of SIGTERM, SIGINT and SIGHUP, which would end the process.
    pub(crate) fn listen(on_hangup: Hangup) -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            on_hangup,
        })
    }

    /// Waits for the next signal that stops the process, and returns its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => match self.on_hangup {
                    Hangup::Stops => return "SIGHUP",
                    Hangup::Ignored => tracing::info!("SIGHUP ignored: settings are read only at the start"),
                },
            }
        }
    }
}
