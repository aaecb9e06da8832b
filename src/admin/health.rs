//! The start page: whether the server is ready, and what it is.

use std::sync::Arc;

use axum::extract::State;
use maud::html;

use super::Admin;
use super::figures;
use super::page::{Page, Section, page};
use super::session::Operator;
use crate::api;

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
    };
    page(&operator, Section::Health, "Health", &content)
}
