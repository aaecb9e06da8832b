//! The frame of every page: head, navigation, status message and footer.

use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use super::form::FORM_TOKEN;
use super::session::Operator;

/// An entry of the navigation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Health,
    Users,
    Usage,
    Retention,
    Audit,
}

impl Section {
    const ALL: [Self; 5] = [Self::Health, Self::Users, Self::Usage, Self::Retention, Self::Audit];

    fn name(self) -> &'static str {
        match self {
            Self::Health => "Health",
            Self::Users => "Users",
            Self::Usage => "Usage",
            Self::Retention => "Retention",
            Self::Audit => "Audit",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Health => "/",
            Self::Users => "/users",
            Self::Usage => "/usage",
            Self::Retention => "/retention",
            Self::Audit => "/audit",
        }
    }
}

/// A page of HTML.
pub(super) struct Page(Markup);

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, "text/html; charset=utf-8")], self.0.into_string()).into_response()
    }
}

/// Makes a page of an operator. `title` is its heading, and `content` begins below that. The page takes the message that
/// [`Operator::tell`] left.
pub(super) fn page(operator: &Operator, section: Section, title: &str, content: &Markup) -> Page {
    let navigation = html! {
        nav aria-label="Main" {
            ul {
                @for one in Section::ALL {
                    li {
                        a href=(one.path()) aria-current=[(one == section).then_some("true")] { (one.name()) }
                    }
                }
            }
        }
        form.leave method="post" action="/leave" {
            (token_field(operator))
            button.plain { "Leave" }
        }
    };
    frame(title, &navigation, operator.take_message().as_deref(), content)
}

/// Makes a page for a browser that has not entered, or of a problem.
pub(super) fn bare_page(title: &str, content: &Markup) -> Page {
    frame(title, &html! {}, None, content)
}

fn frame(title: &str, navigation: &Markup, message: Option<&str>, content: &Markup) -> Page {
    Page(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · chatserver admin" }
                // Spares the request for an icon, which there is not.
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/admin.css";
            }
            body {
                a.skip href="#content" { "Skip to the content" }
                header {
                    p.name { "chatserver " span { "admin" } }
                    (navigation)
                }
                main id="content" tabindex="-1" {
                    @if let Some(message) = message {
                        p.message role="status" { (message) }
                    }
                    h1 { (title) }
                    (content)
                }
            }
        }
    })
}

/// Makes the hidden field that each form of a change must have.
pub(super) fn token_field(operator: &Operator) -> Markup {
    html! { input type="hidden" name=(FORM_TOKEN) value=(operator.form_token()); }
}

/// Leads a browser on after a change, so that reloading the page does not send the form again.
pub(super) fn see_other(path: &str) -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, path)]).into_response()
}
