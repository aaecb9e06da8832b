//! Notifications to systemd, for a unit with `Type=notify`: the state of the process, and a line for `systemctl status`.
//!
//! Without `NOTIFY_SOCKET`, which systemd sets, nothing is sent.

use std::time::Duration;

use sd_notify::NotifyState;

/// Time in which systemd expects the next message of a starting process. Steps of a migration send one every 2 s.
const PATIENCE: Duration = Duration::from_mins(1);

/// Tells that the server accepts connections.
pub(crate) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells that the start takes longer, and what it is doing. systemd extends `TimeoutStartSec` by [`PATIENCE`].
pub(crate) fn starting(status: &str) {
    let micros = u32::try_from(PATIENCE.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::ExtendTimeoutUsec(micros), NotifyState::Status(status)]);
}

/// Tells that the server is stopping.
pub(crate) fn stopping(status: &str) {
    notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

fn notify(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "telling systemd (NOTIFY_SOCKET) failed");
    }
}
