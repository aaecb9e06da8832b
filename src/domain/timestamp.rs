//! Moments in time, and the one form in which the protocol writes dates.

use std::fmt;

use chrono::{DateTime, Datelike as _, NaiveDate, Timelike as _};

use super::parse::Parse;

/// The length of every date: `yyyy-MM-dd HH:mm:ss`, UTC, 24-hour (docs/protocol.md#requests).
const LENGTH: usize = "yyyy-MM-dd HH:mm:ss".len();

/// A moment, in unix seconds (UTC). One that is read from a date or made by [`Timestamp::from_unix`] lies in the
/// years 0 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Returns the moment this many seconds after 1970-01-01 00:00:00 UTC, or `None` outside the years 0 to 9999.
    #[must_use]
    pub fn from_unix(seconds: i64) -> Option<Self> {
        let date = DateTime::from_timestamp(seconds, 0)?;
        (0..=9999).contains(&date.year()).then_some(Self(seconds))
    }

    /// Returns the seconds since 1970-01-01 00:00:00 UTC.
    #[must_use]
    pub fn unix(self) -> i64 {
        self.0
    }

    /// Saturates instead of overflowing.
    pub(crate) fn plus_seconds(self, seconds: u64) -> Self {
        Self(self.0.saturating_add_unsigned(seconds))
    }

    /// Returns the seconds between the two moments, in either order.
    pub(crate) fn distance(self, other: Self) -> u64 {
        self.0.abs_diff(other.0)
    }
}

impl Parse for Timestamp {
    const EXPECTED: &'static str =
        "a date such as 2024-03-08 14:12:48, in UTC on the 24-hour clock";

    /// Reads the only accepted form, digit by digit. chrono's parser takes a hundred times as long, and accepts text
    /// that is no date here.
    fn parse(text: &str) -> Option<Self> {
        let text: &[u8; LENGTH] = text.as_bytes().try_into().ok()?;
        let separators = [(4, b'-'), (7, b'-'), (10, b' '), (13, b':'), (16, b':')];
        if separators.iter().any(|(offset, separator)| text[*offset] != *separator) {
            return None;
        }
        let number = |from: usize, to: usize| {
            text[from..to].iter().try_fold(0, |number, byte| {
                byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0'))
            })
        };
        let year = i32::try_from(number(0, 4)?).ok()?;
        let date = NaiveDate::from_ymd_opt(year, number(5, 7)?, number(8, 10)?)?;
        let date = date.and_hms_opt(number(11, 13)?, number(14, 16)?, number(17, 19)?)?;
        Some(Self(date.and_utc().timestamp()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(date) = DateTime::from_timestamp(self.0, 0) else {
            return write!(f, "{}", self.0);
        };
        let mut text = *b"0000-00-00 00:00:00";
        let numbers = [
            (date.year().unsigned_abs(), 0..4),
            (date.month(), 5..7),
            (date.day(), 8..10),
            (date.hour(), 11..13),
            (date.minute(), 14..16),
            (date.second(), 17..19),
        ];
        for (mut number, offsets) in numbers {
            for offset in offsets.rev() {
                text[offset] = b'0' + u8::try_from(number % 10).expect("a digit");
                number /= 10;
            }
        }
        f.write_str(std::str::from_utf8(&text).expect("digits and separators are ASCII"))
    }
}
