//! The start page: whether the server is ready, and what it is.

use std::sync::Arc;

use axum::extract::State;
use maud::{Markup, html};

use super::Admin;
use super::chart::chart;
use super::figures;
use super::page::{Page, Section, page};
use super::session::Operator;
use crate::api;
use crate::app::App;
use crate::telemetry::Figure;

pub(super) async fn show(State(admin): State<Arc<Admin>>, operator: Operator) -> Page {
    let app = &admin.app;
    let (status, readiness) = api::readiness(app).await;
    let uptime = app.clock.read().monotonic.saturating_sub(admin.started);
    let content = html! {
        @if status.is_success() && readiness.trim() == "OK" {
            p.good { "The server is ready." }
        } @else if status.is_success() {
            p.bad { "The server is ready, but: " (readiness) }
        } @else {
            p.bad { "The server is not ready: " (readiness) }
        }
        dl {
            dt { "Version" }
            dd { (env!("CARGO_PKG_VERSION")) }
            dt { "Clients reach it at" }
            dd { (app.public_url) }
            dt { "Database" }
            dd { (app.config.database.url) }
            dt { "Time of the server (UTC)" }
            dd { (app.clock.now()) }
            dt { "Running for" }
            dd { (figures::duration(uptime)) }
        }
        h2 { "The last hour" }
        (charts(app))
    };
    page(&operator, Section::Health, "Health", &content)
}

fn charts(app: &App) -> Markup {
    let now = app.clock.read().monotonic;
    let draw = |title: &str, figure, format: fn(f64) -> String| {
        chart(title, &app.history.points(figure, now), format)
    };
    let count = |value: f64| format!("{value:.0}");
    html! {
        div.charts {
            (draw("Requests per second", Figure::Requests, |value| format!("{value:.1}")))
            (draw("Time of a commit", Figure::CommitTime, |value| format!("{:.1} ms", value * 1000.0)))
            (draw("Changes in the queue", Figure::Queue, count))
            (draw("Listeners", Figure::Listeners, count))
            @if !app.store.has_nodes() {
                (draw("Free disk", Figure::FreeDisk, figures::size))
            }
        }
    }
}
