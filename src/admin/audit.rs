//! The audit log, newest first.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use maud::{Markup, html};
use url::form_urlencoded;

use super::Admin;
use super::form::Fields;
use super::page::{Page, Section, page};
use super::problem::Problem;
use super::session::Operator;
use super::table::{Column, table};
use super::users::link_to;
use crate::domain::{Parse as _, Timestamp};
use crate::store::{AuditEntry, AuditQuery, AuditStart, AuditedUser, Named};

/// Entries of a page.
const AT_ONCE: u32 = 50;

/// The filter of an operator, as it was typed.
struct Filter {
    user: String,
    /// A day, or nothing.
    since: String,
}

impl Filter {
    /// Returns the first second of the day. `Err` where the text is no day.
    fn beginning(&self) -> Result<Option<Timestamp>, ()> {
        if self.since.is_empty() {
            return Ok(None);
        }
        Timestamp::parse(&format!("{} 00:00:00", self.since)).map(Some).ok_or(())
    }

    fn page_before(&self, before: i64) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("user", &self.user).append_pair("since", &self.since);
        format!("/audit?{}", query.append_pair("before", &before.to_string()).finish())
    }
}

pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    operator: Operator,
    uri: Uri,
) -> Result<Page, Problem> {
    let fields = Fields::of_query(&uri);
    let text = |name| fields.get(name).trim().to_owned();
    let filter = Filter { user: text("user"), since: text("since") };
    let beginning = filter.beginning();
    let user = AuditedUser::named(&filter.user);
    let query = AuditQuery {
        since: beginning.unwrap_or_default(),
        user: user.as_ref(),
        start: AuditStart::NewestBefore(fields.get("before").parse().unwrap_or(i64::MAX)),
        most: AT_ONCE + 1,
    };
    // A filter may read the whole log.
    let is_filtered = query.user.is_some() || query.since.is_some();
    let _turn = is_filtered.then(|| admin.turn()).transpose()?;
    // A text that is neither an address nor an ID finds nothing.
    let finds = filter.user.is_empty() || user.is_some();
    let mut entries = if finds { admin.app.store.audit(query).await? } else { Vec::new() };
    let has_more = entries.len() > AT_ONCE as usize;
    entries.truncate(AT_ONCE as usize);
    let content = html! {
        form.search method="get" action="/audit" role="search" {
            span.field {
                label for="user" { "Address or id of a user" }
                input id="user" name="user" value=(filter.user) autocomplete="off";
            }
            span.field {
                label for="since" { "Since" }
                input id="since" name="since" type="date" value=(filter.since);
            }
            button { "Show" }
        }
        @if beginning.is_err() {
            p.bad { "Since must be a day such as 2024-03-08. All days are shown." }
        }
        @if entries.is_empty() { p { "There are no such entries." } } @else { (table_of(&entries)) }
        @if let Some(last) = entries.last().filter(|_| has_more) {
            p { a href=(filter.page_before(last.number)) { "Earlier entries" } }
        }
    };
    Ok(page(&operator, Section::Audit, "Audit", &content))
}

fn table_of(entries: &[AuditEntry]) -> Markup {
    let columns = ["Date (UTC)", "Action", "Concerns", "By"].map(Column::Text);
    let rows = html! {
        @for entry in entries {
            tr {
                td { (entry.date()) }
                th scope="row" { (entry.action.replace('_', " ")) }
                td { (concerned(entry)) }
                td { (actor(entry)) }
            }
        }
    };
    let caption = "What was done to accounts, keys, friendships and retention, newest first";
    table(caption, &columns, &rows)
}

fn concerned(entry: &AuditEntry) -> Markup {
    let people = [entry.subject(), entry.other()].into_iter().flatten();
    html! {
        @for (n, named) in people.enumerate() {
            @if n > 0 { " and " }
            (link(named))
        }
        (entry.invited)
        @if let Some(id) = &entry.conversation_id { " conversation " code { (id) } }
        @if !entry.details.is_empty() { " " span.hint { (entry.details) } }
    }
}

fn actor(entry: &AuditEntry) -> Markup {
    html! {
        (entry.via)
        @if let Some(named) = entry.actor() { ", " (link(named)) }
        @for more in [&entry.operator, &entry.address] {
            @if !more.is_empty() { ", " (more) }
        }
    }
}

/// Makes a link to the page of a user. A deleted user has none, and is shown by the id that is left.
fn link(Named { id, email }: Named<'_>) -> Markup {
    html! {
        @if email.is_empty() { code { (id) } } @else { (link_to(email)) }
    }
}
