//! The rule that ends messages: their age, and their `ValidUntil`.

use super::Timestamp;
use super::parse::Parse as _;

const DAY_SECONDS: i64 = 24 * 60 * 60;

/// The operator's rule for all conversations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Days that a message is kept; 0 is for ever.
    pub(crate) days: u32,
    /// Whether a message ends with its `ValidUntil`.
    pub(crate) honours_valid_until: bool,
}

/// The facts about a message that decide whether it is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Age<'a> {
    /// The second in which the server accepted the message. The sender's `Created` may be any date.
    pub(crate) accepted_at: i64,
    pub(crate) valid_until: &'a str,
}

impl Retention {
    /// Whether the message is kept no longer. `own_days` is the setting of its conversation, which comes before that for
    /// all. A `ValidUntil` that is no date keeps the message.
    pub(crate) fn is_over(self, own_days: Option<i64>, age: Age<'_>, now: Timestamp) -> bool {
        let days = own_days.unwrap_or(self.days.into());
        let end = age.accepted_at.saturating_add(days.saturating_mul(DAY_SECONDS));
        let is_old = days > 0 && end <= now.unix();
        is_old || self.honours_valid_until && has_expired(age.valid_until, now)
    }
}

fn has_expired(valid_until: &str, now: Timestamp) -> bool {
    Timestamp::parse(valid_until).is_some_and(|end| end <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_709_899_200;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(NOON + seconds).unwrap()
    }

    fn accepted_at_noon(valid_until: &str) -> Age<'_> {
        Age { accepted_at: NOON, valid_until }
    }

    #[test]
    fn a_message_is_kept_for_whole_days() {
        let retention = Retention { days: 2, honours_valid_until: false };
        let age = accepted_at_noon("");
        assert!(!retention.is_over(None, age, at(2 * DAY_SECONDS - 1)));
        assert!(retention.is_over(None, age, at(2 * DAY_SECONDS)));
    }

    #[test]
    fn a_conversation_has_its_own_days() {
        let age = accepted_at_noon("");
        for (days, own, is_over) in [
            (1, None, true),
            (1, Some(3), false),
            (1, Some(0), false),
            (0, None, false),
            (0, Some(1), true),
        ] {
            let retention = Retention { days, honours_valid_until: false };
            assert_eq!(retention.is_over(own, age, at(2 * DAY_SECONDS)), is_over, "{days} {own:?}");
        }
        let for_ever = Retention { days: u32::MAX, honours_valid_until: false };
        assert!(!for_ever.is_over(Some(i64::MAX), age, at(0)), "no overflow");
    }

    #[test]
    fn valid_until_ends_a_message_only_if_it_is_honoured_and_a_date() {
        let honours = Retention { days: 0, honours_valid_until: true };
        let end = "2024-03-08 12:00:10";
        assert!(!honours.is_over(None, accepted_at_noon(end), at(9)));
        assert!(honours.is_over(None, accepted_at_noon(end), at(10)));
        assert!(honours.is_over(Some(0), accepted_at_noon(end), at(10)), "also if kept for ever");
        assert!(!Retention::default().is_over(None, accepted_at_noon(end), at(10)));
        for no_date in ["", "never", "2024-03-08", "0", "2024-02-31 00:00:00"] {
            assert!(!honours.is_over(None, accepted_at_noon(no_date), at(10)), "{no_date}");
        }
    }
}
