//! Sequence numbers, as a client sees and acknowledges them.

use sha2::{Digest as _, Sha256};

use crate::domain::{StationId, UserId};
use crate::store::Epoch;

/// The place of the check digits.
const CHECK: i64 = 1_000_000;

/// The largest number that goes into a sequence number: the largest whole number of JSON that every client can read is
/// 2^53 - 1 (RFC 8259, section 6).
const LARGEST: i64 = (1 << 53) / CHECK - 1;

/// The number of a change of the user, followed by six check digits. By these a number that was never sent to this
/// station in this epoch is known from one that was, on any node and after any restart, and nothing must be written
/// down when one is sent. They protect an honest client from its own mistakes, so they need no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence(i64);

impl Sequence {
    /// The sequence number that goes with this change, for this station, below 2^53. A user has more than nine billion;
    /// beyond them nothing is acknowledged any more, and all is told again on each connection.
    #[must_use]
    pub fn of(epoch: &Epoch, number: i64, user: UserId, station: StationId) -> Self {
        let number = number.min(LARGEST);
        let digest = Sha256::new()
            .chain_update(&epoch.id)
            .chain_update(user.as_str())
            .chain_update(station.as_str())
            .chain_update(number.to_be_bytes())
            .finalize();
        let digits =
            digest.iter().fold(0, |digits, byte| (digits * 256 + i64::from(*byte)) % CHECK);
        // 0 is what a client acknowledges at first, so it must never be right.
        Self(number * CHECK + digits.max(1))
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

    /// The number of the change, if this was sent to this station in this epoch.
    #[must_use]
    pub fn number(self, epoch: &Epoch, user: UserId, station: StationId) -> Option<i64> {
        let number = self.0 / CHECK;
        (number < LARGEST && Self::of(epoch, number, user, station) == self).then_some(number)
    }
}
