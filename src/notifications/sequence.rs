//! Sequence numbers, as a client sees and acknowledges them.

use sha2::{Digest as _, Sha256};

use crate::id::{StationId, UserId};

/// The place of the check digits.
const CHECK: i64 = 1_000_000;

/// The number of a change of the user, followed by six check digits. By these a number that was never sent to this
/// station is known from one that was, on any node and after any restart, and nothing must be written down when
/// one is sent. They protect an honest client from its own mistakes, so they need no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence(i64);

impl Sequence {
    /// The sequence number that goes with this change, for this station.
    #[must_use]
    pub fn of(number: i64, user: UserId, station: StationId) -> Self {
        let digest = Sha256::new()
            .chain_update(user.as_str())
            .chain_update(station.as_str())
            .chain_update(number.to_be_bytes())
            .finalize();
        let digits =
            digest.iter().fold(0, |digits, byte| (digits * 256 + i64::from(*byte)) % CHECK);
        // 0 is what a client acknowledges at first, so it must never be right.
        Self(number.saturating_mul(CHECK).saturating_add(digits.max(1)))
    }

    /// What a client says to have been sent.
    #[must_use]
    pub fn said(sequence: u64) -> Self {
        Self(i64::try_from(sequence).unwrap_or(i64::MAX))
    }

    /// The number as it stands on the wire.
    #[must_use]
    pub fn get(self) -> i64 {
        self.0
    }

    /// The number of the change, if this was sent to this station.
    #[must_use]
    pub fn number(self, user: UserId, station: StationId) -> Option<i64> {
        let number = self.0 / CHECK;
        // The last numbers of the type have no room for their check digits.
        (number < i64::MAX / CHECK && Self::of(number, user, station) == self).then_some(number)
    }
}
