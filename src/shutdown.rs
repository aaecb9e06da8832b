//! The way down: not ready, then closed to new connections, then the writer, then the end.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long a request that has arrived only in part may take to arrive once the server is closing.
pub const CUT_AFTER: Duration = Duration::from_secs(5);

/// How long everything may take once the server is closing.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// The two steps that others look at.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    stopping: CancellationToken,
    closing: CancellationToken,
}

impl Shutdown {
    /// Stops being ready at once, and closes to new connections after this time.
    pub async fn begin(&self, drain: Duration) {
        self.stopping.cancel();
        tokio::time::sleep(drain).await;
        self.closing.cancel();
    }

    /// Whether it has begun.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Returns when new connections are no longer accepted.
    pub async fn closing(&self) {
        self.closing.cancelled().await;
    }
}

/// What SIGHUP does, which a process gets when its terminal is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hangup {
    /// It is logged and nothing else: a server has no terminal, and no settings that could be read again.
    Ignored,
    /// The same as SIGTERM.
    Stops,
}

/// SIGTERM, SIGINT and SIGHUP.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    on_hangup: Hangup,
}

impl Signals {
    /// Takes the signals over from the operating system's default, which would end the process.
    ///
    /// # Errors
    ///
    /// Where the operating system refuses.
    pub fn listen(on_hangup: Hangup) -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            on_hangup,
        })
    }

    /// Returns at the next signal that stops, with its name.
    pub async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => match self.on_hangup {
                    Hangup::Stops => return "SIGHUP",
                    Hangup::Ignored => tracing::info!("SIGHUP ignored: settings are read at the start alone"),
                },
            }
        }
    }
}
