//! Entering with a link, and leaving.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use maud::html;

use super::Admin;
use super::form::{Fields, Form};
use super::page::{Page, bare_page, see_other};
use super::problem::Problem;
use crate::domain::{AdminToken, Parse as _};

/// Shows a button that spends the link. Opening the link spends nothing: a browser may fetch it in advance.
pub(super) async fn offer(uri: Uri) -> Result<Page, Problem> {
    let token = AdminToken::parse(Fields::of_query(&uri).get("token")).ok_or_else(unusable)?;
    let content = html! {
        p { "This link opens the admin page for this browser. It works once." }
        form method="post" action="/enter" {
            input type="hidden" name="token" value=(token.as_str());
            button { "Enter" }
        }
    };
    Ok(bare_page("Enter", &content))
}

/// Spends the link and begins a session.
pub(super) async fn enter(
    State(admin): State<Arc<Admin>>,
    headers: HeaderMap,
    fields: Fields,
) -> Result<Response, Problem> {
    let made_by = match AdminToken::parse(fields.get("token")) {
        Some(token) => admin.app.store.spend_admin_link(&token, admin.app.clock.now()).await?,
        None => None,
    };
    let Some(made_by) = made_by else {
        admin.wrong_links.count(&()).map_err(Problem::too_many)?;
        tracing::warn!("admin page: a link that can't be used was refused");
        return Err(unusable());
    };
    admin.sessions.end(&headers);
    let (operator, cookie) = admin.sessions.begin(&headers, made_by);
    operator.log("entered");
    Ok(([(SET_COOKIE, cookie)], see_other("/")).into_response())
}

fn unusable() -> Problem {
    let sentence = "This link can't be used: it is used, expired or incomplete.";
    Problem::new(StatusCode::FORBIDDEN, sentence)
}

/// Ends the session.
pub(super) async fn leave(
    State(admin): State<Arc<Admin>>,
    headers: HeaderMap,
    form: Form,
) -> Response {
    let cookie = admin.sessions.end(&headers);
    form.operator.log("left");
    let content = html! {
        p { "To enter again, run " code { "chatserver admin link" } " on the server." }
    };
    ([(SET_COOKIE, cookie)], bare_page("You have left", &content)).into_response()
}
