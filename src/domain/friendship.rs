//! The rules by which two users become friends. A user must not learn from them whether the other one has declined or
//! has blocked the user.

use super::Refusal;
use super::limits::MOST_OPEN_REQUESTS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approach {
    /// Asks the other user, or accepts where the other one has asked already.
    Add,
    /// Accepts a request of the other user that the user is shown.
    Accept,
}

/// An open request for friendship.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FriendRequest {
    Shown,
    /// The addressee doesn't see it, after declining a request of this user or blocking the user. To the user who asks
    /// it looks like any other request.
    Silent,
}

/// Friendship and requests between a user who approaches and the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Between {
    pub(crate) are_friends: bool,
    /// The other user's open request, if any.
    pub(crate) theirs: Option<FriendRequest>,
    /// The user has an open request to the other one already.
    pub(crate) has_asked: bool,
    /// Open requests of the user to anyone.
    pub(crate) open_requests: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approached {
    Befriend,
    /// Stores a request.
    Ask,
    Nothing,
}

impl Approach {
    /// Decides the effect of the approach. All three effects look the same to the user who approaches.
    ///
    /// # Errors
    ///
    /// [`Refusal::TooMany`] where the user has the maximum of open requests.
    pub(crate) fn decide(self, between: Between) -> Result<Approached, Refusal> {
        if between.are_friends {
            return Ok(Approached::Nothing);
        }
        match (self, between.theirs) {
            (Self::Add, Some(_)) | (Self::Accept, Some(FriendRequest::Shown)) => {
                Ok(Approached::Befriend)
            }
            (Self::Accept, _) => Ok(Approached::Nothing),
            (Self::Add, None) if between.has_asked => Ok(Approached::Nothing),
            (Self::Add, None) if between.open_requests >= MOST_OPEN_REQUESTS.into() => {
                let (what, most) = ("open friend requests", MOST_OPEN_REQUESTS.into());
                Err(Refusal::TooMany { what, most })
            }
            (Self::Add, None) => Ok(Approached::Ask),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRANGERS: Between =
        Between { are_friends: false, theirs: None, has_asked: false, open_requests: 0 };

    #[test]
    fn mutual_requests_make_friends() {
        assert_eq!(Approach::Add.decide(STRANGERS), Ok(Approached::Ask));
        for theirs in [FriendRequest::Shown, FriendRequest::Silent] {
            let asked = Between { theirs: Some(theirs), ..STRANGERS };
            assert_eq!(Approach::Add.decide(asked), Ok(Approached::Befriend));
        }
    }

    #[test]
    fn only_a_request_that_is_shown_is_accepted() {
        let asked = |theirs| Approach::Accept.decide(Between { theirs, ..STRANGERS });
        assert_eq!(asked(Some(FriendRequest::Shown)), Ok(Approached::Befriend));
        assert_eq!(asked(Some(FriendRequest::Silent)), Ok(Approached::Nothing));
        assert_eq!(asked(None), Ok(Approached::Nothing));
    }

    #[test]
    fn asking_twice_and_asking_a_friend_change_nothing() {
        let full = Between { open_requests: 200, ..STRANGERS };
        for between in [Between { has_asked: true, ..full }, Between { are_friends: true, ..full }]
        {
            assert_eq!(Approach::Add.decide(between), Ok(Approached::Nothing));
        }
        let refused = Approach::Add.decide(full);
        assert_eq!(refused, Err(Refusal::TooMany { what: "open friend requests", most: 200 }));
    }
}
