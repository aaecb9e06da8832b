//! Retention: the settings, a dry run, and the rule of one conversation.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use maud::{Markup, html};

use super::Admin;
use super::field::{Field, Wrong, refused};
use super::figures;
use super::form::{Fields, Form};
use super::page::{Page, Section, page, see_other, token_field};
use super::problem::Problem;
use super::session::Operator;
use super::table::{Column, table};
use super::usage::{SHOWN, conversation, pair};
use crate::config::MAX_RETENTION_DAYS;
use crate::domain::{ConversationId, Retention};
use crate::retention::{self, Keep, Report};
use crate::store::Removed;

const PATH: &str = "/retention";

const CONVERSATION: Field<'static> = Field {
    name: "conversation",
    label: "Conversation id",
    hint: "The page Usage and the dry run show ids.",
    value: "",
};

const DAYS: Field<'static> =
    Field { name: "days", label: "Days", hint: "Only for “for this many days”.", value: "" };

/// The field with the choice, and the choices.
const KEEP: &str = "keep";
const CHOICES: [(&str, &str); 3] =
    [("days", "for this many days"), ("forever", "for ever"), ("default", "as the settings say")];

/// Shows the settings and both forms. The query may name a conversation.
pub(super) async fn show(State(admin): State<Arc<Admin>>, operator: Operator, uri: Uri) -> Page {
    let fields = Fields::of_query(&uri);
    let named = Field { value: fields.get(CONVERSATION.name), ..CONVERSATION };
    overview(&admin, &operator, [&named, &DAYS], "", None)
}

fn overview(
    admin: &Admin,
    operator: &Operator,
    [id, days]: [&Field<'_>; 2],
    chosen: &str,
    wrong: Option<&Wrong>,
) -> Page {
    let content = html! {
        h2 { "Settings" }
        (settings(admin.app.config.retention.rule()))
        h2 { "Dry run" }
        p { "Counts what is due at this moment, and removes nothing. With many messages it takes a while." }
        form method="post" action="/retention/preview" {
            (token_field(operator))
            button { "Count what is due" }
        }
        h2 { "Rule of one conversation" }
        p {
            "It comes before " code { "retention.days" } ", and takes effect without a restart. Messages that are older are "
            "removed within two hours, for good."
        }
        form.fields method="post" action="/retention/rule" {
            (token_field(operator))
            (id.with(wrong))
            (choices(chosen, wrong))
            (days.with(wrong))
            button { "Set the rule" }
        }
    };
    page(operator, Section::Retention, "Retention", &content)
}

fn settings(Retention { days, honours_valid_until }: Retention) -> Markup {
    html! {
        dl {
            dt { code { "retention.days" } }
            dd {
                (days) ": "
                @if days == 0 { "messages are kept for ever" }
                @else { "messages are removed " (days) " days after the server accepted them" }
            }
            dt { code { "retention.valid_until" } }
            dd {
                (honours_valid_until) ": "
                @if honours_valid_until { "a message ends with the " code { "ValidUntil" } " of its sender" }
                @else { "the " code { "ValidUntil" } " of a message ends nothing" }
            }
        }
    }
}

fn choices(chosen: &str, wrong: Option<&Wrong>) -> Markup {
    let wrong = wrong.filter(|wrong| wrong.field == KEEP);
    html! {
        fieldset aria-describedby=[wrong.map(|_| "keep-wrong")] {
            legend { "Keep its messages" }
            @for (value, label) in CHOICES {
                div.choice {
                    input type="radio" id=(format!("{KEEP}-{value}")) name=(KEEP) value=(value) checked[value == chosen];
                    label for=(format!("{KEEP}-{value}")) { (label) }
                }
            }
            @if let Some(wrong) = wrong {
                p.bad id="keep-wrong" role="alert" { (wrong.sentence) }
            }
        }
    }
}

/// Shows what a sweep at this moment would remove.
pub(super) async fn preview(State(admin): State<Arc<Admin>>, form: Form) -> Result<Page, Problem> {
    let _turn = admin.turn()?;
    let rule = admin.app.config.retention.rule();
    let report = retention::preview(&admin.app.store, rule, admin.app.clock.now(), SHOWN).await?;
    let content = html! {
        (in_words(report.total))
        @if !report.conversations.is_empty() { (table_of(&report)) }
        p { a href=(PATH) { "Back to retention" } }
    };
    Ok(page(&form.operator, Section::Retention, "Dry run of retention", &content))
}

fn in_words(Removed { messages, emptied, bytes }: Removed) -> Markup {
    html! {
        @if messages == 0 && emptied == 0 {
            p { "Nothing is due." }
        } @else {
            p {
                "To be removed: messages: " (messages) ". To be emptied: " (emptied) ". Data: " (figures::bytes(bytes)) "."
            }
            p.hint { "An emptied message loses its data, and goes when it is the oldest of its conversation." }
        }
    }
}

fn table_of(report: &Report) -> Markup {
    let columns = [
        Column::Text("Conversation"),
        Column::Text("Users"),
        Column::Number("Removed"),
        Column::Number("Emptied"),
        Column::Number("Data"),
    ];
    let rows = html! {
        @for (id, emails, removed) in &report.conversations {
            tr {
                th scope="row" { (conversation(*id)) }
                td { (pair(emails)) }
                td.number { (removed.messages) }
                td.number { (removed.emptied) }
                td.number { (figures::bytes(removed.bytes)) }
            }
        }
    };
    html! {
        (table("Conversations that lose messages, most data first", &columns, &rows))
        @if report.more > 0 {
            p {
                "And " (report.more) " more, which " code { "chatserver retention --dry-run" } " lists."
            }
        }
    }
}

/// Sets the rule of one conversation.
pub(super) async fn set_rule(
    State(admin): State<Arc<Admin>>,
    form: Form,
) -> Result<Response, Problem> {
    let wrong = match read(&form) {
        Ok((id, keep)) => {
            let set = admin.app.store.set_retention(id, keep.stored());
            if form
                .operator
                .changes(&format!("set the retention of conversation {id}"), set)
                .await?
            {
                form.operator.tell(format!("Conversation {id} keeps its messages {keep}."));
                return Ok(see_other(PATH));
            }
            let sentence = format!("There is no conversation {id}. Nothing was changed.");
            Wrong { field: CONVERSATION.name, sentence }
        }
        Err(wrong) => wrong,
    };
    let fields = [&CONVERSATION.typed(&form), &DAYS.typed(&form)];
    let chosen = form.field(KEEP);
    Ok(refused(overview(&admin, &form.operator, fields, chosen, Some(&wrong))))
}

fn read(form: &Form) -> Result<(ConversationId, Keep), Wrong> {
    let id = CONVERSATION.parsed(form)?;
    let days = form.field(DAYS.name).trim();
    let keep = match form.field(KEEP) {
        "days" => days.parse().ok().and_then(Keep::days).ok_or_else(|| {
            DAYS.wrong(&format!("must be a whole number from 1 to {MAX_RETENTION_DAYS}"))
        })?,
        "forever" | "default" if !days.is_empty() => {
            return Err(DAYS.wrong("must be empty for this choice"));
        }
        "forever" => Keep::ForEver,
        "default" => Keep::Default,
        _ => {
            let sentence = "Choose how long the conversation keeps its messages.".to_owned();
            return Err(Wrong { field: KEEP, sentence });
        }
    };
    Ok((id, keep))
}
