//! Line charts of the last hour, as SVG without scripts and without text: the text stands beside it, in the size of the page.

use std::fmt::Write as _;
use std::time::Duration;

use maud::{Markup, html};

use crate::telemetry::{KEPT, Point, SAMPLE_EVERY};

/// Units of the drawing, which the page stretches.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 100.0;

/// Longer gaps between two points are not drawn over.
const LONGEST_GAP: Duration = Duration::from_secs(2 * SAMPLE_EVERY.as_secs());

/// Makes a figure with a chart. `format` writes a value as people read it.
pub(super) fn chart(title: &str, points: &[Point], format: impl Fn(f64) -> String) -> Markup {
    let Some(last) = points.last() else {
        return html! {
            figure.chart {
                figcaption { strong { (title) } " no values in the last hour" }
            }
        };
    };
    let values = || points.iter().map(|point| point.value);
    let (lowest, highest) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    let summary = format!(
        "last {}, lowest {}, highest {}",
        format(last.value),
        format(lowest),
        format(highest)
    );
    html! {
        figure.chart {
            figcaption { strong { (title) } " " (summary) }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img"
                aria-label={ (title) ": " (summary) } {
                path.line d=(path(points, highest)) vector-effect="non-scaling-stroke" {}
            }
            p.axis aria-hidden="true" { span { "60 min ago" } span { "now" } }
        }
    }
}

/// Draws the points between 0 and `highest`.
fn path(points: &[Point], highest: f64) -> String {
    let mut path = String::new();
    let mut before: Option<Duration> = None;
    for Point { ago, value } in points {
        let x = WIDTH * (1.0 - ago.as_secs_f64() / KEPT.as_secs_f64()).max(0.0);
        let share = if highest > 0.0 { value / highest } else { 0.0 };
        // The line stays within the drawing at both ends.
        let y = HEIGHT - 2.0 - share * (HEIGHT - 4.0);
        let follows = before.is_some_and(|before| before.saturating_sub(*ago) <= LONGEST_GAP);
        let command = if follows { 'L' } else { 'M' };
        write!(path, "{command}{x:.1} {y:.1}").expect("writing to a string succeeds");
        if !follows {
            // A point by itself shows as a dot of the line's width.
            path.push_str("h.1");
        }
        before = Some(*ago);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(seconds_ago: u64, value: f64) -> Point {
        Point { ago: Duration::from_secs(seconds_ago), value }
    }

    #[test]
    fn a_line_spans_the_hour_and_leaves_gaps_out() {
        let points = [point(3600, 0.0), point(3585, 5.0), point(15, 10.0), point(0, 10.0)];
        assert_eq!(path(&points, 10.0), "M0.0 98.0h.1L2.5 50.0M597.5 2.0h.1L600.0 2.0");
    }

    #[test]
    fn a_chart_of_zeros_is_its_base_line() {
        assert_eq!(path(&[point(0, 0.0)], 0.0), "M600.0 98.0h.1");
    }

    #[test]
    fn a_chart_says_what_it_shows() {
        let text =
            chart("Requests", &[point(15, 1.0), point(0, 3.0)], |value| format!("{value}/s"));
        let text = text.into_string();
        let summary = "Requests: last 3/s, lowest 1/s, highest 3/s";
        assert!(text.contains(summary), "{text}");
        assert!(
            chart("Disk", &[], |_| String::new())
                .into_string()
                .contains("no values in the last hour")
        );
    }
}
