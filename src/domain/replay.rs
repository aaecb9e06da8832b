//! What identifies a request, so that no change is made twice for it.

use super::{Signature, Timestamp, UserId};

/// What is kept of a signed change.
#[derive(Clone, Copy, Debug)]
pub struct Replay {
    /// Who signed.
    pub user: UserId,
    /// The signature.
    pub signature: Signature,
    /// Until when the signed timestamp could be accepted, whatever the skew is set to.
    pub expires_at: Timestamp,
}
