//! Measurements: latencies, errors, CPU time and memory.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::usage::Usage;

/// Significant digits of latencies, which are recorded in microseconds.
const DIGITS: u8 = 3;

/// Latencies and errors of requests, and what they cost the server.
pub struct Figures {
    /// Duration of the measurement. Zero for figures that are only added to others.
    time: Duration,
    latencies: Histogram<u64>,
    answer_bytes: u64,
    errors: BTreeMap<String, u64>,
    cpu: Option<Duration>,
    rss: Option<[u64; 2]>,
}

impl Figures {
    pub fn new(time: Duration) -> Self {
        let latencies = Histogram::new(DIGITS).expect("three digits are allowed");
        let errors = BTreeMap::new();
        Self { time, latencies, answer_bytes: 0, errors, cpu: None, rss: None }
    }

    /// Counts a request that was answered OK: its latency and the bytes of the body.
    pub fn count_ok(&mut self, took: Duration, bytes: usize) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.latencies.record(micros).expect("the histogram grows");
        self.answer_bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    }

    /// Counts a failed request.
    pub fn count_error(&mut self, error: impl Into<String>) {
        *self.errors.entry(error.into()).or_default() += 1;
    }

    /// Returns the sum of all rounds.
    pub fn sum(rounds: &[Self]) -> Self {
        let mut sum = Self::new(Duration::ZERO);
        for round in rounds {
            sum.add(round);
        }
        sum
    }

    /// Adds figures measured at the same time, whose duration is zero, or in another round.
    pub fn add(&mut self, other: &Self) {
        self.time += other.time;
        self.latencies.add(&other.latencies).expect("the histogram grows");
        self.answer_bytes += other.answer_bytes;
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
        self.cpu = match (self.cpu, other.cpu) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
        self.rss = match (self.rss, other.rss) {
            (Some([before, _]), Some([_, after])) => Some([before, after]),
            (one, other) => one.or(other),
        };
    }

    /// Sets the server's CPU time within the measurement, and its memory before the first request and at the end.
    pub fn used(&mut self, before: Option<Usage>, measured: Option<(Usage, Usage)>) {
        if let Some((begin, end)) = measured {
            self.cpu = Some(end.cpu.saturating_sub(begin.cpu));
            self.rss = before.map(|before| [before.rss, end.rss]);
        }
    }

    /// Whether there was an answer and all were OK.
    pub fn are_ok(&self) -> bool {
        self.errors.is_empty() && !self.latencies.is_empty()
    }

    pub fn per_second(&self) -> f64 {
        as_f64(self.latencies.len()) / self.time.as_secs_f64()
    }

    /// Returns the latency in milliseconds that so many percent of the requests did not exceed.
    pub fn percentile(&self, percent: f64) -> f64 {
        as_f64(self.latencies.value_at_percentile(percent)) / 1000.0
    }

    /// Returns the server's CPU time per request in microseconds.
    pub fn cpu_micros(&self) -> Option<f64> {
        let cpu = self.cpu?.as_secs_f64() * 1e6;
        (!self.latencies.is_empty()).then(|| cpu / as_f64(self.latencies.len()))
    }

    /// Returns the figures as they are printed.
    pub fn summary(&self) -> Summary {
        let requests = self.latencies.len();
        Summary {
            requests,
            per_second: round(self.per_second()),
            p50_ms: self.percentile(50.0),
            p95_ms: self.percentile(95.0),
            p99_ms: self.percentile(99.0),
            max_ms: as_f64(self.latencies.max()) / 1000.0,
            answer_bytes: self.answer_bytes.checked_div(requests).unwrap_or(0),
            errors: self.errors.clone(),
            cpu_micros: self.cpu_micros().map(round),
            rss_before: self.rss.map(|[before, _]| before),
            rss_after: self.rss.map(|[_, after]| after),
        }
    }
}

/// Figures as the table and the JSON show them.
#[derive(Clone, Serialize)]
pub struct Summary {
    /// Number of answers that were OK.
    pub requests: u64,
    pub per_second: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// Mean bytes of a body.
    pub answer_bytes: u64,
    /// Failed requests by errorcode, by status, or by a word of this program such as `unanswered`.
    pub errors: BTreeMap<String, u64>,
    /// The server's CPU time per request, in microseconds.
    pub cpu_micros: Option<f64>,
    /// The server's memory in bytes, before the first request and at the end.
    pub rss_before: Option<u64>,
    pub rss_after: Option<u64>,
}

/// Rounds to one decimal.
fn round(figure: f64) -> f64 {
    (figure * 10.0).round() / 10.0
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub fn as_f64(count: u64) -> f64 {
    count as f64
}
