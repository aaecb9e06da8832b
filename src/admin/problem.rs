//! Requests that are not carried out, as pages in plain English.

use std::borrow::Cow;
use std::error::Error as _;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{HeaderValue, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use maud::html;

use super::page::bare_page;
use crate::api;
use crate::error::{Error, whole_seconds};
use crate::store;
use crate::users::UserError;

/// Why a request is not carried out.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    sentence: Cow<'static, str>,
    retry_after: Option<Duration>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self { status, sentence: sentence.into(), retry_after: None }
    }

    /// The request comes without a session, or with one that has ended.
    pub(super) fn not_entered() -> Self {
        let sentence = "You have not entered, or your session has ended.";
        Self::new(StatusCode::FORBIDDEN, sentence)
    }

    pub(super) fn too_many(retry_after: Duration) -> Self {
        let seconds = whole_seconds(retry_after);
        let sentence = format!("Too many wrong links. Try again in {seconds} s.");
        let retry_after = Some(retry_after);
        Self { retry_after, ..Self::new(StatusCode::TOO_MANY_REQUESTS, sentence) }
    }

    fn title(&self) -> &'static str {
        match self.status {
            StatusCode::FORBIDDEN => "No entry",
            StatusCode::NOT_FOUND => "Not found",
            _ => "That did not work",
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = api::status(&error);
        if status.is_server_error() {
            let cause = error.source();
            tracing::error!(%error, cause, "request of the admin page failed");
        }
        let mut sentence = error.to_string();
        if let Some(first) = sentence.get(..1).map(str::to_uppercase) {
            sentence.replace_range(..1, &first);
        }
        Self::new(status, sentence + ".")
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<UserError> for Problem {
    fn from(error: UserError) -> Self {
        match error {
            UserError::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "There is no such user."),
            UserError::Store(error) => error.into(),
            UserError::Keys(error) => Error::from(error).into(),
            UserError::Refused(refusal) => Error::from(refusal).into(),
            other => {
                let sentence = format!("Nothing was changed: {other}.");
                Self::new(StatusCode::CONFLICT, sentence)
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let content = html! {
            p { (self.sentence) }
            @if self.status == StatusCode::FORBIDDEN {
                p {
                    "To enter, run " code { "chatserver admin link" }
                    " on the server and open the link that it prints. It works once, within ten minutes."
                }
            } @else {
                p { a href="/" { "Go to the start page" } }
            }
        };
        let mut response = bare_page(self.title(), &content).into_response();
        *response.status_mut() = self.status;
        if let Some(after) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
        }
        response
    }
}
