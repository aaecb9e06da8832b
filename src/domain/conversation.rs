//! The rules by which a conversation accepts messages: which it refuses, which are repeats, and which position the
//! others get.

use super::{Access, Instance, Refusal, Timestamp};

/// The head of a conversation: it decides about the next message, and each stored message changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) instance: Instance,
    /// Sequence number of the next message. The first has 1.
    pub(crate) next_seq: i64,
    /// The second in which the newest message was accepted, by a clock that may be set back.
    pub(crate) last_access: i64,
    /// The latest second in which a message was accepted.
    pub(crate) max_accepted_at: i64,
    /// Bytes of the longest `Data` of a message.
    pub(crate) longest_data: i64,
    /// Bytes of the `Data` of all messages.
    pub(crate) data_bytes: i64,
}

/// How a new message compares with the stored one that has its ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SameId {
    /// No stored message has the ID.
    Unknown,
    /// The stored message has the same sender and the same five fields.
    Identical,
    Different,
}

impl SameId {
    pub(crate) fn of(is_identical: bool) -> Self {
        if is_identical { Self::Identical } else { Self::Different }
    }
}

/// The facts about a new message that the rules need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming {
    /// The instance that the sender takes for the current one.
    pub(crate) instance: Instance,
    pub(crate) access: Access,
    pub(crate) same_id: SameId,
    pub(crate) data_bytes: i64,
    /// The second in which the server received the message.
    pub(crate) now: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) seq: i64,
    /// The second of acceptance. Within an instance it never decreases.
    pub(crate) accepted_at: i64,
}

/// Refuses a request that names another instance than the current one (docs/protocol.md#the-instance-fence).
pub(crate) fn fence(named: Instance, current: Instance) -> Result<(), Refusal> {
    if named == current { Ok(()) } else { Err(Refusal::InstanceChanged) }
}

/// Refuses a clear of an instance that is over, or by a participant who may not write.
pub(crate) fn refuse_clear(
    named: Instance,
    current: Instance,
    access: Access,
) -> Result<(), Refusal> {
    fence(named, current)?;
    access.refuse_write()
}

impl Head {
    /// Assigns the next position to a message, or returns `None` if the message is stored already. A refused message
    /// changes nothing.
    ///
    /// # Errors
    ///
    /// [`Refusal::InstanceChanged`], [`Refusal::MessageConflict`], [`Refusal::Blocked`], [`Refusal::NotFriends`],
    /// [`Refusal::QuotaExceeded`] above `quota` bytes of data.
    pub(crate) fn accept(
        &mut self,
        message: Incoming,
        quota: i64,
    ) -> Result<Option<Accepted>, Refusal> {
        fence(message.instance, self.instance)?;
        match message.same_id {
            // A repeat succeeds even after the friendship has ended: its sender learns only that the message is
            // stored.
            SameId::Identical => return Ok(None),
            SameId::Different => return Err(Refusal::MessageConflict),
            SameId::Unknown => message.access.refuse_write()?,
        }
        let data_bytes = self.data_bytes.saturating_add(message.data_bytes);
        if data_bytes > quota {
            return Err(Refusal::QuotaExceeded { bytes: data_bytes, limit: quota });
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        self.data_bytes = data_bytes;
        self.longest_data = self.longest_data.max(message.data_bytes);
        self.last_access = message.now.unix();
        self.max_accepted_at = self.max_accepted_at.max(self.last_access);
        Ok(Some(Accepted { seq, accepted_at: self.max_accepted_at }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Parse as _;

    fn instance(text: &str) -> Instance {
        Instance::parse(text).unwrap()
    }

    fn head() -> Head {
        Head {
            instance: instance("aaaaaaaaaa"),
            next_seq: 1,
            last_access: 0,
            max_accepted_at: 0,
            longest_data: 0,
            data_bytes: 0,
        }
    }

    fn message() -> Incoming {
        Incoming {
            instance: instance("aaaaaaaaaa"),
            access: Access::Open,
            same_id: SameId::Unknown,
            data_bytes: 10,
            now: Timestamp::from_unix(100).unwrap(),
        }
    }

    #[test]
    fn a_refused_message_changes_nothing() {
        let old = Incoming { instance: instance("bbbbbbbbbb"), ..message() };
        let conflict = Incoming { same_id: SameId::Different, ..message() };
        let blocked = Incoming { access: Access::Blocked, ..message() };
        let stranger = Incoming { access: Access::NotFriends, ..message() };
        let large = Incoming { data_bytes: 101, ..message() };
        for (message, refusal) in [
            (old, Refusal::InstanceChanged),
            (conflict, Refusal::MessageConflict),
            (blocked, Refusal::Blocked),
            (stranger, Refusal::NotFriends),
            (large, Refusal::QuotaExceeded { bytes: 101, limit: 100 }),
        ] {
            let mut head = head();
            assert_eq!(head.accept(message, 100), Err(refusal));
            assert_eq!(head, self::head());
        }
    }

    #[test]
    fn a_clear_names_the_current_instance_and_needs_access() {
        let (current, over) = (instance("aaaaaaaaaa"), instance("bbbbbbbbbb"));
        assert_eq!(refuse_clear(current, current, Access::Open), Ok(()));
        assert_eq!(refuse_clear(current, current, Access::Blocked), Err(Refusal::Blocked));
        assert_eq!(refuse_clear(current, current, Access::NotFriends), Err(Refusal::NotFriends));
        for access in [Access::Open, Access::Blocked, Access::NotFriends] {
            assert_eq!(refuse_clear(over, current, access), Err(Refusal::InstanceChanged));
        }
    }

    #[test]
    fn a_repeated_message_is_accepted_whatever_access_the_sender_has_now() {
        for access in [Access::Open, Access::Blocked, Access::NotFriends] {
            let mut head = head();
            let repeat = Incoming { same_id: SameId::Identical, access, ..message() };
            assert_eq!(head.accept(repeat, 0), Ok(None));
            assert_eq!(head, self::head());
        }
    }

    proptest! {
        #[test]
        fn positions_have_no_gap_and_their_dates_never_fall(
            messages in prop::collection::vec((0_i64..50, 0_i64..1000), 0..100)
        ) {
            let (mut head, mut positions, mut stored) = (head(), Vec::new(), 0);
            for (data_bytes, second) in messages {
                let now = Timestamp::from_unix(second).unwrap();
                let accepted = head.accept(Incoming { data_bytes, now, ..message() }, 1000);
                if let Ok(position) = accepted {
                    positions.extend(position);
                    stored += data_bytes;
                }
            }
            prop_assert!(stored <= 1000 && stored == head.data_bytes);
            prop_assert!(positions.iter().zip(1..).all(|(position, seq)| position.seq == seq));
            prop_assert!(positions.is_sorted_by_key(|position| position.accepted_at));
            let last = positions.last().map_or(0, |position| position.accepted_at);
            prop_assert_eq!(last, head.max_accepted_at);
        }
    }
}
