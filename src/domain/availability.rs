//! What a user has chosen to be seen as.

use super::parse::Parse;

/// What a user is seen as (docs/protocol.md#10-availability).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// `useravailable`
    Available,
    /// `useraway`
    Away,
    /// `userbusy`
    Busy,
    /// `useroffline`, and whoever can't be reached.
    Offline,
}

impl Availability {
    /// The word of the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Away => "away",
            Self::Busy => "busy",
            Self::Offline => "offline",
        }
    }
}

impl Parse for Availability {
    const EXPECTED: &'static str = "available, away, busy or offline";

    fn parse(text: &str) -> Option<Self> {
        let all = [Self::Available, Self::Away, Self::Busy, Self::Offline];
        all.into_iter().find(|one| one.as_str() == text)
    }
}
