//! The server's clock and the one form in which the protocol writes dates.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, NaiveDateTime, Timelike, Utc};

use crate::id::Parse;

/// The form of every date: `yyyy-MM-dd HH:mm:ss`, UTC, 24-hour (protocol, section 1).
const FORMAT: &str = "%Y-%m-%d %H:%M:%S";

/// The length of every date.
const LENGTH: usize = "yyyy-MM-dd HH:mm:ss".len();

/// Where the time comes from. Tests put in a clock of their own.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The clock of the machine.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn system() -> Self {
        Self::from_fn(|| Timestamp(Utc::now().timestamp()))
    }

    /// A clock that shows what the function returns.
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The present second.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

/// A moment, in unix seconds (UTC), between the years 0 and 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment this many seconds after 1970-01-01 00:00:00 UTC, or `None` where it can't be written as a date.
    #[must_use]
    pub fn from_unix(seconds: i64) -> Option<Self> {
        Self::parse(&DateTime::from_timestamp(seconds, 0)?.format(FORMAT).to_string())
    }

    /// Seconds since 1970-01-01 00:00:00 UTC.
    #[must_use]
    pub fn unix(self) -> i64 {
        self.0
    }

    /// The moment this many seconds later.
    #[must_use]
    pub fn plus_seconds(self, seconds: u64) -> Self {
        Self(self.0.saturating_add_unsigned(seconds))
    }

    /// How many seconds lie between the two moments, whichever is first.
    #[must_use]
    pub fn distance(self, other: Self) -> u64 {
        self.0.abs_diff(other.0)
    }
}

impl Parse for Timestamp {
    const EXPECTED: &'static str = "a date such as 2024-03-08 14:12:48 (UTC)";

    fn parse(text: &str) -> Option<Self> {
        let date = NaiveDateTime::parse_from_str(text, FORMAT).ok()?;
        let is_leap_second = date.nanosecond() != 0;
        // chrono also reads what this form does not allow: missing zeros, signs, spaces. Years of
        // other than four digits come back from it as they are, with a sign.
        let canonical =
            text.len() == LENGTH && !is_leap_second && date.format(FORMAT).to_string() == text;
        canonical.then(|| Self(date.and_utc().timestamp()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_timestamp(self.0, 0) {
            Some(date) => write!(f, "{}", date.format(FORMAT)),
            None => write!(f, "{}", self.0),
        }
    }
}
