//! Sequence numbers, as a client sees and acknowledges them.

use sha2::{Digest as _, Sha256};

use crate::domain::{StationId, UserId};
use crate::store::Epoch;

/// Factor that makes room for the six check digits.
const CHECK: i64 = 1_000_000;

/// Upper bound of change numbers in a sequence number. The largest integer of JSON that every client can read
/// is 2^53 - 1 (RFC 8259, section 6).
const LARGEST: i64 = (1 << 53) / CHECK - 1;

/// The number of a user's change, followed by six check digits. The digits tell a number that was sent to this
/// station in this epoch from one that never was. This works on any node and after any restart, and sending a number
/// writes nothing. They protect an honest client from its own mistakes, so they need no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence(i64);

impl Sequence {
    /// Returns the sequence number of this change for this station, below 2^53. More than nine billion changes of a
    /// user fit. Beyond them no acknowledgement is accepted, and each connection is told everything again.
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
        // A client's first acknowledgement is 0, so 0 must never be valid.
        Self(number * CHECK + digits.max(1))
    }

    /// Wraps a number that a client acknowledges; [`Self::number`] checks it.
    #[must_use]
    pub fn from_client(sequence: u64) -> Self {
        Self(i64::try_from(sequence).unwrap_or(i64::MAX))
    }

    /// Returns the number as it stands on the wire.
    #[must_use]
    pub fn get(self) -> i64 {
        self.0
    }

    /// Returns the number of the change, if this sequence was sent to this station in this epoch.
    #[must_use]
    pub fn number(self, epoch: &Epoch, user: UserId, station: StationId) -> Option<i64> {
        let number = self.0 / CHECK;
        (number < LARGEST && Self::of(epoch, number, user, station) == self).then_some(number)
    }
}
