//! Ratios of the server's figures to those of a ceiling.

use serde_json::{Value, json};

use super::figures::Figures;

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

    /// Returns the ratios as they are printed, rounded to hundredths.
    pub fn to_json(&self) -> Value {
        let to_hundredths = |ratio: f64| (ratio * 100.0).round() / 100.0;
        json!({
            "per_second": to_hundredths(self.per_second),
            "p99": to_hundredths(self.p99),
            "cpu": self.cpu.map(to_hundredths),
        })
    }
}

/// Returns the median, or the upper of two middle figures.
fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}
