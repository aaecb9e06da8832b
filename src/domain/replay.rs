//! Replay: what identifies a signed request, so that no change is made twice for it.

use super::{Signature, Timestamp, UserId};

/// The stored identity of a signed change.
#[derive(Clone, Copy, Debug)]
pub struct Replay {
    /// The signing user.
    pub user: UserId,
    /// Signature of the request. The same bytes always have the same signature.
    pub signature: Signature,
    /// The last moment at which the signed timestamp could be accepted, whatever `auth.clock_skew_seconds` is set to.
    pub expires_at: Timestamp,
}
