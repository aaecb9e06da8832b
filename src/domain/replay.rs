//! Replay: what identifies a signed request, so that no change is made twice for it.

use super::{Signature, Timestamp, UserId};

/// The stored identity of a signed change.
#[derive(Clone, Copy, Debug)]
pub struct Replay {
    /// The user who signed.
    pub user: UserId,
    /// The signature.
    pub signature: Signature,
    /// The last moment at which the signed timestamp could be accepted, whatever `auth.clock_skew_seconds` is set to.
    pub expires_at: Timestamp,
}
