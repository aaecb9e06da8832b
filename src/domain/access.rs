//! Access: what a participant may do in a conversation of two. It follows from friendships and blocks, see
//! [`Access::between`]. The store keeps it with each participant, and updates it whenever a friendship or a block
//! changes.

use super::{Parse, Refusal};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read and write.
    Open,
    /// Read only: the participant has blocked the other one.
    Blocked,
    /// Read only: the two are not friends, or the other one has blocked the participant. To the participant a block
    /// must look just like the end of the friendship.
    NotFriends,
}

/// Friendship and blocks between two users, seen by the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relation {
    pub(crate) are_friends: bool,
    /// The first user has blocked the other.
    pub(crate) blocks: bool,
    /// The other user has blocked the first.
    pub(crate) is_blocked: bool,
}

impl Relation {
    /// Returns the relation as the other user sees it.
    pub(crate) fn of_other(self) -> Self {
        Self { are_friends: self.are_friends, blocks: self.is_blocked, is_blocked: self.blocks }
    }
}

impl Access {
    /// Returns the access of the first user.
    pub(crate) fn between(relation: Relation) -> Self {
        match relation {
            Relation { blocks: true, .. } => Self::Blocked,
            Relation { are_friends: true, is_blocked: false, .. } => Self::Open,
            _ => Self::NotFriends,
        }
    }

    /// Refuses a write unless the access is [`Access::Open`].
    ///
    /// # Errors
    ///
    /// [`Refusal::Blocked`], [`Refusal::NotFriends`].
    pub(crate) fn refuse_write(self) -> Result<(), Refusal> {
        match self {
            Self::Open => Ok(()),
            Self::Blocked => Err(Refusal::Blocked),
            Self::NotFriends => Err(Refusal::NotFriends),
        }
    }

    /// Returns the word that the database stores.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Blocked => "blocked",
            Self::NotFriends => "not_friends",
        }
    }
}

impl Parse for Access {
    const EXPECTED: &'static str = "open, blocked or not_friends";

    fn parse(text: &str) -> Option<Self> {
        let all = [Self::Open, Self::Blocked, Self::NotFriends];
        all.into_iter().find(|one| one.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(are_friends: bool, blocks: bool, is_blocked: bool) -> Access {
        Access::between(Relation { are_friends, blocks, is_blocked })
    }

    #[test]
    fn only_friends_without_blocks_write() {
        assert_eq!(access(true, false, false), Access::Open);
        assert_eq!(access(false, false, false), Access::NotFriends);
    }

    #[test]
    fn a_blocked_user_has_the_same_access_as_a_former_friend() {
        for are_friends in [true, false] {
            assert_eq!(access(are_friends, false, true), access(false, false, false));
            for is_blocked in [true, false] {
                assert_eq!(access(are_friends, true, is_blocked), Access::Blocked);
            }
        }
    }

    #[test]
    fn access_survives_being_stored_and_read() {
        for access in [Access::Open, Access::Blocked, Access::NotFriends] {
            assert_eq!(Access::parse(access.as_str()), Some(access));
        }
    }
}
