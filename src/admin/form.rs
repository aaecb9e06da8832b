//! Forms that a browser sends: from the page itself, within bounds, and of the session that they claim.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode, Uri};
use url::form_urlencoded;

use super::Admin;
use super::problem::Problem;
use super::session::Operator;
use crate::api::body::{Unreceived, receive};

/// Maximum bytes of a form. The longest field is a name.
const MAX_BYTES: usize = 16 * 1024;

/// The field with the token of the session.
pub(super) const FORM_TOKEN: &str = "formtoken";

/// A form that a page of this operator's session has sent. Take it as the last argument of a handler of a change.
pub(super) struct Form {
    pub(super) operator: Operator,
    fields: Fields,
}

impl Form {
    /// Returns a field as it was typed, or an empty text.
    pub(super) fn field(&self, name: &str) -> &str {
        self.fields.get(name)
    }
}

impl FromRequest<Arc<Admin>> for Form {
    type Rejection = Problem;

    async fn from_request(request: Request, admin: &Arc<Admin>) -> Result<Self, Problem> {
        let operator = admin.sessions.operator(request.headers());
        let fields = Fields::from_request(request, admin).await?;
        let operator = operator.ok_or_else(Problem::not_entered)?;
        let (sent, right) = (fields.get(FORM_TOKEN).as_bytes(), operator.form_token().as_bytes());
        if verify_slices_are_equal(sent, right).is_err() {
            let sentence = "This form is not one of your session. Nothing was changed.";
            return Err(Problem::new(StatusCode::FORBIDDEN, sentence));
        }
        Ok(Self { operator, fields })
    }
}

/// The fields of a form. As an argument of a handler: of one that a page of this origin has sent, with or without a session.
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads the fields of a form that only asks, from the query of its address.
    pub(super) fn of_query(uri: &Uri) -> Self {
        Self::of(uri.query().unwrap_or_default().as_bytes())
    }

    fn of(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(one, _)| one == name).map_or("", |(_, value)| value)
    }
}

impl FromRequest<Arc<Admin>> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, admin: &Arc<Admin>) -> Result<Self, Problem> {
        let (head, body) = request.into_parts();
        if is_foreign(&head.headers) {
            let sentence = "Another site has sent this form. Nothing was changed.";
            return Err(Problem::new(StatusCode::FORBIDDEN, sentence));
        }
        if !is_form(&head.headers) {
            let sentence = "Only forms of this page are taken.";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, sentence));
        }
        let mut received = match receive(&admin.app, &head, body, MAX_BYTES, None).await {
            Ok(received) => received,
            Err(Unreceived::Refused(error)) => return Err(error.into()),
            Err(Unreceived::Late) => {
                let sentence = "The form did not arrive in time.";
                return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, sentence));
            }
        };
        let (bytes, _) = received.parts();
        Ok(Self::of(bytes))
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let essence = text(headers, CONTENT_TYPE.as_str()).and_then(|text| text.split(';').next());
    essence.is_some_and(|one| one.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
}

/// Whether a page of another origin has sent a request. Each browser sends at least one of the two headers with a form.
/// The session's token covers a program that sends neither.
fn is_foreign(headers: &HeaderMap) -> bool {
    let is_other_site =
        headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none");
    let is_other_origin = headers.contains_key(ORIGIN) && !is_own_origin(headers);
    is_other_site || is_other_origin
}

/// Whether `Origin` has the host and the port of `Host`. The scheme may differ: a proxy may add TLS.
fn is_own_origin(headers: &HeaderMap) -> bool {
    let origin = text(headers, ORIGIN.as_str()).and_then(|origin| origin.split_once("://"));
    match (origin, text(headers, HOST.as_str())) {
        (Some((_, origin)), Some(host)) => origin.eq_ignore_ascii_case(host),
        _ => false,
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
