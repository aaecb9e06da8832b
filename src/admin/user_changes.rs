//! Changes of an operator to a user: disabling, enabling, exporting and deleting.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::try_unfold;
use maud::{Markup, html};

use super::Admin;
use super::field::{Field, Wrong, refused};
use super::form::Form;
use super::page::{Page, Section, page, see_other, token_field};
use super::problem::Problem;
use super::session::Operator;
use super::table::{Column, table};
use super::users::path_of;
use crate::export::Export;
use crate::store::User;
use crate::users;

/// The effects of a deletion, as docs/operating.md#someone-leaves says them.
const AFTER_THE_DELETION: [(&str, &str); 5] = [
    ("address, names, API key, key pair, stations, positions", "gone"),
    (
        "friendships, friend requests and blocks, both ways",
        "gone; the other users' lists no longer have them",
    ),
    ("receipts of the user", "gone; those of others stay, with new IDs"),
    ("workspaces", "gone; their names are free"),
    (
        "conversations and messages",
        "stay readable for the other participant, who sees \"Deleted user\" under a random user id. A conversation whose two \
         participants are deleted is cleared.",
    ),
];

const CONFIRMATION: Field<'static> = Field {
    name: "email",
    label: "E-mail address of the user",
    hint: "Type the address of the user, as it is in the heading.",
    value: "",
};

/// Makes the buttons on the page of a user.
pub(super) fn buttons(operator: &Operator, user: &User) -> Markup {
    let path = path_of(user.id);
    let (action, name) =
        if user.is_disabled { ("enable", "Enable") } else { ("disable", "Disable") };
    html! {
        div.actions {
            form method="post" action=(format!("{path}/{action}")) {
                (token_field(operator))
                button.plain { (name) }
            }
            form method="post" action=(format!("{path}/export")) {
                (token_field(operator))
                button.plain { "Export" }
            }
            a.button href=(format!("{path}/delete")) { "Delete…" }
        }
        p.hint {
            @if user.is_disabled {
                "The user can't log in, and friends don't see them. Enabling brings everything back. "
            } @else {
                "Disabling throws out the running clients within 5 seconds and hides the user from friends. Conversations stay "
                "readable. "
            }
            "The export is a file of JSON with all that is held about the user, but for the API key."
        }
    }
}

pub(super) async fn disable(
    state: State<Arc<Admin>>,
    user: Path<String>,
    form: Form,
) -> Result<Response, Problem> {
    set_disabled(state, user, &form, true).await
}

pub(super) async fn enable(
    state: State<Arc<Admin>>,
    user: Path<String>,
    form: Form,
) -> Result<Response, Problem> {
    set_disabled(state, user, &form, false).await
}

async fn set_disabled(
    State(admin): State<Arc<Admin>>,
    Path(user): Path<String>,
    form: &Form,
    is_disabled: bool,
) -> Result<Response, Problem> {
    let user = users::find(&admin.app.store, &user).await?;
    let state = if is_disabled { "disabled" } else { "enabled" };
    let set = admin.app.store.set_disabled(user.id, is_disabled);
    if !form.operator.changes(&format!("{state} user {}", user.id), set).await? {
        return Err(users::UserError::NotFound(user.email.to_string()).into());
    }
    form.operator.tell(format!("{} is {state}.", user.email));
    Ok(see_other(&path_of(user.id)))
}

/// Sends the export as a file, piece by piece. If it fails on the way, the connection is cut, so that the browser tells a failed
/// download from a whole one.
pub(super) async fn export(
    State(admin): State<Arc<Admin>>,
    Path(user): Path<String>,
    form: Form,
) -> Result<Response, Problem> {
    let turn = admin.turn()?;
    let user = users::find(&admin.app.store, &user).await?;
    let export = Export::begin(&admin.app.store, user.id.as_str()).await?;
    form.operator.log(&format!("exports user {}", user.id));
    let pieces = try_unfold((admin, export, turn), async |(admin, mut export, turn)| match export
        .next(&admin.app.store)
        .await
    {
        Ok(piece) => Ok(piece.map(|piece| (piece, (admin, export, turn)))),
        Err(error) => {
            tracing::error!(%error, "export of a user on the admin page failed");
            Err(error)
        }
    });
    let disposition = format!("attachment; filename=\"user-{}.json\"", user.id);
    let headers =
        [(CONTENT_TYPE, "application/json".to_owned()), (CONTENT_DISPOSITION, disposition)];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// Explains a deletion, and asks for the address.
pub(super) async fn confirm(
    State(admin): State<Arc<Admin>>,
    operator: Operator,
    Path(user): Path<String>,
) -> Result<Page, Problem> {
    let user = users::find(&admin.app.store, &user).await?;
    Ok(confirmation(&operator, &user, &CONFIRMATION, None))
}

fn confirmation(
    operator: &Operator,
    user: &User,
    typed: &Field<'_>,
    wrong: Option<&Wrong>,
) -> Page {
    let path = path_of(user.id);
    let columns = ["Data", "After the deletion"].map(Column::Text);
    let rows = html! {
        @for (what, after) in AFTER_THE_DELETION {
            tr {
                th scope="row" { (what) }
                td { (after) }
            }
        }
    };
    let content = html! {
        p { "Deleting " strong { (user.email) } " can't be undone. To lock the user out for now, disable them instead." }
        (table("What goes, and what stays", &columns, &rows))
        p { "Backups from before still hold the user. After a restore, delete the user again." }
        form.fields method="post" action=(format!("{path}/delete")) {
            (token_field(operator))
            (typed.with(wrong))
            button.danger { "Delete for good" }
            p { a href=(path) { "Cancel" } }
        }
    };
    page(operator, Section::Users, &format!("Delete {}", user.email), &content)
}

/// Deletes a user, if the address was typed.
pub(super) async fn delete(
    State(admin): State<Arc<Admin>>,
    Path(user): Path<String>,
    form: Form,
) -> Result<Response, Problem> {
    let user = users::find(&admin.app.store, &user).await?;
    let typed = CONFIRMATION.typed(&form);
    if !users::confirms_deletion(typed.value, &user.email) {
        let sentence = "This is not the address of the user. Nothing was deleted.".to_owned();
        let wrong = Wrong { field: CONFIRMATION.name, sentence };
        return Ok(refused(confirmation(&form.operator, &user, &typed, Some(&wrong))));
    }
    let app = Arc::clone(&admin.app);
    let delete = async move { users::delete(&app.store, user.id).await };
    form.operator.completes(format!("deleted user {}", user.id), delete).await?;
    form.operator.tell(format!(
        "{} is deleted. Others keep their conversations, and see “{}”. Backups from before still hold the user.",
        user.email,
        users::DELETED_NICK
    ));
    Ok(see_other("/users"))
}
