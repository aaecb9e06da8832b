//! Usage: the space of the database, and who takes it.

use std::sync::Arc;

use axum::extract::State;
use maud::{Markup, html};

use super::Admin;
use super::figures;
use super::page::{Page, Section, page};
use super::problem::Problem;
use super::session::Operator;
use super::table::{Column, table};
use super::users::link_to;
use crate::domain::ConversationId;
use crate::store::{ConversationSpace, DatabaseSize, Space};
use crate::usage::{Report, UserSpace};

/// Maximum rows of a list.
pub(super) const SHOWN: usize = 50;

pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    operator: Operator,
) -> Result<Page, Problem> {
    let _turn = admin.turn()?;
    let report = Report::read(&admin.app.store, SHOWN).await?;
    let content = html! {
        (totals(&report))
        h2 { "Users" }
        (users(&report.users))
        h2 { "Conversations" }
        (conversations(&report.conversations))
    };
    Ok(page(&operator, Section::Usage, "Usage", &content))
}

fn totals(report: &Report) -> Markup {
    let (users, conversations, Space { bytes, messages, reports }) = report.total;
    html! {
        dl {
            @match report.size {
                DatabaseSize::File { bytes, free_bytes, log_bytes } => {
                    dt { "Database file" }
                    dd { (size(bytes)) ", of which " (size(free_bytes)) " are free" }
                    dt { "Its log" }
                    dd { (size(log_bytes)) }
                }
                DatabaseSize::Server { bytes } => {
                    dt { "Database" }
                    dd { (size(bytes)) }
                }
            }
            dt { "Users" }
            dd { (users) }
            dt { "Conversations" }
            dd { (conversations) }
            dt { "Messages" }
            dd { (messages) ", with " (figures::bytes(bytes)) " of data" }
            dt { "Reports" }
            dd { (reports) }
        }
        p.hint { "A conversation counts for both of its users, so the sums of users exceed the total." }
    }
}

fn size(bytes: u64) -> String {
    figures::bytes(i64::try_from(bytes).unwrap_or(i64::MAX))
}

fn users(users: &[UserSpace]) -> Markup {
    let columns = [
        Column::Text("Address"),
        Column::Number("Conversations"),
        Column::Number("Messages"),
        Column::Number("Reports"),
        Column::Number("Data"),
    ];
    let caption = format!("Users with the most data, at most {SHOWN}");
    let rows = html! {
        @for UserSpace { email, conversations, space } in users {
            tr {
                th scope="row" { (link_to(email)) }
                td.number { (conversations) }
                (cells_of_space(*space))
            }
        }
    };
    html! {
        @if users.is_empty() {
            p { "There are no users." }
        } @else {
            (table(caption, &columns, &rows))
        }
    }
}

fn conversations(conversations: &[([String; 2], ConversationSpace)]) -> Markup {
    let columns = [
        Column::Text("Conversation"),
        Column::Text("Users"),
        Column::Number("Messages"),
        Column::Number("Reports"),
        Column::Number("Data"),
    ];
    let caption = format!("Conversations with the most data, at most {SHOWN}");
    let rows = html! {
        @for (emails, ConversationSpace { id, space, .. }) in conversations {
            tr {
                th scope="row" { (conversation(*id)) }
                td { (pair(emails)) }
                (cells_of_space(*space))
            }
        }
    };
    html! {
        @if conversations.is_empty() {
            p { "There are no conversations." }
        } @else {
            (table(caption, &columns, &rows))
        }
    }
}

/// Makes a link to the rule of a conversation.
pub(super) fn conversation(id: ConversationId) -> Markup {
    html! { a href=(format!("/retention?conversation={id}")) { code { (id) } } }
}

/// Makes links to the users of a conversation.
pub(super) fn pair(emails: &[String]) -> Markup {
    html! {
        @for (number, email) in emails.iter().enumerate() {
            @if number > 0 { ", " }
            (link_to(email))
        }
    }
}

fn cells_of_space(Space { bytes, messages, reports }: Space) -> Markup {
    html! {
        td.number { (messages) }
        td.number { (reports) }
        td.number { (figures::bytes(bytes)) }
    }
}
