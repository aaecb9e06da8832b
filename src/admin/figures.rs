//! Numbers as people read them.

use std::time::Duration;

/// Formats a number of bytes with three digits and a decimal unit.
pub(super) fn bytes(bytes: i64) -> String {
    const UNITS: [(i64, &str); 4] =
        [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    let Some((unit, name)) = UNITS.into_iter().find(|(unit, _)| bytes >= *unit) else {
        return format!("{bytes} bytes");
    };
    let (whole, tenth) = (bytes / unit, bytes % unit * 10 / unit);
    if whole >= 100 { format!("{whole} {name}") } else { format!("{whole}.{tenth} {name}") }
}

/// Formats a number of bytes that a metric has.
#[expect(clippy::cast_possible_truncation, reason = "metrics have whole numbers of bytes")]
pub(super) fn size(size: f64) -> String {
    bytes(size as i64)
}

/// Formats a duration by its two largest units.
pub(super) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days} d {} h", hours % 24)
    } else if hours > 0 {
        format!("{hours} h {} min", minutes % 60)
    } else {
        format!("{minutes} min {} s", seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_durations_are_short() {
        let figures =
            [0, 999, 1000, 1999, 99_950, 100_000, 1_500_000, 2_000_000_000_000].map(bytes);
        assert_eq!(
            figures,
            ["0 bytes", "999 bytes", "1.0 kB", "1.9 kB", "99.9 kB", "100 kB", "1.5 MB", "2.0 TB"]
        );
        let times = [59, 3599, 3600, 90_000].map(Duration::from_secs).map(duration);
        assert_eq!(times, ["0 min 59 s", "59 min 59 s", "1 h 0 min", "1 d 1 h"]);
    }
}
