//! The metrics of the last hour, which the admin page draws. Samples are read from the metrics' text, so that both show the same.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Interval between two samples.
pub(crate) const SAMPLE_EVERY: Duration = Duration::from_secs(15);

/// Time for which samples are kept.
pub(crate) const KEPT: Duration = Duration::from_hours(1);

/// A figure that the samples measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Requests per second.
    Requests,
    /// Mean time of a commit, in seconds. None while nothing is committed.
    CommitTime,
    /// Changes that wait for the writer.
    Queue,
    /// Open listeners.
    Listeners,
    /// Free bytes of the disk. None with PostgreSQL, whose disk is elsewhere.
    FreeDisk,
}

/// A value of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) ago: Duration,
    pub(crate) value: f64,
}

/// Values at one moment; counters as they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sample {
    /// By the monotonic clock.
    at: Duration,
    requests: f64,
    commits: f64,
    commit_seconds: f64,
    queue: f64,
    listeners: f64,
    free_bytes: Option<f64>,
}

impl Sample {
    /// Reads metrics in Prometheus' text format. A metric that is missing has no value yet.
    fn read(text: &str, at: Duration) -> Self {
        let mut sample = Self { at, ..Self::default() };
        for line in text.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let name = series.split_once('{').map_or(series, |(name, _)| name);
            match name {
                "chatserver_requests_total" => sample.requests += value,
                "chatserver_store_commit_seconds_count" => sample.commits += value,
                "chatserver_store_commit_seconds_sum" => sample.commit_seconds += value,
                "chatserver_store_queue_depth" => sample.queue = value,
                "chatserver_listeners" => sample.listeners = value,
                "chatserver_store_free_bytes" => sample.free_bytes = Some(value),
                _ => {}
            }
        }
        sample
    }

    /// Returns a figure of the time since the sample before, or at the moment of this one.
    fn figure(self, figure: Figure, before: Option<Self>) -> Option<f64> {
        match figure {
            Figure::Requests => {
                let before = before?;
                let seconds = self.at.saturating_sub(before.at).as_secs_f64();
                (seconds > 0.0).then(|| (self.requests - before.requests) / seconds)
            }
            Figure::CommitTime => {
                let before = before?;
                let commits = self.commits - before.commits;
                (commits > 0.0).then(|| (self.commit_seconds - before.commit_seconds) / commits)
            }
            Figure::Queue => Some(self.queue),
            Figure::Listeners => Some(self.listeners),
            Figure::FreeDisk => self.free_bytes,
        }
    }
}

/// The samples of the last hour, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<VecDeque<Sample>>);

impl History {
    /// Adds a sample of these metrics, and drops those that are too old. `now` is the monotonic clock.
    pub(crate) fn record(&self, metrics: &str, now: Duration) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push_back(Sample::read(metrics, now));
        while samples.front().is_some_and(|sample| sample.at + KEPT < now) {
            samples.pop_front();
        }
    }

    /// Returns the values of a figure, the oldest first.
    pub(crate) fn points(&self, figure: Figure, now: Duration) -> Vec<Point> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = None;
        let mut points = Vec::with_capacity(samples.len());
        for sample in samples.iter().copied() {
            if let Some(value) = sample.figure(figure, before) {
                points.push(Point { ago: now.saturating_sub(sample.at), value });
            }
            before = Some(sample);
        }
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "\
# HELP chatserver_requests_total Requests by API, action and outcome
# TYPE chatserver_requests_total counter
chatserver_requests_total{api=\"chatconversation\",action=\"add\",outcome=\"OK\"} 10
chatserver_requests_total{api=\"login\",action=\"\",outcome=\"OK\"} 5

chatserver_store_commit_seconds_bucket{le=\"0.001\"} 1
chatserver_store_commit_seconds_sum 0.5
chatserver_store_commit_seconds_count 100
chatserver_store_queue_depth 7
chatserver_listeners_unsubscribed 3
";

    const SECOND: &str = "\
chatserver_requests_total{api=\"chatconversation\",action=\"add\",outcome=\"OK\"} 40
chatserver_requests_total{api=\"login\",action=\"\",outcome=\"OK\"} 5
chatserver_store_commit_seconds_sum 0.75
chatserver_store_commit_seconds_count 200
chatserver_store_queue_depth 0
chatserver_listeners 2
chatserver_store_free_bytes 1000000
";

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn counters_become_rates_and_means() {
        let history = History::default();
        history.record(FIRST, seconds(100));
        history.record(SECOND, seconds(115));
        let points = |figure| {
            let points = history.points(figure, seconds(120)).into_iter();
            points.map(|point| (point.ago.as_secs(), point.value)).collect::<Vec<_>>()
        };
        assert_eq!(points(Figure::Requests), [(5, 2.0)]);
        assert_eq!(points(Figure::CommitTime), [(5, 0.0025)]);
        assert_eq!(points(Figure::Queue), [(20, 7.0), (5, 0.0)]);
        assert_eq!(points(Figure::Listeners), [(20, 0.0), (5, 2.0)]);
        assert_eq!(points(Figure::FreeDisk), [(5, 1_000_000.0)]);
    }

    #[test]
    fn a_time_without_commits_has_no_commit_time() {
        let history = History::default();
        history.record(FIRST, seconds(100));
        history.record(FIRST, seconds(115));
        assert_eq!(history.points(Figure::CommitTime, seconds(115)), []);
    }

    #[test]
    fn samples_are_kept_for_an_hour() {
        let history = History::default();
        for n in 0..1000 {
            history.record(FIRST, SAMPLE_EVERY * n);
        }
        let points = history.points(Figure::Queue, SAMPLE_EVERY * 999);
        assert_eq!((points.len(), points[0].ago), (241, KEPT));
    }
}
