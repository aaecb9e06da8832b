//! Formats figures as lines of a table.

use super::figures::{Figures, Summary, as_f64};
use super::lock_waits::{self, LockWaits};

pub const HEADER: &str =
    "             requests/s    p50 ms    p95 ms    p99 ms    max ms  CPU us/request  answer bytes";

/// Formats a line of the table under [`HEADER`].
pub fn line(name: &str, figures: &Figures) -> String {
    let Summary { per_second, p50_ms, p95_ms, p99_ms, max_ms, cpu_micros, answer_bytes, .. } =
        figures.summary();
    let cpu = cpu_micros.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.1}"));
    format!(
        "{name:12} {per_second:10.0} {p50_ms:9.2} {p95_ms:9.2} {p99_ms:9.2} {max_ms:9.2} {cpu:>15} {answer_bytes:13}"
    )
}

/// Prints memory and errors, which the table has no column for.
pub fn print_memory_and_errors(shown: &Summary) {
    if let (Some(before), Some(after)) = (shown.rss_before, shown.rss_after) {
        println!("memory of the server: {} before, {} after", mebibytes(before), mebibytes(after));
    }
    if shown.errors.is_empty() {
        println!("errors: none");
    }
    for (code, count) in &shown.errors {
        println!("errors: {count} x {code}");
    }
}

/// Prints the waits for locks, if they were sampled.
pub fn print_lock_waits(waits: Option<&LockWaits>) {
    let Some(waits) = waits else { return };
    let lock_waits::Summary { samples, waits, p99_ms, longest_ms } = waits.summary();
    if waits == 0 {
        println!("lock waits: none seen in {samples} samples");
        return;
    }
    println!(
        "lock waits: {waits} seen in {samples} samples, p99 {p99_ms:.1} ms, longest {longest_ms:.1} ms"
    );
}

/// Formats bytes in MiB with one decimal.
pub fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", as_f64(bytes) / 1024.0 / 1024.0)
}
