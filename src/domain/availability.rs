//! Availability: what a user has chosen by one of four actions (docs/protocol.md#10-availability).

use super::parse::Parse;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    /// `useravailable`
    Available,
    /// `useraway`
    Away,
    /// `userbusy`
    Busy,
    /// `useroffline`; also shown for a user who can't be reached.
    Offline,
}

impl Availability {
    /// Returns the word on the wire and in the database.
    pub(crate) fn as_str(self) -> &'static str {
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
