//! Invitations: the list, and inviting a person.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use maud::{Markup, html};

use super::Admin;
use super::field::{Field, Wrong, refused};
use super::form::Form;
use super::page::{Page, Section, page, see_other, token_field};
use super::problem::Problem;
use super::session::Operator;
use super::table::{Column, table};
use crate::config::Registration;
use crate::domain::{Email, Nick};
use crate::invitations::{self, Life, NewInvitation};
use crate::store::Invitation;
use crate::users::UserError;

const PATH: &str = "/invitations";

/// Maximum invitations on the page.
const SHOWN: usize = 200;

const EMAIL: Field<'static> = Field {
    name: "email",
    label: "E-mail address",
    hint: "The person registers with this address. Another invitation of it replaces the first one.",
    value: "",
};

const NICK: Field<'static> = Field {
    name: "nick",
    label: "Nick",
    hint: "The nick to propose; may be empty. The person may choose another one.",
    value: "",
};

const EXPIRES: Field<'static> = Field {
    name: "expires",
    label: "Life of the link",
    hint: "Minutes, hours or days up to 90d, such as 30m, 12h or 7d.",
    value: "7d",
};

/// Shows the form, and the invitations that can be used.
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    operator: Operator,
) -> Result<Page, Problem> {
    show(&admin, &operator, [&EMAIL, &NICK, &EXPIRES], None).await
}

async fn show(
    admin: &Admin,
    operator: &Operator,
    fields: [&Field<'_>; 3],
    wrong: Option<&Wrong>,
) -> Result<Page, Problem> {
    let open = admin.app.store.invitations(admin.app.clock.now()).await?;
    let content = html! {
        p { a href="/users" { "All users" } }
        h2 { "Invite a person" }
        @if is_closed(admin) {
            p {
                "Nobody can register: " code { "auth.registration" } " is " code { "closed" } ". Set it to " code { "invite" }
                " and restart the server. Until then the links of these invitations are refused, too."
            }
        } @else {
            form.fields method="post" action=(PATH) {
                (token_field(operator))
                @for field in fields { (field.with(wrong)) }
                button { "Invite" }
            }
        }
        h2 { "Open invitations" }
        (table_of(operator, &open))
    };
    Ok(page(operator, Section::Users, "Invitations", &content))
}

fn is_closed(admin: &Admin) -> bool {
    admin.app.config.auth.registration == Registration::Closed
}

fn table_of(operator: &Operator, open: &[Invitation]) -> Markup {
    let columns = ["Address", "Nick", "Invited (UTC)", "Expires (UTC)", "Action"].map(Column::Text);
    let rows = html! {
        @for invitation in open.iter().take(SHOWN) {
            tr {
                th scope="row" { (invitation.email) }
                td { (invitation.nick) }
                td { (invitation.created_at) }
                td { (invitation.expires_at) }
                td { (revoke_button(operator, invitation)) }
            }
        }
    };
    html! {
        @if open.is_empty() {
            p { "There are none." }
        } @else {
            (table("Invitations that can be used, by address", &columns, &rows))
            @if open.len() > SHOWN {
                p { "And " (open.len() - SHOWN) " more, which " code { "chatserver user invitations" } " lists." }
            }
        }
    }
}

fn revoke_button(operator: &Operator, invitation: &Invitation) -> Markup {
    html! {
        form method="post" action="/invitations/revoke" {
            (token_field(operator))
            input type="hidden" name="email" value=(invitation.email);
            button aria-label=(format!("Revoke the invitation of {}", invitation.email)) { "Revoke" }
        }
    }
}

/// Invites a person. The answer is the only page that has the link.
pub(super) async fn invite(
    State(admin): State<Arc<Admin>>,
    form: Form,
) -> Result<Response, Problem> {
    if is_closed(&admin) {
        return Ok(refused(list(State(admin), form.operator).await?));
    }
    let invited = match read(&form) {
        Ok((email, nick, life)) => {
            let (store, now) = (&admin.app.store, admin.app.clock.now());
            let invite = invitations::invite(store, &admin.app.public_url, email, nick, life, now);
            match form.operator.changes("invited a person", invite).await {
                Err(error @ UserError::EmailTaken(_)) => Err(Wrong {
                    field: EMAIL.name,
                    sentence: format!("Nobody was invited: {error}."),
                }),
                invited => Ok(invited?),
            }
        }
        Err(wrong) => Err(wrong),
    };
    match invited {
        Ok(invitation) => Ok(invited_page(&admin, &form.operator, &invitation).into_response()),
        Err(wrong) => {
            let fields = [&EMAIL.typed(&form), &NICK.typed(&form), &EXPIRES.typed(&form)];
            Ok(refused(show(&admin, &form.operator, fields, Some(&wrong)).await?))
        }
    }
}

fn read(form: &Form) -> Result<(Email, Option<Nick>, Life), Wrong> {
    let email = EMAIL.parsed(form)?;
    let has_nick = !form.field(NICK.name).trim().is_empty();
    let nick = has_nick.then(|| NICK.parsed(form)).transpose()?;
    Ok((email, nick, EXPIRES.parsed(form)?))
}

fn invited_page(admin: &Admin, operator: &Operator, invitation: &NewInvitation) -> Page {
    let NewInvitation { email, link, expires_at } = invitation;
    let content = html! {
        p.message role="status" { (email) " can register once, until " (expires_at) " UTC, with this link:" }
        p.secret { code { (link) } }
        p {
            "Copy it now: no page shows it again. Send it over a channel that only this person reads: the first one to open it "
            "is this user from then on."
        }
        @if !admin.app.config.http.web.is_on() {
            p.bad { (invitations::NO_WEB) "." }
        }
        p { a href=(PATH) { "All invitations" } }
    };
    page(operator, Section::Users, "Invitation", &content)
}

/// Revokes the invitation of an address.
pub(super) async fn revoke(
    State(admin): State<Arc<Admin>>,
    form: Form,
) -> Result<Response, Problem> {
    let revoked = match EMAIL.parsed::<Email>(&form) {
        Ok(email) => {
            let uninvite = admin.app.store.uninvite(&email, admin.app.clock.now());
            form.operator.changes("revoked an invitation", uninvite).await?
        }
        Err(_) => false,
    };
    let message = if revoked {
        "The invitation is revoked."
    } else {
        "There is no such invitation any more."
    };
    form.operator.tell(message);
    Ok(see_other(PATH))
}
