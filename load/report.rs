//! Prints measurements: as a table, or as one JSON object.

use serde_json::{Map, Value, json};

use super::Failed;
use super::figures::{Figures, Shown, median};
use super::scenario::{Measured, Run};
use super::server::Which;

/// Ratios of the server to a ceiling: the median of the rounds. Each round measures both, one after the other.
pub struct Ratios {
    /// Ratio of requests a second. More is better.
    pub per_second: f64,
    /// Ratio of the 99th percentiles of latency. Less is better.
    pub p99: f64,
    /// Ratio of the CPU time per request. Less is better.
    pub cpu: Option<f64>,
}

impl Ratios {
    /// Divides the server's rounds by those of a ceiling.
    pub fn of(server: &[Figures], ceiling: &[Figures]) -> Self {
        let middle = |of: &dyn Fn(&Figures) -> Option<f64>| {
            let ratio = |(one, other)| Some(of(one)? / of(other)?);
            median(server.iter().zip(ceiling).filter_map(ratio).collect())
        };
        Self {
            per_second: middle(&|figures| Some(figures.per_second())).unwrap_or(f64::NAN),
            p99: middle(&|figures| Some(figures.percentile(99.0))).unwrap_or(f64::NAN),
            cpu: middle(&Figures::cpu_micros),
        }
    }

    fn shown(&self) -> Value {
        let to_hundredths = |ratio: f64| (ratio * 100.0).round() / 100.0;
        json!({
            "per_second": to_hundredths(self.per_second),
            "p99": to_hundredths(self.p99),
            "cpu": self.cpu.map(to_hundredths),
        })
    }
}

/// Prints the results of a scenario.
pub fn print(measured: &Measured, run: &Run) -> Result<(), Failed> {
    if run.json {
        println!("{}", serde_json::to_string(&as_json(measured, run)?)?);
        return Ok(());
    }
    println!("{}: {}", measured.scenario.name(), run.load.name());
    println!("{}\n", limit(&run.which));
    println!("{HEADER}");
    println!("{}", line("server", &measured.server));
    for (ceiling, figures, _) in &measured.ceilings {
        println!("{}", line(ceiling.title(), figures));
    }
    println!();
    for (ceiling, _, ratios) in &measured.ceilings {
        let cpu = ratios.cpu.map(|cpu| format!(", {cpu:.2} of its CPU time")).unwrap_or_default();
        let Ratios { per_second, p99, .. } = ratios;
        println!(
            "server to {}: {per_second:.2} of its requests/s, {p99:.2} of its p99{cpu}",
            ceiling.title()
        );
    }
    print_rest(&measured.server.shown());
    Ok(())
}

/// Returns a note on the rate limit of users.
pub fn limit(which: &Which) -> &'static str {
    if which.is_started() {
        "limits.requests_per_second is set to 0: no limit for one user"
    } else {
        "limits.requests_per_second must be 0 at that server: otherwise rate_limited errors are counted below"
    }
}

pub const HEADER: &str =
    "             requests/s    p50 ms    p95 ms    p99 ms    max ms  CPU us/request  answer bytes";

/// Formats a line of the table under [`HEADER`].
pub fn line(name: &str, figures: &Figures) -> String {
    let Shown { per_second, p50_ms, p95_ms, p99_ms, max_ms, cpu_micros, answer_bytes, .. } =
        figures.shown();
    let cpu = cpu_micros.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.1}"));
    format!(
        "{name:12} {per_second:10.0} {p50_ms:9.2} {p95_ms:9.2} {p99_ms:9.2} {max_ms:9.2} {cpu:>15} {answer_bytes:13}"
    )
}

/// Prints memory and errors, which the table has no column for.
pub fn print_rest(shown: &Shown) {
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

/// Formats bytes in MiB with one decimal.
pub fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", super::figures::as_f64(bytes) / 1024.0 / 1024.0)
}

fn as_json(measured: &Measured, run: &Run) -> Result<Value, Failed> {
    let mut ceilings = Map::new();
    for (ceiling, figures, ratios) in &measured.ceilings {
        let name = serde_json::to_value(ceiling)?;
        let mut shown = serde_json::to_value(figures.shown())?;
        shown["ratios"] = ratios.shown();
        ceilings.insert(name.as_str().unwrap_or_default().to_owned(), shown);
    }
    Ok(json!({
        "scenario": measured.scenario.name(),
        "connections": run.load.connections,
        "seconds": run.load.seconds,
        "rate": run.load.rate,
        "limit": limit(&run.which),
        "server": measured.server.shown(),
        "ceilings": ceilings,
    }))
}
